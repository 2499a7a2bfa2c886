"""Libraries neither report to their makers nor fill logs with bars and notices; what is said is what a person would write.

    QUIET          variables for processes that are started from here
    quiet()        the same for this process, before it imports those libraries
    plain_logs()   without the lines in which Prefect names functions of this project
"""

import logging
import os
import sys
import warnings
from collections.abc import Mapping

QUIET: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DISABLE_SAFETENSORS_CONVERSION": "true",
}
"""The last one: transformers would ask its hub, in the background, to convert a model's pickled weights, which are refused."""
_MACHINERY = ("Running hook '_", "Hook '_")


def quiet() -> None:
    """Set what is not set. Bars stay in a terminal, where somebody looks at them."""
    bars = {"HF_HUB_DISABLE_PROGRESS_BARS"} if sys.stderr is not None and sys.stderr.isatty() else set()
    for name, value in QUIET.items():
        if name not in bars:
            os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # between libraries, of no use to a person


def plain_logs() -> None:
    """Leave out that hooks of this project run, from now on; called again it changes nothing."""
    for name in ("prefect.flow_runs", "prefect.engine"):
        logger = logging.getLogger(name)
        if _says_something not in logger.filters:
            logger.addFilter(_says_something)


def _says_something(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_MACHINERY)

"""pytest tests/tasks/runtime/test_quiet.py — processes of this project contact nobody outside and draw no bars into logs."""

import logging
import os
import subprocess
import sys
from pathlib import Path

from infra.services import describe
from infra.state import open_state
from tasks.runtime.quiet import QUIET, plain_logs, quiet

PROGRAM = """
import flows.parameters
from huggingface_hub.utils import are_progress_bars_disabled
from huggingface_hub.constants import HF_HUB_DISABLE_TELEMETRY
from mlflow.telemetry.utils import is_telemetry_disabled
from prefect._internal.analytics.enabled import is_telemetry_enabled
from transformers.utils import logging
print(are_progress_bars_disabled(), HF_HUB_DISABLE_TELEMETRY, is_telemetry_disabled(), is_telemetry_enabled(),
      logging.get_verbosity(), logging.is_progress_bar_enabled())
"""


def test_a_flow_switches_off_what_libraries_send_and_draw():
    kept = ("PATH", "HOME", "LANG", "OMP_NUM_THREADS")
    environ = {name: os.environ[name] for name in kept if name in os.environ}
    home = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, cwd=home, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "True", "True", "False", "40", "False"], done.stderr[-2000:]


def test_what_somebody_set_stays(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    quiet()
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info" and os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_every_server_is_told(tmp_path):
    state = open_state(tmp_path / "state", home=tmp_path)
    for name in ("prefect", "mlflow", "worker"):
        environ = describe(name, state, {"PATH": os.environ["PATH"]}).environ
        assert {variable: environ.get(variable) for variable in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")} == {
            "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
        }  # fmt: skip
    prefect = describe("prefect", state, {"PATH": os.environ["PATH"]}).environ
    assert prefect["PREFECT_SERVER_ANALYTICS_ENABLED"] == prefect["PREFECT_SERVER_UI_V2_ENABLED"] == "false"
    assert prefect["PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT"] == "false"
    assert QUIET.items() <= state.client_variables({}).items()


def test_hooks_of_this_project_are_not_announced():
    plain_logs()
    plain_logs()
    lines = ("Running hook '_arrive' in", "Hook '_leave' finished running", "Running hook 'mine' in", "done")
    for name in ("prefect.flow_runs", "prefect.engine"):
        logger = logging.getLogger(name)
        said = [line for line in lines if logger.filter(logger.makeRecord(name, logging.INFO, "", 0, line, (), None))]
        assert said == ["Running hook 'mine' in", "done"]

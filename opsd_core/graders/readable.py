"""Whether a data set can be read and its answers judged, before a run waits in a queue or a model is loaded."""

from collections.abc import Sequence

from opsd_core.config import DataConfig
from opsd_core.config.kinds.sources import SOURCE_KINDS
from opsd_core.data import load_examples
from opsd_core.data.files import source_files
from opsd_core.data.others import check_columns
from opsd_core.graders import check_gradable, grader_name

MOST_BYTES = 64 << 20
"""Of files that are read twice for it; larger ones are refused, if at all, when they are read for good."""


def check_readable(config: DataConfig, graded: bool = True, slices: Sequence[str] = ()) -> None:
    """Read local files of at most MOST_BYTES as a campaign will. DataError as `load_examples` and `check_gradable`.

    Other sources are left alone. `graded`: whether anybody will judge answers to it. `slices`: columns that its held-out items
    must have.
    """
    if config.kind is not SOURCE_KINDS["files"]:
        return
    files = source_files(config.source)
    if not all(file.is_file() for file in files) or sum(file.stat().st_size for file in files) > MOST_BYTES:
        return
    data = load_examples(config, also=slices)
    check_columns(slices, data.validation, config.source)
    if graded:
        labelled = [example for split in (data.train, data.validation, data.test) for example in split if example.answer]
        check_gradable(labelled, grader_name(config))

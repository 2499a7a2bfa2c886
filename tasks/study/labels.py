"""The training split of an arm that has fewer labelled examples than there are."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from opsd_core.errors import DataError
from opsd_core.records.examples import read_examples, write_examples
from tasks.context import local, produce
from tasks.refs import Ref
from tasks.study.refs import Study


def labelled_part(study: Study, number: int | None) -> Ref:
    """The study's data with the first `number` training examples by id, held-out splits unchanged; None = as it is.

    Smaller parts lie inside larger ones. DataError when there are not that many.
    """
    if number is None:
        return study.data
    identity = {"of": study.data.identity, "train": number}
    return Ref(uri=produce("datasets", identity, partial(_cut, study, number))[0].uri)


def _cut(study: Study, number: int, folder: Path) -> dict[str, Any]:
    whole = local(study.data)
    train = sorted(read_examples(whole / "train.parquet"), key=lambda example: example.id)
    if len(train) < number:
        raise DataError(
            f"an arm asks for {number} labelled examples, the training split has {len(train)}. Raise data.size."
        )
    write_examples(folder / "train.parquet", train[:number])
    for split in ("validation", "test"):
        shutil.copy(whole / f"{split}.parquet", folder / f"{split}.parquet")
    return {"sizes": {"train": number}}

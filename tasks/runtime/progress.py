"""Progress of long stages as a Prefect progress artifact, one per stage of a run, and as a line where a terminal shows it."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.runtime import flow_run, task_run
from tqdm import tqdm

_MIN_SECONDS = 2.0
"""Seconds between updates: each one is an API call."""
_PART = re.compile(r"-(shard\d+|champion-v\w+|candidate)$")
"""End of a task run's name that says which part of its stage it is."""
_KNOWN: dict[tuple[str, str], UUID] = {}
"""(flow run, key) -> the artifact."""


@contextmanager
def progress(campaign: str, title: str, unit: str, part: tuple[int, int] = (0, 1)) -> Iterator[Callable[[int, int], None]]:
    """Yields `report(done, total)`. The artifact appears once a stage has run for two seconds; short ones need none.

    Its key is `opsd-<campaign>-<stage>`, of which the parts of a stage, such as shards, share one; `part` is (which, of how
    many). `title` stands in the log, and for the stage where no task runs.
    """
    stage = _PART.sub("", task_run.name or title)
    artifact = _Shown(artifact_key(f"opsd-{campaign}-{stage}"), f"{stage} of {campaign}: {unit} done")
    bar = tqdm(desc=title, unit=f" {unit}", mininterval=_MIN_SECONDS, dynamic_ncols=True, disable=None)

    def report(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)  # which counts nothing where no terminal is
        which, of = part
        artifact.show(100.0 * (which + done / max(total, 1)) / max(of, which + 1))

    try:
        yield report
    finally:
        bar.close()
        artifact.finish()


class _Shown:
    """The artifact of one stage, made when it is first worth while and found again by the stage's next part or start."""

    def __init__(self, key: str, description: str) -> None:
        self.key, self.description = key, description
        self._last, self._percent, self._shown = time.monotonic(), 0.0, False

    def show(self, percent: float) -> None:
        self._percent = percent
        if time.monotonic() - self._last >= _MIN_SECONDS:
            self._publish()

    def finish(self) -> None:
        if self._shown:
            self._publish()

    def _publish(self) -> None:
        self._last, self._shown = time.monotonic(), True
        place = (str(flow_run.id), self.key)
        found = _KNOWN.get(place) or _stored(*place)
        if found is None:
            found = create_progress_artifact(self._percent, key=self.key, description=self.description)
        else:
            update_progress_artifact(found, self._percent)
        _KNOWN[place] = found


def _stored(run: str, key: str) -> UUID | None:
    """The artifact that an earlier start of this run, or another of its processes, made."""
    if run in ("None", ""):
        return None
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]), key=ArtifactFilterKey(any_=[key])
        )
        found = client.read_artifacts(artifact_filter=wanted, limit=1)
    return found[0].id if found else None


def artifact_key(text: str) -> str:
    """`text` as Prefect accepts it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]", "-", text.lower())

"""How far a campaign is, from what Prefect knows: its task runs, their progress artifacts, and its reports."""

import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import Artifact, FlowRun, TaskRun
from prefect.client.schemas.sorting import ArtifactSort, TaskRunSort

from opsd_core.config import CampaignConfig

WORDS = {
    "rollout": "sampling",
    "judge-rollouts": "looking whether completions can be kept",
    "grade": "grading",
    "score-targets": "asking the teacher",
    "distil": "training",
    "evaluate": "evaluating",
    "register": "registering",
    "prepare-guards": "loading the guards",
    "set-anchor": "looking for the anchor",
    "answer-guards": "answering the guards",
    "gate": "deciding",
    "report": "reporting",
    "choose-prompts": "choosing prompts",
    "prepare-model": "loading the model and checking it against itself",
    "prepare-data": "loading the data",
    "prepare-teachers": "loading the teachers",
    "preflight": "checking the settings",
    "warm-start": "looking for a warm start",
    "start-campaign": "opening the campaign",
    "open-iteration": "opening the iteration",
    "probe-teacher": "probing the teacher",
    "write-answers": "writing the page of answers",
    "close-campaign": "writing the campaign's report",
    "recover": "answering an alarm",
    "rehearse": "answering the prompts to rehearse",
    "dry-run": "trying a few prompts",
}
"""Tasks of the flow, as people say it; others keep their names."""
_SHARES = {"rollout": 0.35, "score-targets": 0.1, "distil": 0.3, "evaluate": 0.2, "report": 0.05}
"""Of an iteration's time, on two cores. The time that is left is measured, not taken from here."""
_SAMPLED_AHEAD = ("choose-prompts", "rollout")
"""With execution.overlap these are done in the iteration before the one that they are of."""
_NAMED = re.compile(r"(?P<stage>[a-z-]+?)(-it(?P<iteration>\d+)\b.*)?")
_PROGRESS = re.compile(rf"-(?P<stage>{'|'.join(_SHARES)})-it(?P<iteration>\d+)$")
_REPORT = re.compile(r"Version (?P<version>\d+) (?P<outcome>.+); accuracy (?P<before>\S+) → (?P<after>\S+)")


@dataclass(frozen=True)
class Report:
    """An iteration that has ended."""

    iteration: int
    version: int
    outcome: str
    """`promoted` or what stands instead."""
    before: str
    after: str
    """Held-out accuracies, `unknown` without labels."""
    markdown: str

    @property
    def promoted(self) -> bool:
        return self.outcome == "promoted"

    def __str__(self) -> str:
        return f"iteration {self.iteration}: version {self.version} {self.outcome}, accuracy {self.before} → {self.after}"


Place = tuple[str, int | None]
"""Stage and iteration."""


@dataclass
class Progress:
    """How far one run is."""

    iterations: int = 1
    """Of the whole campaign."""
    expected: Mapping[str, int] = field(default_factory=dict)
    """Calls of each stage per iteration."""
    mode: str = ""
    """promotion.mode; empty where the settings are not known here."""
    ahead: bool = False
    """execution.overlap."""
    stage: str = ""
    iteration: int | None = None
    """None before the first one."""
    percent: float | None = None
    """Of the stage: of all its shards together."""
    done: float = 0.0
    """Of the campaign, from 0 to 1."""
    reports: list[Report] = field(default_factory=list)
    _shown: tuple[str, int | None] = ("", None)
    """Stage and iteration that `percent` is of."""
    _began: tuple[float, float] | None = None

    @classmethod
    def of(cls, config: CampaignConfig) -> "Progress":
        """Of a campaign that has not begun."""
        shards = min(config.execution.num_shards, config.rollout.num_prompts)
        targets = shards if config.distillation.records_targets else 0
        expected = {"rollout": shards, "score-targets": targets, "distil": 1, "evaluate": 2, "report": 1}
        return cls(config.iterations, expected, config.promotion.mode, config.execution.overlap)

    def read(self, client: SyncPrefectClient, run: FlowRun) -> None:
        """Ask the server."""
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        tasks = client.read_task_runs(flow_run_filter=only, sort=TaskRunSort.EXPECTED_START_TIME_DESC, limit=200)
        of_run = ArtifactFilterFlowRunId(any_=[run.id])
        kinds = ArtifactFilterType(any_=["progress", "markdown"])
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=of_run, type=kinds), sort=ArtifactSort.CREATED_DESC, limit=200
        )
        self.reports = sorted(filter(None, map(_report, artifacts)), key=lambda report: report.iteration)
        shown = [(_PROGRESS.search(a.key or ""), a.data) for a in artifacts if a.type == "progress"]
        self._place(tasks, {(key["stage"], int(key["iteration"])): float(percent) for key, percent in shown if key})

    def _place(self, tasks: list[TaskRun], percents: Mapping[Place, float]) -> None:
        """`percents`: of whole stages, all their parts together."""
        running = [task for task in tasks if task.state and task.state.is_running()]
        completed: dict[Place, float] = defaultdict(float)
        ended = set()
        for task in tasks:
            if task.state is not None and task.state.is_completed():
                ended.add(task.name)  # a run that resumes calls its finished tasks again
            stage, iteration = stage_of(task.name)
            if iteration is not None and not (self.ahead and iteration and stage in _SAMPLED_AHEAD):
                self.iteration = max(self.iteration or 0, iteration)
        for name in ended:
            completed[stage_of(name)] += 1.0
        for stage, number in list(completed):
            if stage == "grade":  # what is graded is there, whether it was sampled in this iteration or not
                completed["rollout", number] = max(completed["rollout", number], self.expected.get("rollout", 1))
        for stage, percent in percents.items():
            completed[stage] = max(completed[stage], percent / 100 * self.expected.get(stage[0], 1))
        if running:
            self._at(running[0], completed, percents)
        if self.iteration is not None:
            now = self.iteration + self._of_iteration(completed, self.iteration)
            self.done = max(self.done, min(1.0, now / self.iterations))
        if self._began is None and self.stage in _SHARES:
            self._began = (time.monotonic(), self.done)

    def _at(self, task: TaskRun, completed: Mapping[Place, float], percents: Mapping[Place, float]) -> None:
        """Take the stage of a running task, and how much of it is done; within one stage that never falls."""
        stage = stage_of(task.name)
        number = self.expected.get(stage[0], 1)
        percent = percents.get(stage) if number == 1 else 100 * min(1.0, completed[stage] / number)
        known = [value for value in (percent, self.percent if stage == self._shown else None) if value is not None]
        self.stage, self._shown, self.percent = stage[0], stage, max(known, default=None)

    def _of_iteration(self, completed: Mapping[Place, float], number: int) -> float:
        shares = {stage: share for stage, share in _SHARES.items() if self.expected.get(stage)}
        parts = (share * min(1, completed.get((s, number), 0) / self.expected[s]) for s, share in shares.items())
        return sum(parts) / sum(shares.values()) if shares else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the time since the first stage was seen; None while there is little to go by."""
        if self._began is None or self.done - self._began[1] < 0.03:
            return None
        return (time.monotonic() - self._began[0]) / (self.done - self._began[1]) * (1 - self.done)

    def line(self) -> str:
        """What is done now, in one line."""
        percent = "" if self.percent is None else f" {self.percent:.0f} %"
        of = "" if self.iteration is None else f"iteration {self.iteration + 1} of {self.iterations}: "
        accuracy = f", accuracy so far {self.reports[-1].after}" if self.reports else ""
        return f"{of}{WORDS.get(self.stage, self.stage) or 'starting'}{percent}{accuracy}"

    def left(self) -> str:
        """The time that is left, in words; empty while nobody knows."""
        seconds = self.seconds_left
        if seconds is None or self.done >= 1:
            return ""
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {max(seconds, 1):.0f} s left"


def stage_of(name: str) -> tuple[str, int | None]:
    """Stage and iteration of a task run: ("rollout", 2) for rollout-it2-shard0, ("preflight", None) for preflight-a1b."""
    match = _NAMED.fullmatch(name)
    if match is None or match["iteration"] is None:
        return re.sub(r"-[0-9a-f]{3}$", "", name), None
    return match["stage"], int(match["iteration"])


def _report(artifact: Artifact) -> Report | None:
    match = _REPORT.match(artifact.description or "")
    number = re.search(r"-it(\d+)$", artifact.key or "")
    if match is None or number is None:
        return None
    return Report(int(number[1]), int(match["version"]), match["outcome"], match["before"], match["after"], str(artifact.data))

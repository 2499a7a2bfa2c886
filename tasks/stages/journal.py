"""The journal of an iteration's optimiser steps: what is stored of them, what MLflow has, which alarms were raised."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from opsd_core.errors import AlarmError
from opsd_core.selection.monitors import Metrics
from opsd_core.training.alarms import find_alarms
from tasks.context import local, scratch, store, tracker
from tasks.refs import Iteration, Ref
from tasks.stages.watch import sound
from tasks.storage.artifacts import artifact_key, find, publish

_SEND_EVERY = 10
"""Optimiser steps between metric batches: live curves without a call per step."""


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """The metrics of every step of a stored journal."""
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def step_alarms(iteration: Iteration, state: Ref) -> list[str]:
    """The alarms of a finished iteration's optimiser steps in words, each at the first step that raised it."""
    steps, found = read_steps(local(state)), {}
    for number in range(1, len(steps) + 1):
        for alarm in find_alarms(iteration.config.alarms, "step", steps[:number]):
            found.setdefault(alarm.name, f"{alarm.name} at step {steps[number - 1]['step']}: {alarm.message}")
    return list(found.values())


def read_probes(folder: Path) -> Metrics:
    """What the probes before the first step measured."""
    return json.loads((folder / "probes.json").read_text())


class Journal:
    """Steps of one iteration so far, in this process and in those before it that were killed."""

    def __init__(self, iteration: Iteration, identity: dict[str, Any], report: Callable[[int, int], None]) -> None:
        self.iteration, self.identity, self.report = iteration, identity, report
        self.steps: list[dict[str, Any]] = []
        self.probes: Metrics = {}
        self.resumed_from = self._latest_checkpoint()
        if self.resumed_from is not None:
            self.steps, self.probes = read_steps(self.resumed_from), read_probes(self.resumed_from)
            get_run_logger().info("resuming after optimiser step %d of this iteration", len(self.steps))
        self._unsent, self._sounded = self._before()

    def _latest_checkpoint(self) -> Path | None:
        """The newest checkpoint of the same work, whatever execution.checkpoint_every was when it was written."""
        steps = range(self.iteration.config.optimizer.num_steps - 1, 0, -1)
        stored = {"/".join(info.key.split("/")[:2]) for info in store().list("checkpoints/")}
        for identity in ({"distil": self.identity, "step": step} for step in steps):
            if artifact_key("checkpoints", identity) in stored and (found := find(store(), "checkpoints", identity)):
                return local(found.uri)
        return None

    def _before(self) -> tuple[list[tuple[int, Metrics]], set[str]]:
        """What MLflow should have of the steps before a resumption, and the alarms that were raised in them.

        The killed process may have sent it or not; what is there already is skipped, and only if it goes out first.
        """
        rows: list[tuple[int, Metrics]] = []
        sounded: set[str] = set()
        for number, step in enumerate(self.steps, 1):
            new = {alarm.name for alarm in find_alarms(self.iteration.config.alarms, "step", self.steps[:number])} - sounded
            sounded |= new
            values = {name: value for name, value in step.items() if name != "step"}
            rows.append((step["step"], values | {f"alarms/{name}": 1.0 for name in new}))
        return rows, sounded

    def on_step(self, step: int, metrics: Metrics) -> None:
        """Add a step. AlarmError when it passes a limit and alarms.remedy is not warn; what was made is stored first."""
        # Times differ between runs: MLflow gets them, the stored journal does not, so that equal work is equal bytes.
        self.steps.append({"step": step} | {name: value for name, value in metrics.items() if not name.startswith("time/")})
        self._unsent.append((step, metrics))
        self.report(len(self.steps), self.iteration.config.optimizer.num_steps)
        self._watch()
        if len(self._unsent) >= _SEND_EVERY:
            self._send()

    def _send(self) -> None:
        tracker().log_metrics(self.iteration.run_id, self._unsent)
        self._unsent.clear()

    def _watch(self) -> None:
        found = find_alarms(self.iteration.config.alarms, "step", self.steps)
        new = [alarm for alarm in found if alarm.name not in self._sounded]
        if not new:
            return
        self._sounded.update(alarm.name for alarm in new)
        self._unsent.append((self.steps[-1]["step"], {f"alarms/{alarm.name}": 1.0 for alarm in new}))
        self._send()
        try:
            sound(self.iteration, new)
        except AlarmError:
            with scratch() as part:
                self.write(part)
                done = len(self.steps)
                publish(store(), "stopped", {"distil": self.identity, "step": done}, part, {"step": done})
            raise

    def say_probes(self) -> None:
        """What the probes measured, in the run's log."""
        said = ", ".join(f"{name} {value:.4g}" for name, value in sorted(self.probes.items()))
        get_run_logger().info("before the first step: %s", said)

    def on_checkpoint(self, done: int, save: Callable[[Path], None]) -> None:
        """Store the trainer's state after `done` steps, with the journal."""
        with scratch() as part:
            save(part)
            self.write(part)
            publish(store(), "checkpoints", {"distil": self.identity, "step": done}, part, {"step": done})

    def write(self, folder: Path) -> None:
        """Steps and probes as files."""
        (folder / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in self.steps))
        (folder / "probes.json").write_text(json.dumps(self.probes))


def sound_found(iteration: Iteration, state: Ref) -> None:
    """Look at the steps of a state that was found, perhaps made under other limits. AlarmError as `Journal.on_step`."""
    steps, sounded = read_steps(local(state)), set[str]()
    for number in range(1, len(steps) + 1):
        new = [a for a in find_alarms(iteration.config.alarms, "step", steps[:number]) if a.name not in sounded]
        sounded |= {alarm.name for alarm in new}
        if new:
            sound(iteration, new)


def send_all(iteration: Iteration, state: Ref) -> list[dict[str, Any]]:
    """The steps of a finished iteration, which MLflow has afterwards, whoever made them."""
    steps = read_steps(local(state))
    rows = [(step["step"], {name: value for name, value in step.items() if name != "step"}) for step in steps]
    tracker().log_metrics(iteration.run_id, rows)
    return steps

"""What the processes of one distillation are given, and what they say: files in a folder.

    job.json            settings, folders of the models, where to begin        events.jsonl       what the first process says
    items.safetensors   training items                                         failed-<rank>.json  what ended a process
    held.safetensors    references and rehearsed completions of each step      log.txt            output of all of them
    alive               a pipe that the starter holds open while it lives      state/, <steps>/   the trainer's states

Nothing here is pickled, and nothing names a store or a tracker.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opsd_core.config import CampaignConfig
from opsd_core.errors import TrainingError
from opsd_core.teacher.parts import Models
from opsd_core.training.anchors import Anchors, Held, held_gold, held_rehearsal, own_batch_size
from opsd_core.training.items import TrainingItem
from opsd_core.training.parallel.items_file import StoredItems, write_items
from opsd_core.training.trainer import NOTHING_LEFT, Schedule, batch_order

_KINDS = {"anchor/gold_nll": held_gold, "anchor/rehearsal_kl": held_rehearsal}


@dataclass(frozen=True)
class StoredPolicy:
    """A policy's folder, and the JSON of what its acceptance chose."""

    folder: str
    acceptance: str = ""


@dataclass(frozen=True)
class Probes:
    """What is measured before the first step: rows of the items, and their reference answers' token ids."""

    rows: list[int]
    answers: list[list[int]]
    trained_before: bool


@dataclass(frozen=True)
class Job:
    """One iteration's optimiser steps."""

    config: CampaignConfig
    models: Models[StoredPolicy]
    schedule: Schedule
    seed: int
    parallel: str
    """ddp or fsdp."""
    checkpointing: bool = False
    offload: bool = False
    """With fsdp: what is trained lives in the host's memory."""
    initial_anchor: bool = False
    """The initial policy holds the student (distillation.initial_kl above 0)."""
    start_from: str | None = None
    resume_from: str | None = None
    probes: Probes | None = None
    most_tokens: int | None = None
    """Padded tokens of a microbatch that the memory allows; None until it did not suffice."""

    def write(self, folder: Path) -> None:
        """Without items and anchors, which `write_work` writes."""
        models = {name: getattr(self.models, name) for name in ("initial", "champion")}
        facts = {
            "config": self.config.model_dump(mode="json"),
            "models": {name: asdict(policy) for name, policy in models.items()},
            "others": [asdict(policy) for policy in self.models.others],
            "schedule": asdict(self.schedule),
            "probes": asdict(self.probes) if self.probes else None,
        }
        plain = ("seed", "parallel", "checkpointing", "offload", "initial_anchor", "start_from", "resume_from", "most_tokens")
        (folder / "job.json").write_text(json.dumps(facts | {name: getattr(self, name) for name in plain}))

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """What `write` wrote."""
        facts = json.loads((folder / "job.json").read_text())
        first = {name: StoredPolicy(**known) for name, known in facts.pop("models").items()}
        others = tuple(StoredPolicy(**known) for known in facts.pop("others"))
        return cls(
            config=CampaignConfig.model_validate(facts.pop("config")),
            models=Models(others=others, **first),
            schedule=Schedule(**facts.pop("schedule")),
            probes=Probes(**known) if (known := facts.pop("probes")) else None,
            **facts,
        )


def write_work(folder: Path, items: Sequence[TrainingItem], anchors: Anchors, job: Job) -> None:
    """The items that the steps of this iteration train on or look at, and what each step is held to besides.

    TrainingError when there is no item.
    """
    if not items:
        raise TrainingError(NOTHING_LEFT)
    order = batch_order(len(items), own_batch_size(job.config), job.config.optimizer.num_steps, job.seed)
    probed = job.probes.rows if job.probes else []
    write_items(folder / "items.safetensors", items, [row for rows in (*order, probed) for row in rows])
    held = [item for step in anchors.by_step for part in step for item in part.items]
    if held:
        write_items(folder / "held.safetensors", held, range(len(held)))
        steps = [[[part.metric, len(part.items)] for part in step] for step in anchors.by_step]
        (folder / "held.json").write_text(json.dumps(steps))


def read_anchors(folder: Path, config: CampaignConfig) -> Anchors:
    """The anchors of each step, without the initial policy."""
    if not (folder / "held.json").exists():
        return Anchors()
    items, start = StoredItems(folder / "held.safetensors"), 0
    by_step: list[tuple[Held, ...]] = []
    for step in json.loads((folder / "held.json").read_text()):
        parts = []
        for metric, size in step:
            parts.append(_KINDS[metric](items[start : start + size], config))
            start += size
        by_step.append(tuple(parts))
    return Anchors(by_step=tuple(by_step))


def tell(folder: Path, **event: Any) -> None:
    """Add an event for the starter: one line, whole or not at all."""
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


def heard(folder: Path, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The events after the first `start` bytes, each with the place behind it."""
    path = folder / "events.jsonl"
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            yield start, json.loads(line)


"""Optimiser steps in several processes that this one starts, hears and ends: files go in, files come out."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from prefect.logging import get_run_logger

from opsd_core.errors import ModelError
from opsd_core.models.memory import wants_checkpointing, wants_offload, wants_sharding
from opsd_core.models.policy import Policy, resolve_device
from opsd_core.models.storage.skeleton import outline
from opsd_core.teacher.parts import Models, models_that_teach
from opsd_core.training.anchors import Anchors
from opsd_core.training.items import TrainingItem
from opsd_core.training.parallel.job import Job, Probes, StoredPolicy, write_work
from opsd_core.training.parallel.launcher import check_ranks, train_together
from opsd_core.training.trainer import Schedule
from tasks.context import local, scratch
from tasks.refs import Iteration, PolicyRef
from tasks.stages.journal import Journal


def student_outline(iteration: Iteration) -> Policy | None:
    """The student without its weights, which the processes load; None where this process trains it alone.

    They are for several ranks, and for what is offloaded. ConfigError when there are not enough devices.
    """
    execution, model = iteration.config.execution, iteration.config.model
    check_ranks(execution.ranks, model, bool(execution.offload))
    if execution.ranks > 1 or execution.offload:
        return outline(local(iteration.campaign.initial), model)
    if execution.offload is None and resolve_device(model).type == "cuda":
        with suppress(ModelError):  # an architecture that has no outline is trained here
            made = outline(local(iteration.campaign.initial), model)
            return made if wants_offload(made, iteration.config) else None
    return None


class Settings(NamedTuple):
    """What the trainer of an iteration needs besides its configuration and its items."""

    tokens: int
    """In the largest forward pass."""
    seed: int
    answers: list[list[int]]
    """Token ids of the reference answers of the items that the probes look at; empty without labels."""


def distil_together(
    iteration: Iteration, journal: Journal, items: Sequence[TrainingItem], anchors: Anchors, job: Job, folder: Path
) -> dict[str, Any]:
    """Run the steps of `job`; the final state lies in `folder` afterwards. Returns how it was computed."""
    logger, ranks, peak = get_run_logger(), iteration.config.execution.ranks, 0
    logger.info("distilling in %d processes (%s%s)", ranks, job.parallel, ", offloaded" if job.offload else "")
    with scratch() as work:
        write_work(work, items, anchors, job)

        def hear(event: dict[str, Any]) -> None:
            nonlocal peak
            match event["kind"]:
                case "step":
                    journal.on_step(event["step"], event["metrics"])
                case "probes":
                    journal.probes |= event["metrics"]
                    journal.say_probes()
                case "checkpoint":
                    journal.on_checkpoint(event["done"], _copying(work / str(event["done"])))
                case "again":
                    tokens = event["microbatch_tokens"]
                    logger.warning("out of memory: again from the last checkpoint, microbatches of %d tokens", tokens)
                case "done":
                    peak = event["peak_bytes"]

        train_together(job, work, ranks, hear)
        _copying(work / "state")(folder)
    how = {"ranks": ranks, "parallel": job.parallel, "peak_bytes_of_a_rank": peak}
    return how | ({"offload": True} if job.offload else {})


def _copying(stored: Path) -> Callable[[Path], None]:
    """A function that puts a stored state into a folder."""

    def copy(folder: Path) -> None:
        shutil.copytree(stored, folder, dirs_exist_ok=True)

    return copy


def job_of(iteration: Iteration, student: Policy, given: Settings, probed: list[int], resume_from: Path | None) -> Job:
    """What the processes are given; `probed`: rows of the items that the probes look at."""
    config, state = iteration.config, iteration.policy.state
    steps, tokens = config.optimizer.num_steps, given.tokens
    parallel, offload = config.execution.parallel, wants_offload(student, config)
    if offload:
        parallel = "fsdp"
    elif parallel == "auto":
        parallel = "fsdp" if wants_sharding(student, config, tokens) else "ddp"
    return Job(
        config=config,
        models=_models(iteration),
        schedule=Schedule(iteration.number * steps, config.iterations * steps),
        seed=given.seed,
        parallel=parallel,
        checkpointing=wants_checkpointing(student, config, tokens, "offload" if offload else parallel),
        offload=offload,
        initial_anchor=config.distillation.initial_kl > 0,
        start_from=str(local(state)) if state else None,
        resume_from=str(resume_from) if resume_from else None,
        probes=Probes(probed, given.answers, trained_before=state is not None),
    )


def _models(iteration: Iteration) -> Models[StoredPolicy]:
    """Local folders of the first policy and of the models that teach; the others are not asked for."""
    initial = iteration.campaign.initial
    named = Models(initial, iteration.champion, iteration.teachers)
    wanted = {ref.uri for ref in (initial, *models_that_teach(iteration.config, named))}

    def stored(ref: PolicyRef) -> StoredPolicy:
        return StoredPolicy(str(local(ref)), ref.acceptance) if ref.uri in wanted else StoredPolicy("")

    return Models(stored(initial), stored(iteration.champion), [stored(ref) for ref in iteration.teachers])


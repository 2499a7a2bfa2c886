"""Train the candidate of an iteration: optimiser steps on stored rollouts, resumable at every checkpoint."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from opsd_core.config import ModelConfig
from opsd_core.digest import derive_seed
from opsd_core.models.checkpointing import checkpoint_gradients
from opsd_core.models.memory import estimate_of_training, wants_checkpointing
from opsd_core.models.policy import Policy, add_lora, dtype_identity, training_dtype
from opsd_core.models.storage.serving import served_settings
from opsd_core.records.examples import Example
from opsd_core.teacher.kinds import teacher_in_training
from opsd_core.teacher.teachers import NoTeacher, TeacherWeights
from opsd_core.training.anchors import own_batch_size
from opsd_core.training.checkpoint import load_trainable
from opsd_core.training.importance import check_staleness
from opsd_core.training.items import Recorded, TrainingItem, answer_ids, stored_items
from opsd_core.training.monitors import last_quarter
from opsd_core.training.probes import run_probes
from opsd_core.training.trainer import Schedule, batch_order, distil
from tasks.context import local, produce, tracker
from tasks.loaded import grades_of, load, release, rollouts_of, stored_examples, targets_of
from tasks.refs import DistilRef, Iteration, PolicyRef, Ref, Sampled
from tasks.runtime.progress import progress
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.anchors import anchors_identity, load_anchors
from tasks.stages.journal import Journal, read_probes, send_all, sound_found, step_alarms
from tasks.stages.rollout import computed
from tasks.stages.teacher import grades_for_context, prompts_of, teacher_parts, teacher_ref
from tasks.stages.training.candidate import write_candidate
from tasks.stages.training.together import Settings, distil_together, job_of, student_outline

_PROBE_ITEMS = 32
"""Completions the probes look at."""


@task(name="distil", task_run_name="distil-it{iteration.number}", **STAGE)
def distil_candidate(iteration: Iteration, sampled: Sampled) -> DistilRef:
    """The candidate's weights and trainer state after this iteration's optimiser steps."""
    sampled_in = [shard.iteration for shard in sampled.shards]
    check_staleness(sampled_in, iteration.number, iteration.config.token_weights.max_staleness)
    identity = distil_identity(iteration, sampled)
    trained: list[Policy] = []  # stays empty when the state is there already, or other processes made it
    made, seconds = produce("states", identity, partial(_distil, iteration, sampled, identity, trained))
    state = Ref(uri=made.uri)
    if seconds == 0:
        sound_found(iteration, state)
    stored = {"state": made.digest, "served": served_settings(iteration.config)}
    model, _ = produce("models", stored, partial(_export, iteration, state, trained))
    return DistilRef(
        policy=PolicyRef(uri=model.uri, digest=model.digest, state=state, acceptance=iteration.campaign.initial.acceptance),
        metrics=last_quarter(send_all(iteration, state)),
        probes=read_probes(local(state)),
        alarms=step_alarms(iteration, state),
        seconds=seconds,
    )


def distil_identity(iteration: Iteration, sampled: Sampled) -> dict[str, Any]:
    """What decides the trainer state after an iteration's optimiser steps."""
    config, policy = iteration.config, iteration.policy
    online = not (config.distillation.records_targets or config.distillation.teacher_free)
    pool = {"data": iteration.campaign.data.identity} if online else {}  # contexts may show any item of the training split
    return {
        "policy": policy.digest,
        "state": policy.state.content if policy.state else None,
        "initial": iteration.campaign.initial.digest,
        "teacher": teacher_ref(iteration).digest,
        "rollouts": [shard.digest for shard in sampled.shards],
        "grades": sampled.graded.digest,
        "targets": [target.digest for target in sampled.targets],
        "method": {
            name: getattr(config, name).identity()
            for name in ("teacher", "distillation", "token_weights", "optimizer", "prompts")
        },
        "model": {"lora": _lora_identity(config.model), "dtype": dtype_identity(config.model)},
        "iterations": config.iterations,
        "iteration": iteration.number,
        "seed": config.seed,
        "control": config.control,
    } | pool | anchors_identity(iteration)


def _lora_identity(model: ModelConfig) -> dict[str, Any]:
    """The adapters' settings; the precision below them where it is not the usual one."""
    usual = model.lora.base_dtype == "float32"
    return model.lora.model_dump(exclude={"base_dtype"} if usual else None)


def _distil(
    iteration: Iteration, sampled: Sampled, identity: dict[str, Any], trained: list[Policy], folder: Path
) -> dict[str, Any]:
    config, state = iteration.config, iteration.policy.state
    release()  # what sampled and scored
    apart = student_outline(iteration)
    together, student = apart is not None, apart or _student(iteration)
    teacher = NoTeacher() if together else _teacher(iteration, student)
    seed = derive_seed("distil", config.seed, iteration.number)
    items, longest = _items(iteration, sampled, student, seed)
    examples, steps = stored_examples(iteration.campaign.data, "train").by_id(), config.optimizer.num_steps
    largest = min(config.execution.microbatch_tokens, config.optimizer.batch_size * longest)
    if not together and wants_checkpointing(student, config, largest):
        checkpoint_gradients(student)
    title = f"distil-it{iteration.number}"
    with progress(config.name, title, "steps") as report, tracker().system_metrics(iteration.run_id):
        journal = Journal(iteration, identity, report)

        def before_first_step() -> None:
            batch, labelled = _probed(items, examples, student, config.optimizer.batch_size, seed)
            trained_before = state is not None
            journal.probes |= run_probes(student, teacher, batch, labelled, config, trained_before=trained_before)
            journal.say_probes()

        if together:
            _warn(iteration)
            probed = _first(len(items), config.optimizer.batch_size, seed)
            _, answers = _probed(items, examples, student, config.optimizer.batch_size, seed)
            job = job_of(iteration, student, Settings(largest, seed, answers), probed, journal.resumed_from)
            anchors = load_anchors(iteration, student, initial=False)
            how = distil_together(iteration, journal, items, anchors, job, folder)
        else:
            save = distil(
                student, teacher, items, config, Schedule(iteration.number * steps, config.iterations * steps), seed,
                anchors=load_anchors(iteration, student), start_from=local(state) if state else None,
                resume_from=journal.resumed_from, before_first_step=before_first_step,
                on_step=journal.on_step, on_checkpoint=journal.on_checkpoint,
            )  # fmt: skip
            save(folder)
            trained.append(student)
            how = {}
    journal.write(folder)
    laid_out = "offload" if "offload" in how else how.get("parallel", "ddp")
    expected = estimate_of_training(student, config, tokens=largest, parallel=laid_out).peak
    how |= computed(config, config.execution.microbatch_tokens, expected)
    return {"num_steps": len(journal.steps), "num_items": len(items), "computed": how}


def _student(iteration: Iteration) -> Policy:
    """The trainable policy: the initial weights; the trainer state brings what was learned since."""
    config = iteration.config
    student = load(iteration.campaign.initial, config.model, training_dtype(config.model))
    return add_lora(student, config.model.lora, seed=config.seed) if config.model.lora.rank else student


def _teacher(iteration: Iteration, student: Policy) -> TeacherWeights:
    _warn(iteration)
    return teacher_in_training(teacher_parts(iteration, student))


def _warn(iteration: Iteration) -> None:
    teacher = iteration.config.teacher
    if teacher.weights_kind.warning and not iteration.config.distillation.teacher_free:
        get_run_logger().warning("teacher.weights=%s: %s", teacher.weights_name, teacher.weights_kind.warning)


def _items(iteration: Iteration, sampled: Sampled, student: Policy, seed: int) -> tuple[Sequence[TrainingItem], int]:
    """What is trained on, of which those are read that the steps will ask for; and the most tokens of any."""
    config, rollouts = iteration.config, rollouts_of(*sampled.shards)
    prompts = prompts_of(iteration, rollouts.light, grades_for_context(iteration, sampled.graded)).ids
    examples = stored_examples(iteration.campaign.data, "train").by_id()

    def asked_for(num_items: int) -> Iterable[int]:
        rows = batch_order(num_items, own_batch_size(config), config.optimizer.num_steps, seed) if num_items else []
        return [*(row for batch in rows for row in batch), *_first(num_items, config.optimizer.batch_size, seed)]

    targets = targets_of(*sampled.targets) if sampled.targets else None
    recorded = Recorded(rollouts, grades_of(sampled.graded), targets)
    return stored_items(recorded, prompts, examples, student, config, asked_for)


def _first(num_items: int, batch_size: int, seed: int) -> list[int]:
    """The items that the probes look at."""
    return batch_order(num_items, batch_size, 1, seed)[0][:_PROBE_ITEMS] if num_items else []


def _probed(
    items: Sequence[TrainingItem], examples: Mapping[str, Example], student: Policy, batch_size: int, seed: int
) -> tuple[list[TrainingItem], list[list[int]]]:
    """The first step's items, and their reference answers where all of them have one."""
    batch = [items[row] for row in _first(len(items), batch_size, seed)]
    answers = answer_ids(batch, examples, student.tokenizer)
    return batch, answers if all(answers) else []


def _export(iteration: Iteration, state: Ref, trained: list[Policy], folder: Path) -> dict[str, Any]:
    """The trained weights as a stored model: those in memory, or read from the stored state."""
    if trained:
        student = trained.pop()
    else:
        student = _student(iteration)
        load_trainable(local(state), student)
    return write_candidate(iteration, student, folder)

"""Train the candidate of an iteration: optimiser steps on stored rollouts, resumable at every checkpoint."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.logging import get_run_logger

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.errors import AlarmError
from opsd_core.models.policy import Policy, add_lora, save_policy
from opsd_core.records.grades import read_grades
from opsd_core.records.rollouts import read_rollouts
from opsd_core.records.targets import read_targets
from opsd_core.selection.token_weights import WeightInputs, token_weights
from opsd_core.teacher.kinds import teacher_in_training
from opsd_core.teacher.parts import Models, Parts
from opsd_core.teacher.teachers import TeacherWeights
from opsd_core.training.alarms import find_alarms
from opsd_core.training.checkpoint import load_trainable
from opsd_core.training.importance import check_staleness, old_logprobs
from opsd_core.training.probes import run_probes
from opsd_core.training.trainer import Schedule, TrainingItem, batch_order, distil
from tasks.context import load, local, produce, scratch, store, stored_examples, tracker
from tasks.refs import Campaign, DistilRef, GradedRef, PolicyRef, ShardRef, TargetsRef
from tasks.runtime.progress import progress
from tasks.runtime.retries import STAGE
from tasks.stages.anchors import anchors_identity, load_anchors
from tasks.stages.teacher import grades_for_context, prompts_of, shared_policy, teacher_ref
from tasks.stages.watch import sound
from tasks.storage.artifacts import Artifact, find, publish

_SEND_EVERY = 10
"""Optimiser steps between metric batches: live curves without a call per step."""
_PROBE_ITEMS = 32
"""Completions the probes look at."""


@task(name="distil", task_run_name="distil-it{iteration}", **STAGE)
def distil_candidate(
    campaign: Campaign,
    iteration: int,
    run_id: str,
    policy: PolicyRef,
    champion: PolicyRef,
    shards: list[ShardRef],
    graded: GradedRef,
    targets: list[TargetsRef],
) -> DistilRef:
    """The candidate's weights and trainer state after this iteration's optimiser steps."""
    config = campaign.config
    check_staleness([shard.iteration for shard in shards], iteration, config.weights.max_staleness)
    identity = {
        "policy": policy.digest,
        "state": policy.state_uri.rsplit("/", 1)[-1] if policy.state_uri else None,  # content, not address
        "initial": campaign.initial.digest,
        "teacher": teacher_ref(campaign, champion).digest,
        "rollouts": [shard.digest for shard in shards],
        "grades": graded.digest,
        "targets": [target.digest for target in targets],
        "method": {
            name: getattr(config, name).model_dump()
            for name in ("teacher", "distillation", "weights", "optimizer", "prompts")
        },
        "model": config.model.model_dump(include={"dtype", "lora"}),
        "iterations": config.iterations,
        "iteration": iteration,
        "seed": config.seed,
        "control": config.control,
    } | anchors_identity(campaign)
    trained: list[Policy] = []  # stays empty when the state is there already
    work = partial(_distil, campaign, iteration, run_id, policy, champion, shards, graded, targets, identity, trained)
    state, seconds = produce("states", identity, work)
    folder = local(state.uri)
    model, _ = produce("models", {"state": state.digest}, partial(_export, campaign, folder, trained))
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    tracker().log_metrics(run_id, [(row.pop("step"), row) for row in (dict(step) for step in steps)])
    return DistilRef(
        policy=PolicyRef(uri=model.uri, digest=model.digest, state_uri=state.uri),
        metrics=_summary(steps),
        probes=json.loads((folder / "probes.json").read_text()),
        steps_uri=state.uri,
        seconds=seconds,
    )


def _distil(
    campaign, iteration, run_id, policy, champion, shards, graded, targets, identity, trained: list[Policy], folder: Path
) -> dict[str, Any]:
    config = campaign.config
    student = _student(campaign)
    teacher = _teacher(campaign, student, champion)
    items, answers = _training_items(campaign, student, shards, graded, targets)
    resume, steps = _latest_checkpoint(identity, config.optimizer.num_steps, config.optimizer.checkpoint_every)
    seed = derive_seed("distil", config.seed, iteration)
    start = local(policy.state_uri) if policy.state_uri else None
    probes: dict[str, float] = {}
    if resume is not None:
        probes |= json.loads((resume / "probes.json").read_text())
        get_run_logger().info("going on after optimiser step %d of this iteration", len(steps))
    schedule = Schedule(iteration * config.optimizer.num_steps, config.iterations * config.optimizer.num_steps)
    unsent, sounded = _before(config, steps)

    def before_first_step() -> None:
        rows = batch_order(len(items), config.optimizer.batch_size, 1, seed)[0][:_PROBE_ITEMS]
        labelled = [answers[row] for row in rows] if all(answers[row] for row in rows) else []
        probes.update(run_probes(student, teacher, [items[row] for row in rows], labelled, config, trained_before=bool(start)))
        get_run_logger().info("probes: %s", probes)

    def on_step(step: int, metrics: dict[str, float]) -> None:
        # Times differ between runs: MLflow gets them, the stored journal does not, so that equal work is equal bytes.
        steps.append({"step": step} | {name: value for name, value in metrics.items() if not name.startswith("time/")})
        unsent.append((step, metrics))
        report(len(steps), config.optimizer.num_steps)
        watch_step()
        if len(unsent) >= _SEND_EVERY:
            tracker().log_metrics(run_id, unsent)
            unsent.clear()

    def watch_step() -> None:
        new = [alarm for alarm in find_alarms(config.alarms, "step", steps) if alarm.name not in sounded]
        if not new:
            return
        sounded.update(alarm.name for alarm in new)
        tracker().log_metrics(run_id, [*unsent, (steps[-1]["step"], {f"alarms/{alarm.name}": 1.0 for alarm in new})])
        unsent.clear()
        try:
            sound(campaign, iteration, new)
        except AlarmError:
            with scratch() as part:
                _write_journal(part, steps, probes)
                publish(store(), "stopped", {"distil": identity, "step": len(steps)}, part, {"step": len(steps)})
            raise

    def on_checkpoint(done: int, save: Any) -> None:
        with scratch() as part:
            save(part)
            _write_journal(part, steps, probes)
            publish(store(), "checkpoints", {"distil": identity, "step": done}, part, {"step": done})

    with progress(f"distil-it{iteration}", "steps") as report, tracker().system_metrics(run_id):
        save = distil(
            student, teacher, items, config, schedule, seed,
            anchors=load_anchors(campaign, student, iteration), start_from=start, resume_from=resume,
            before_first_step=before_first_step, on_step=on_step, on_checkpoint=on_checkpoint,
        )  # fmt: skip
    save(folder)
    _write_journal(folder, steps, probes)
    trained.append(student)
    return {"num_steps": len(steps), "num_items": len(items)}


def _before(config: CampaignConfig, steps: list[dict]) -> tuple[list[tuple[int, dict[str, float]]], set[str]]:
    """What MLflow should have of the steps before a resumption, and the alarms that were sounded in them.

    The killed process may have sent it or not; what is there already is skipped, and only if it goes out first.
    """
    rows: list[tuple[int, dict[str, float]]] = []
    sounded: set[str] = set()
    for number, step in enumerate(steps, 1):
        new = {alarm.name for alarm in find_alarms(config.alarms, "step", steps[:number])} - sounded
        sounded |= new
        values = {name: value for name, value in step.items() if name != "step"}
        rows.append((step["step"], values | {f"alarms/{name}": 1.0 for name in new}))
    return rows, sounded


def _write_journal(folder: Path, steps: list[dict], probes: dict[str, float]) -> None:
    (folder / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    (folder / "probes.json").write_text(json.dumps(probes))


def _latest_checkpoint(identity: dict[str, Any], num_steps: int, every: int) -> tuple[Path | None, list[dict]]:
    """The newest checkpoint of an interrupted run of the same work, and the metrics of the steps before it."""
    for step in range((num_steps - 1) // every * every, 0, -every):
        found: Artifact | None = find(store(), "checkpoints", {"distil": identity, "step": step})
        if found:
            folder = local(found.uri)
            return folder, [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return None, []


def _student(campaign: Campaign) -> Policy:
    """The trainable policy in float32: the initial weights; the trainer state brings what was learned since."""
    config = campaign.config
    student = load(campaign.initial.uri, config.model, torch.float32)
    return add_lora(student, config.model.lora, seed=config.seed) if config.model.lora.rank else student


def _teacher(campaign: Campaign, student: Policy, champion: PolicyRef) -> TeacherWeights:
    config = campaign.config
    if config.teacher.weights_kind.warning and not config.distillation.teacher_free:
        get_run_logger().warning("teacher.weights=%s: %s", config.teacher.weights, config.teacher.weights_kind.warning)

    def load_copy(ref: PolicyRef) -> Policy:
        return load(ref.uri, config.model, torch.float32)

    models = Models(campaign.initial, champion, campaign.teachers)
    return teacher_in_training(Parts(config, models, shared_policy(campaign), load_copy, student))


def _training_items(campaign, student, shards, graded, targets) -> tuple[list[TrainingItem], list[list[int]]]:
    """Kept rollouts joined with their targets by (example, sample), and the reference answers' token ids."""
    config = campaign.config
    kept = {grade.key: grade for grade in read_grades(local(graded.uri) / "grades.parquet") if grade.keep}
    scored = {t.key: t for ref in targets for t in read_targets(local(ref.uri) / "targets.parquet")}
    sampled = [r for shard in shards for r in read_rollouts(local(shard.uri) / "rollouts.parquet")]
    prompts = prompts_of(campaign, sampled, grades_for_context(campaign, graded)).ids
    rollouts = [r for r in sampled if r.key in kept]
    rollouts.sort(key=lambda r: r.key)  # training order must not depend on the number of shards
    wanted = {r.example_id for r in rollouts}
    examples = {e.id: e for e in stored_examples(campaign.data_uri, "train") if e.id in wanted}
    special = frozenset(student.tokenizer.all_special_ids) - frozenset(student.eos_ids)
    items = [
        TrainingItem(
            prompt_ids=r.prompt_ids,
            teacher_prompt_ids=prompts[r.key],
            completion_ids=r.completion_ids,
            rollout_logprobs_T=old_logprobs(r, config.rollout),
            weights_T=token_weights(
                WeightInputs(
                    completion_ids=r.completion_ids,
                    prompt_ids=r.prompt_ids,
                    teacher_prompt_ids=prompts[r.key],
                    answer_ids=_encodings(student.tokenizer, examples[r.example_id].answer),
                    special_ids=special,
                    truncated=r.truncated,
                    student_entropy_T=r.entropy_T,
                    teacher_entropy_T=scored[r.key].entropy_T if targets else None,
                    sample_weight=kept[r.key].weight,
                ),
                config,
            ),
            target=scored[r.key] if targets else None,
            key=r.key,
            rollout_entropy_T=r.entropy_T,
        )
        for r in rollouts
    ]
    answers = [student.tokenizer.encode(examples[r.example_id].answer, add_special_tokens=False) for r in rollouts]
    return items, answers


def _encodings(tokenizer, answer: str) -> list[list[int]]:
    """The answer's token ids at the start of a text and after a space: many tokenizers tell these apart."""
    return [tokenizer.encode(text, add_special_tokens=False) for text in (answer, f" {answer}")]


def _export(campaign: Campaign, state: Path, trained: list[Policy], folder: Path) -> dict[str, Any]:
    """The trained weights as a plain model folder, adapters merged: those in memory, or read from the stored state."""
    if trained:
        student = trained.pop()
    else:
        student = _student(campaign)
        load_trainable(state, student)
    save_policy(student, folder)
    tracker().write_mlmodel(folder)
    return {"parameters": sum(p.numel() for p in student.causal_lm.parameters())}


def _summary(steps: list[dict[str, float]]) -> dict[str, float]:
    """Last values, and means over the last quarter of the steps, of what a report shows."""
    tail = steps[-max(1, len(steps) // 4) :]
    names = ("distillation/loss", "kl/mean", "nll/mean", "actor/entropy", "optim/grad_norm")
    means = {name: sum(step[name] for step in tail) / len(tail) for name in names if name in steps[0]}
    return means | {
        "distillation/first_loss": steps[0]["distillation/loss"],
        "tokens/trained": sum(s["tokens/trained"] for s in steps),
    }

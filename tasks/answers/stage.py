"""The page of answers of an iteration: made once from what is stored, kept in the store, shown in MLflow."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from opsd_core.answers import Answers, Side
from opsd_core.answers.page import MAX_COMPLETIONS, page_data, page_of
from opsd_core.answers.tokens import Sampled, drawn
from opsd_core.answers.words import decided_by, taught, version_description, warned_slices
from opsd_core.records.outcomes import read_outcomes
from opsd_core.records.rollouts import Key, Rollout, light_of
from opsd_core.records.targets import Target
from opsd_core.teacher.kinds import teacher_before_training
from opsd_core.teacher.scoring import score_rollouts
from tasks.answers.recorded import recorded
from tasks.champion.ledger import LEDGER, decision_in_words
from tasks.context import local, produce, store, stored_verdict, tracker
from tasks.loaded import stored_examples
from tasks.refs import ANSWERS_PAGE as PAGE
from tasks.refs import AnswersRef, Iteration, Outcome
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.teacher import grades_for_context, prompts_of, stops_of, teacher_parts
from tasks.stages.training.candidate import base_below, beside_in_words
from tasks.storage.artifacts import describe

_VERSION = 1
"""Of what the page holds: another one makes the pages of finished iterations again."""
_SPLITS = {"train": "training items", "validation": "held-out items", "test": "test items, not touched"}
_SCORED_ONLINE = 24
"""Completions that are scored for the page where the teacher answered during training and nothing was stored."""


@task(name="write-answers", task_run_name="write-answers-it{iteration.number}", **STAGE)
def write_answers(iteration: Iteration, outcome: Outcome) -> AnswersRef:
    """`answers.html` in the store and at the iteration's MLflow run; the version's description says what it shows."""
    identity = {
        "campaign": iteration.campaign.id,
        "iteration": iteration.number,
        "version": outcome.candidate.version,
        "verdict": outcome.verdict.content,
        "evaluations": [outcome.before.digest, outcome.after.digest],
        "grades": outcome.sampled.graded.digest,
        "targets": [target.digest for target in outcome.sampled.targets],
        "page": _VERSION,
    }
    artifact, _ = produce("answers", identity, partial(_write, iteration, outcome))
    folder, registry = local(artifact.uri), tracker()
    registry.log_text(iteration.run_id, (folder / PAGE).read_text(), PAGE)
    slices = json.loads((folder / "slices.json").read_text())
    address = registry.artifact_url(iteration.run_id, PAGE)
    name, version, after = iteration.name, outcome.candidate.version, outcome.after
    items = (iteration.campaign.data.uri, after.conditions_digest, int(after.metrics["eval/num_items"]))
    registry.log_dataset(iteration.run_id, f"held-out-it{iteration.number}", *items, "evaluation")
    registry.set_version_tags(name, version, {"opsd.answers": artifact.uri})
    registry.describe_version(name, version, _description(iteration, outcome, slices, address))
    return AnswersRef(uri=artifact.uri, address=address, taught=_taught(outcome))


def _description(iteration: Iteration, outcome: Outcome, slices: list[dict[str, Any]], address: str) -> str:
    registry, run_id, made = tracker(), iteration.run_id, outcome.candidate
    verdict, tags = stored_verdict(outcome.verdict.uri), registry.version_tags(iteration.name, made.version)
    record = [
        f"- {decision_in_words(iteration, verdict)}",
        decided_by(tags),
        f"- Made from version {iteration.policy.version or '(none)'} in iteration {iteration.number} of campaign "
        f"{iteration.campaign.id}; every other parent is in the lineage.{beside_in_words(base_below(made))}",
    ]
    files = {"answers": address, "lineage": registry.artifact_url(run_id, "lineage.json")}
    if iteration.config.promotion.alpha_per == "model":
        files["ledger"] = registry.artifact_url(run_id, LEDGER)
    links = files | {"run": registry.run_url(run_id)}
    return version_description(verdict, outcome.verdict.outcome, slices, links, record)


def _taught(outcome: Outcome) -> list[str]:
    verdict = stored_verdict(outcome.verdict.uri)
    return taught(outcome.distilled.probes, outcome.sampled.graded.num_kept, verdict.wins == verdict.losses == 0)


def _write(iteration: Iteration, outcome: Outcome, folder: Path) -> dict[str, Any]:
    examples = stored_examples(iteration.campaign.data, "validation")
    before, after = outcome.before, outcome.after
    sides = [
        Side(f"version {iteration.champion.version}, champion", read_outcomes(local(before) / "outcomes.parquet")),
        Side(f"version {outcome.candidate.version}, candidate", read_outcomes(local(after) / "outcomes.parquet")),
    ]
    experiment = tracker()
    answers = Answers(
        title=f"{iteration.name}: iteration {iteration.number}, version {outcome.candidate.version}",
        examples=examples,
        sides=sides,
        verdict=outcome.verdict.outcome,
        sentences=outcome.verdict.reasons,
        alarms=[*outcome.alarms, *_taught(outcome)],
        facts=_facts(iteration, outcome),
        links=[
            ("MLflow run", experiment.run_url(iteration.run_id)),
            ("version", experiment.model_url(iteration.name, outcome.candidate.version)),
        ],
        labelled="eval/accuracy" in after.metrics,
        sampled=_sampled(iteration, outcome),
        columns=iteration.config.evaluation.slices,
    )
    data = page_data(answers)
    slices = data["slices"].get("1", [])  # of the one side that is compared with the first
    (folder / PAGE).write_text(page_of(data))
    (folder / "slices.json").write_text(json.dumps(slices))
    return {"num_items": len(examples), "warnings": warned_slices(slices)}


def _facts(iteration: Iteration, outcome: Outcome) -> list[tuple[str, str]]:
    data, graded = describe(store(), iteration.campaign.data.uri).summary, outcome.sampled.graded
    sizes = data.get("sizes", {})
    splits = [(title, f"{sizes[name]:,}") for name, title in _SPLITS.items() if name in sizes]
    lost = [
        (name.removeprefix("num_").replace("_", " "), f"{data[name]:,}")
        for name in ("num_unusable", "num_duplicates", "num_not_read", "prompts_too_long")
        if data.get(name)
    ]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in graded.reasons.items() if reason != "kept")
    return [
        *splits,
        ("of the held-out, measured", outcome.after.answered),
        *lost,
        ("prompts of this iteration", f"{outcome.sampled.prompts.num_prompts:,}"),
        ("completions trained on", f"{graded.num_kept:,}"),
        ("completions dropped", dropped or "none"),
    ]


def _sampled(iteration: Iteration, outcome: Outcome) -> Sampled:
    """The iteration's completions with what is stored about them; where the teacher stored nothing, a few are scored."""
    sampled = outcome.sampled
    records = recorded(
        [*sampled.shards], sampled.graded, [*sampled.targets], iteration.campaign.data, iteration.campaign.initial
    )
    rollouts, targets = light_of(records.rollouts), records.targets
    if iteration.config.distillation.teacher_free:
        return replace(records, note="Without a teacher there is no log T.")
    privileged = prompts_of(iteration, rollouts, grades_for_context(iteration, sampled.graded)).ids
    if targets:
        return replace(records, privileged=privileged, note="log T is what the teacher recorded before the training.")
    found = _scored_now(iteration, drawn(records), privileged)
    note = (
        f"The teacher answered during the training and nothing of it is stored: log T of {len(found)} of these completions is "
        "computed for this page, by the teacher as it was before the first step."
    )
    return replace(records, targets=found, privileged=privileged, note=note)


def _scored_now(
    iteration: Iteration, rollouts: Sequence[Rollout], privileged: Mapping[Key, Sequence[int]]
) -> dict[Key, Target]:
    """The first completions of the page scored by the teacher before training; none for one of several models per prompt."""
    if iteration.solved is not None:
        return {}
    chosen = [rollout for rollout in rollouts[:MAX_COMPLETIONS] if rollout.key in privileged][:_SCORED_ONLINE]
    teacher, stops = teacher_before_training(teacher_parts(iteration)), stops_of(iteration)
    return {target.key: target for target in score_rollouts(teacher, chosen, privileged, iteration.config, stops=stops)}

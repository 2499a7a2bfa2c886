"""Measure a policy on held-out items and store every item's outcome."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from opsd_core.config import CampaignConfig
from opsd_core.data import split_digest
from opsd_core.digest import digest
from opsd_core.graders import Grade, get_grader, grader_identity
from opsd_core.graders.agreement import final_answer
from opsd_core.judgement.evaluation import evaluate_policy
from opsd_core.judgement.likelihood import text_outcomes
from opsd_core.judgement.metrics import answer_diversity, constant_accuracy, summarise
from opsd_core.models.memory import memory_estimate
from opsd_core.models.policy import dtype_identity, tokenizer_digest
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome, read_outcomes, write_outcomes
from opsd_core.rollout.environments import environment_identity
from tasks.context import local, produce
from tasks.loaded import prompt_builder, shared_policy, stored_examples
from tasks.refs import EvaluationRef, PolicyRef, Ref
from tasks.runtime.progress import progress
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.rollout import computed
from tasks.storage.artifacts import Artifact

Measure = Literal["grader", "likelihood"]
Split = Literal["validation", "test"]
_LIKELIHOOD = "likelihood@1"
"""In place of a grader's name and version, where the items' own texts are measured."""

WHOLE = (0, 1)
"""Of a task with one part."""


@task(name="evaluate", task_run_name="evaluate-{label}", **STAGE)
def evaluate(
    config: CampaignConfig,
    data: Ref,
    policy: PolicyRef,
    label: str,
    items_from: str = "",
    part: tuple[int, int] = WHOLE,
) -> EvaluationRef:
    """Outcomes of `policy` on num_items held-out items, by id from `items_from` on; the same items for every policy.

    Items without an answer are measured only where no item has one; then nothing is graded and no accuracy is reported.
    `part`: which of how many evaluations of one comparison this is, for the progress.
    """
    return measured(config, policy, held_out(config, data, items_from=items_from), label, part=part)


def measured(
    config: CampaignConfig,
    policy: PolicyRef,
    examples: Sequence[Example],
    label: str,
    measure: Measure = "grader",
    part: tuple[int, int] = WHOLE,
) -> EvaluationRef:
    """Outcomes of `policy` on these items: its answers, or with measure=likelihood what it thinks of theirs.

    `part`: which of how many such calls of its task this is, for the progress.
    """
    identity = evaluation_identity(config, policy, examples, measure)
    work = (config, policy, examples)
    make = partial(_evaluate, *work, label, part) if measure == "grader" else partial(_read, *work)
    artifact, seconds = produce("evaluations", identity, make)
    return evaluation_ref(config, examples, artifact, seconds)


def evaluation_ref(config: CampaignConfig, examples: Sequence[Example], artifact: Artifact, seconds: float) -> EvaluationRef:
    """What other stages need of a stored evaluation of these items."""
    return EvaluationRef(
        uri=artifact.uri,
        digest=artifact.digest,
        conditions_digest=digest(artifact.identity["conditions"]),
        metrics=_metrics(config, examples, read_outcomes(local(artifact.uri) / "outcomes.parquet")),
        seconds=seconds,
    )


def held_out(config: CampaignConfig, data: Ref, split: Split = "validation", items_from: str = "") -> list[Example]:
    """The items that are measured: the first ones by id, from `items_from` on."""
    return [e for e in measurable(data, split) if e.id >= items_from][: config.evaluation.num_items]


def measurable(data: Ref, split: Split = "validation") -> list[Example]:
    """The items of a split that have an answer, all of them where none has one; by id."""
    examples = stored_examples(data, split)
    return [e for e in examples if e.answer] or examples


_ITEMS = {"num_items", "block", "refresh", "max_decisions", "slices"}
"""Settings that choose the items, which are in the conditions themselves, or how outcomes are shown."""


def evaluation_identity(
    config: CampaignConfig, policy: PolicyRef, examples: Sequence[Example], measure: Measure = "grader"
) -> dict[str, Any]:
    """What decides an evaluation; only two under the same conditions can be compared."""
    builder = prompt_builder(policy, config)
    conditions = {
        "items": split_digest(examples),
        "template": builder.student_digest,
        "tokenizer": tokenizer_digest(builder.tokenizer),
        "evaluation": config.evaluation.model_dump(exclude=_ITEMS),
        "grader": grader_identity(config.data) if measure == "grader" else _LIKELIHOOD,
        "source": config.data.source,
        "seed": config.seed,
    }
    if measure == "grader":
        conditions |= environment_identity(config.rollout)
    if any(example.metadata for example in examples):  # what a task's own verifier reads beside the answer
        conditions["metadata"] = digest([[example.id, example.metadata] for example in examples])
    return {"policy": policy.digest, "conditions": conditions, "dtype": dtype_identity(config.model)}


def _evaluate(
    config: CampaignConfig,
    policy: PolicyRef,
    examples: Sequence[Example],
    label: str,
    part: tuple[int, int],
    folder: Path,
) -> dict[str, Any]:
    labelled = all(example.answer for example in examples)
    grader = get_grader(config.data) if labelled else _ungraded
    with progress(config.name, f"evaluate-{label}", "completions", part) as report:
        loaded, builder = shared_policy(policy, config.model), prompt_builder(policy, config)
        outcomes = evaluate_policy(loaded, examples, builder, grader, config, report)
    write_outcomes(folder / "outcomes.parquet", outcomes)
    how = computed(config, config.execution.evaluation_batch_size, memory_estimate(loaded, config)["evaluate"])
    return {"metrics": _metrics(config, examples, outcomes), "num_items": len(examples), "computed": how}


def _read(config: CampaignConfig, policy: PolicyRef, examples: Sequence[Example], folder: Path) -> dict[str, Any]:
    outcomes = text_outcomes(shared_policy(policy, config.model), examples, prompt_builder(policy, config))
    write_outcomes(folder / "outcomes.parquet", outcomes)
    return {"metrics": _metrics(config, examples, outcomes), "num_items": len(examples)}


def _metrics(config: CampaignConfig, examples: Sequence[Example], outcomes: Sequence[ItemOutcome]) -> dict[str, float]:
    """Of stored outcomes too: filter.max_repetition decides a metric and no outcome, so it is no part of their identity."""
    metrics = summarise(outcomes, config.filter.max_repetition)
    metrics["eval/answer_diversity"] = answer_diversity(outcomes)
    if all(example.answer for example in examples):
        return metrics | {"eval/constant_accuracy": constant_accuracy(examples)}
    return {name: value for name, value in metrics.items() if not name.startswith(_NEED_LABELS)}


_NEED_LABELS = (
    "eval/accuracy", "eval/score", "eval/avg@", "eval/maj@", "eval/pass@", "eval/sampled/score", "eval/sampled/accuracy",
)  # fmt: skip


def _ungraded(example: Example, text: str) -> Grade:
    return Grade(correct=False, extracted=final_answer(text), score=0.0)

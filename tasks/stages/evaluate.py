"""Measure a policy on held-out items and store every item's outcome."""

from functools import partial
from pathlib import Path
from typing import Any

from prefect import task

from opsd_core.data import split_digest
from opsd_core.digest import digest
from opsd_core.graders import Grade, get_grader, grader_name
from opsd_core.graders.agreement import final_answer
from opsd_core.judgement.evaluation import evaluate_policy
from opsd_core.judgement.metrics import answer_diversity, constant_accuracy, summarise
from opsd_core.models.policy import Policy, tokenizer_digest
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import write_outcomes
from tasks.context import load_shared, produce, stored_examples
from tasks.refs import Campaign, EvaluationRef, PolicyRef
from tasks.runtime.progress import progress
from tasks.runtime.retries import STAGE


@task(name="evaluate", task_run_name="evaluate-{label}", **STAGE)
def evaluate(campaign: Campaign, policy: PolicyRef, label: str, split: str = "validation") -> EvaluationRef:
    """Outcomes of `policy` on the split's first num_items items (by id); the same items for every policy.

    Items without an answer are measured only where no item has one; then nothing is graded and no accuracy is reported.
    """
    config = campaign.config
    examples = stored_examples(campaign.data_uri, split)
    examples = ([e for e in examples if e.answer] or examples)[: config.evaluation.num_items]
    loaded = load_shared(policy.uri, config.model.model_dump_json())
    builder = PromptBuilder(loaded.tokenizer, config.prompts, config.teacher, config.model.chat_template)
    conditions = {
        "items": split_digest(examples),
        "template": builder.student_digest,
        "tokenizer": tokenizer_digest(loaded.tokenizer),
        "evaluation": config.evaluation.model_dump(exclude={"num_items", "batch_size"}),
        "grader": config.data.grader,
        "source": config.data.source,
        "seed": config.seed,
    }
    identity = {"policy": policy.digest, "conditions": conditions, "dtype": config.model.dtype}
    artifact, seconds = produce("evaluations", identity, partial(_evaluate, campaign, loaded, builder, examples, label))
    return EvaluationRef(
        uri=artifact.uri,
        digest=artifact.digest,
        conditions_digest=digest(conditions),
        metrics=artifact.summary["metrics"],
        seconds=seconds,
    )


def _evaluate(
    campaign: Campaign, policy: Policy, builder: PromptBuilder, examples: list[Example], label: str, folder: Path
) -> dict[str, Any]:
    config = campaign.config
    labelled = all(example.answer for example in examples)
    judge = get_grader(grader_name(config.data)) if labelled else _ungraded
    with progress(f"evaluate-{label}", "completions") as report:
        outcomes = evaluate_policy(policy, examples, builder, config.evaluation, judge, config.seed, report)
    write_outcomes(folder / "outcomes.parquet", outcomes)
    metrics = summarise(outcomes, config.filter.max_repetition)
    metrics["eval/answer_diversity"] = answer_diversity(outcomes)
    if labelled:
        metrics["eval/constant_accuracy"] = constant_accuracy(examples)
    else:
        metrics = {name: value for name, value in metrics.items() if not name.startswith(_NEED_LABELS)}
    return {"metrics": metrics, "num_items": len(examples)}


_NEED_LABELS = ("eval/accuracy", "eval/score", "eval/avg@", "eval/maj@", "eval/pass@", "eval/sampled/score")


def _ungraded(example: Example, text: str) -> Grade:
    return Grade(correct=False, extracted=final_answer(text), score=0.0)

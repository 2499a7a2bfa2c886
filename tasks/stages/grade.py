"""Grade an iteration's completions and decide which to train on."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from opsd_core.graders import grader_identity
from opsd_core.prompts.contexts import context_identity
from opsd_core.records.examples import Example, read_examples
from opsd_core.records.grades import write_grades
from opsd_core.records.rollouts import Key, Rollout
from opsd_core.selection.grading import Graded, grade_rollouts
from tasks.context import local, produce, prompt_builder, rollouts_of
from tasks.refs import GradedRef, Iteration, PromptSet, Ref, ShardRef
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.prompts import known_counts
from tasks.stages.teacher import prompts_of, solvers, teacher_budget


@task(name="grade", task_run_name="grade-it{iteration.number}", **STAGE)
def grade(iteration: Iteration, prompts: PromptSet, shards: list[ShardRef]) -> GradedRef:
    """Judge every completion and decide which are trained on; nothing is deleted, every drop has its reason."""
    identity = grade_identity(iteration, shards)
    artifact, seconds = produce("grades", identity, partial(_grade, iteration, prompts, shards))
    return GradedRef(uri=artifact.uri, digest=artifact.digest, seconds=seconds, **artifact.summary["counts"])


def grade_identity(iteration: Iteration, shards: Sequence[ShardRef]) -> dict[str, Any]:
    """What decides the grades of an iteration's completions."""
    config, curriculum = iteration.config, iteration.curriculum
    identity = {
        "rollouts": [shard.digest for shard in shards],
        "grader": grader_identity(config.data),
        "filter": config.filter.model_dump(),
    }
    if config.context_from_rollouts:  # a completion may be left out because there is nothing to show the teacher
        identity["context"] = context_identity(config.teacher)
        identity["template"] = prompt_builder(iteration.campaign.initial, config).teacher_digest
        identity["budget"] = teacher_budget(config)
    if iteration.solved:
        identity["solved"] = [iteration.solved.identity, iteration.solved.content]
    if config.filter.route == "pass_rate":
        identity["pass_rates"] = curriculum.digest if curriculum else None
    return identity


def _grade(iteration: Iteration, prompts: PromptSet, shards: Sequence[ShardRef], folder: Path) -> dict[str, Any]:
    solved, rollouts = solvers(iteration), rollouts_of(*shards)
    graded = grade_rollouts(
        rollouts,
        {example.id: example for example in asked(prompts)},
        iteration.config,
        counts=known_counts(iteration.curriculum),
        withheld=partial(_withheld, iteration, rollouts) if iteration.config.context_from_rollouts else None,
        unsolved={example_id for example_id, members in (solved or {}).items() if not members},
    )
    write_grades(folder / "grades.parquet", graded.rows)
    return {"counts": counts_of(graded) | {"num_references": sum(r.source == "reference" for r in rollouts)}}


def _withheld(iteration: Iteration, rollouts: Sequence[Rollout], correct: Mapping[Key, bool | None]) -> dict[Key, str]:
    return prompts_of(iteration, [r for r in rollouts if r.source == "policy"], correct).withheld


def asked(prompts: Ref) -> list[Example]:
    """The prompts of an iteration, shard after shard."""
    return [example for path in sorted(local(prompts).glob("shard-*.parquet")) for example in read_examples(path)]


def counts_of(graded: Graded) -> dict[str, Any]:
    """What is reported of grades."""
    num_dropped = len(graded.rows) - graded.num_kept
    return {
        "num_kept": graded.num_kept,
        "num_dropped": num_dropped,
        "reasons": graded.reasons,
        "metrics": graded.metrics,
    }

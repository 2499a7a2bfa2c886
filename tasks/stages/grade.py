"""Grade an iteration's completions and decide which to train on."""

from functools import partial
from pathlib import Path
from typing import Any

from prefect import task

from opsd_core.config import CampaignConfig
from opsd_core.graders import get_grader, grader_name
from opsd_core.graders.agreement import agreements, final_answer
from opsd_core.prompts.contexts import context_identity
from opsd_core.records.examples import Example, read_examples
from opsd_core.records.grades import GradedRollout, write_grades
from opsd_core.records.rollouts import read_rollouts
from opsd_core.selection.curriculum import add_grades, pass_rate
from opsd_core.selection.filters import Decision, GradedCompletion, count_reasons, filter_rollouts
from opsd_core.selection.leaks import leaks_text
from opsd_core.training.monitors import completion_metrics, target_metrics
from tasks.context import local, produce
from tasks.refs import Campaign, CurriculumRef, GradedRef, PromptSet, ShardRef
from tasks.runtime.retries import STAGE
from tasks.stages.curriculum import known_counts
from tasks.stages.teacher import prompt_builder, prompts_of, solvers


@task(name="grade", task_run_name="grade-it{prompts.iteration}", **STAGE)
def grade(
    campaign: Campaign, prompts: PromptSet, shards: list[ShardRef], curriculum: CurriculumRef | None = None
) -> GradedRef:
    """Judge every completion and decide which are trained on; nothing is deleted, every drop has its reason."""
    config = campaign.config
    identity = {
        "rollouts": [shard.digest for shard in shards],
        "grader": config.data.grader,
        "filter": config.filter.model_dump(),
    }
    if config.context_from_rollouts:  # a completion may be left out because there is nothing to show the teacher
        identity["context"] = context_identity(config.teacher)
        identity["template"] = prompt_builder(campaign).teacher_digest
    if campaign.solved:
        identity["solved"] = campaign.solved.rsplit("/", 2)[-2:]
    if config.filter.route == "pass_rate":
        identity["pass_rates"] = curriculum.digest if curriculum else None
    artifact, seconds = produce("grades", identity, partial(_grade, campaign, prompts, shards, curriculum))
    return GradedRef(uri=artifact.uri, digest=artifact.digest, seconds=seconds, **artifact.summary["counts"])


def _grade(
    campaign: Campaign, prompts: PromptSet, shards: list[ShardRef], curriculum: CurriculumRef | None, folder: Path
) -> dict[str, Any]:
    config = campaign.config
    judge = get_grader(grader_name(config.data))
    examples = {e.id: e for path in sorted(local(prompts.uri).glob("shard-*.parquet")) for e in read_examples(path)}
    rollouts = [r for shard in shards for r in read_rollouts(local(shard.uri) / "rollouts.parquet")]
    references = [r for r in rollouts if r.source == "reference"]
    rollouts = [r for r in rollouts if r.source == "policy"]
    grades = [
        judge(examples[r.example_id], r.completion_text) if examples[r.example_id].answer else None for r in rollouts
    ]
    answers = [g.extracted if g else final_answer(r.completion_text) for r, g in zip(rollouts, grades, strict=True)]
    votes = agreements([r.example_id for r in rollouts], answers)
    right = [(r.example_id, g.correct if g else None) for r, g in zip(rollouts, grades, strict=True)]
    counts = add_grades(known_counts(curriculum), right)
    completions = [
        GradedCompletion(
            r.completion_text,
            len(r.completion_ids),
            r.truncated,
            correct=g.correct if g else None,
            score=g.score if g else None,
            leaks=_leaks(examples[r.example_id], r.completion_text, config),
            agreement=vote,
            pass_rate=pass_rate(counts, r.example_id),
        )
        for r, g, vote in zip(rollouts, grades, votes, strict=True)
    ]
    decisions = filter_rollouts(completions, config.filter)
    if config.context_from_rollouts:
        correct = {r.key: g.correct if g else None for r, g in zip(rollouts, grades, strict=True)}
        withheld = prompts_of(campaign, rollouts, correct).withheld
        decisions = [
            Decision(keep=False, reason=withheld[r.key]) if d.keep and r.key in withheld else d
            for r, d in zip(rollouts, decisions, strict=True)
        ]
    solved = solvers(campaign)
    unsolved = {example_id for example_id, members in (solved or {}).items() if not members}
    decisions = [
        Decision(keep=False, reason="no_peer_solved") if d.keep and r.example_id in unsolved else d
        for r, d in zip(rollouts, decisions, strict=True)
    ]
    rows = [
        GradedRollout(
            example_id=r.example_id,
            sample_index=r.sample_index,
            correct=g.correct if g else None,
            score=g.score if g else None,
            extracted=answer,
            keep=d.keep,
            reason=d.reason,
            weight=d.weight,
            leaks=c.leaks,
            agreement=c.agreement.share,
            agrees=c.agreement.agrees,
        )
        for r, g, answer, c, d in zip(rollouts, grades, answers, completions, decisions, strict=True)
    ]
    # A reference is no attempt: it counts for no pass rate and no vote, and no gate of attempts applies to it.
    taught, untaught = Decision(keep=True, reason=""), Decision(keep=False, reason="no_peer_solved")
    decisions += [untaught if r.example_id in unsolved else taught for r in references]
    rows += [
        GradedRollout(r.example_id, r.sample_index, None, None, None, d.keep, d.reason)
        for r, d in zip(references, decisions[len(rows) :], strict=True)
    ]
    write_grades(folder / "grades.parquet", rows)
    judged = [row.correct for row in rows if row.correct is not None]
    kept = sum(row.keep for row in rows)
    metrics = completion_metrics(rollouts, [c.leaks for c in completions], config.filter.max_repetition)
    metrics |= target_metrics([row.keep for row in rows])
    accepted = [
        judge(examples[r.example_id], r.completion_text).correct for r in references if examples[r.example_id].answer
    ]
    if judged:
        metrics["rollout/accuracy"] = sum(judged) / len(judged)
    if accepted:
        metrics["references/accuracy"] = sum(accepted) / len(accepted)
    counts = {
        "num_kept": kept,
        "num_dropped": len(rows) - kept,
        "num_references": len(references),
        "reasons": dict(count_reasons(decisions)),
        "metrics": metrics,
    }
    return {"counts": counts}


def _leaks(example: Example, text: str, config: CampaignConfig) -> bool:
    """Whether a completion repeats the worked solution, or says that it saw one. The answer alone is no secret."""
    gate = config.filter
    public = f"{example.question} {example.answer}"
    return leaks_text(text, example.solution, public, gate.leak_words, gate.leak_phrases)

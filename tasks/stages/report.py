"""What a person looks at: Prefect artifacts, MLflow plots, one summary per iteration and per campaign."""

import json

from prefect.artifacts import create_markdown_artifact

from opsd_core.answers.slices import slice_table
from opsd_core.answers.words import guards_in_words, report_head, shown_accuracy
from opsd_core.config import CampaignConfig
from opsd_core.judgement.decoding import decoding_disagreement, decoding_rows, disagreement_in_words
from opsd_core.plots import plot_completions, plot_steps
from opsd_core.records.sums import histogram
from opsd_core.training.monitors import token_means
from opsd_core.training.trends import WATCHED
from tasks.context import local, scratch, store, stored_verdict, tidy_cache, tracker
from tasks.loaded import rollouts_of
from tasks.refs import (
    AnswersRef,
    Campaign,
    CurriculumRef,
    EvaluationRef,
    GradedRef,
    Iteration,
    Outcome,
    PolicyRef,
    ShardRef,
)
from tasks.runtime.progress import artifact_key
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.journal import read_steps
from tasks.stages.renewal.saved import freshness, saved_by, where_from
from tasks.stages.weights import state_of_model
from tasks.states import in_words
from tasks.storage.artifacts import describe
from tasks.summary import IterationSummary

Peaks = dict[str, tuple[int, int]]
"""Stage -> (most bytes that its process held, bytes expected)."""


@task(name="open-iteration", task_run_name="open-iteration-it{number}", **STAGE)
def open_iteration(
    campaign: Campaign,
    number: int,
    config: CampaignConfig,
    sides: tuple[PolicyRef, PolicyRef],
    curriculum: CurriculumRef | None = None,
) -> Iteration:
    """The iteration, with its MLflow run: a child of the campaign's, the same one when it runs again. Prunes the cache.

    `config` is in force in it; `sides` are the policy that samples and learns, and the champion.
    """
    tidy_cache()
    tags = {"opsd.campaign": campaign.id, "prefect.flow_run_id": campaign.flow_run_id or ""}
    return Iteration(
        campaign=campaign,
        number=number,
        config=config,
        run_id=tracker().iteration_run(campaign.run_id, number, tags),
        policy=sides[0],
        champion=sides[1],
        teachers=campaign.teachers,
        curriculum=curriculum,
    )


@task(name="report", task_run_name="report-it{iteration.number}", **STAGE)
def report_iteration(iteration: Iteration, outcome: Outcome, answers: AnswersRef) -> IterationSummary:
    """Metrics and plots to MLflow, a markdown and a table artifact to Prefect."""
    stages, peaks, experiment = _seconds(outcome), _peaks(outcome), tracker()
    _log_metrics(iteration, outcome, stages, peaks)
    for shard in outcome.sampled.shards:
        name, of_shard = f"rollouts-it{iteration.number}-shard{shard.shard}", (shard.uri, shard.digest, shard.num_rollouts)
        experiment.log_dataset(iteration.run_id, name, *of_shard, "rollouts")
    _plots(iteration, outcome)
    experiment.log_text(iteration.run_id, outcome.verdict.summary, "verdict.md")
    experiment.end_run(iteration.run_id, "FINISHED")
    before, after = outcome.before.metrics, outcome.after.metrics
    verdict = stored_verdict(outcome.verdict.uri)
    summary = IterationSummary(
        iteration=iteration.number,
        version=outcome.candidate.version,
        promoted=outcome.verdict.promote,
        accuracy_before=before.get("eval/accuracy"),
        accuracy_after=after.get("eval/accuracy"),
        outcome=outcome.verdict.outcome,
        items=int(after["eval/num_items"]),
        answers=answers.address,
        guards=guards_in_words(verdict),
        loss_first=outcome.distilled.metrics["distillation/first_loss"],
        loss_last=outcome.distilled.metrics["distillation/loss"],
        wall_seconds=0.0,  # the flow sets it: this task is part of it
        compute_seconds=sum(stages.values()),
        **saved_by(outcome.sampled),
    )
    decoding = disagreement_in_words(before, after)
    worries = [*(f"alarm: {text}" for text in outcome.alarms), *answers.taught, *verdict.warnings, *decoding]
    create_markdown_artifact(
        report_head(iteration.name, iteration.number, summary.version, summary.outcome, worries, answers.address)
        + _markdown(iteration, outcome, summary, stages, peaks)
        + _by_slice(iteration, answers),
        key=f"opsd-{artifact_key(iteration.name)}-it{iteration.number}",
        description=f"Version {summary.version} {summary.outcome}; "
        f"accuracy {shown_share(summary.accuracy_before)} → {shown_share(summary.accuracy_after)}",
    )
    return summary


def _seconds(outcome: Outcome) -> dict[str, float]:
    """Model compute of each stage."""
    guards = {"guards": sum(ref.seconds for ref in _guard_answers(outcome))} if outcome.guards else {}
    judged = {"judge": outcome.sampled.judged.seconds} if outcome.sampled.judged.uri else {}
    return guards | judged | {
        "rollout": sum(shard.seconds for shard in outcome.sampled.shards),
        "grade": outcome.sampled.graded.seconds,
        "targets": sum(target.seconds for target in outcome.sampled.targets),
        "distil": outcome.distilled.seconds,
        "evaluate": outcome.before.seconds + outcome.after.seconds,
    }


def _peaks(outcome: Outcome) -> Peaks:
    """Of every stage, whenever it ran; 0 where nothing is known."""
    sampled, state = outcome.sampled, outcome.distilled.policy.state
    made = {
        "rollout": sampled.shards,
        "grade": [sampled.graded],
        "targets": sampled.targets,
        "distil": [state],
        "evaluate": [outcome.before, outcome.after],
    } | ({"guards": _guard_answers(outcome)} if outcome.guards else {})
    made |= {"judge": [sampled.judged]} if sampled.judged.uri else {}
    peaks = {}
    for stage, refs in made.items():
        found = [describe(store(), ref.uri).summary for ref in refs]
        expected = [summary.get("computed", {}).get("expected_bytes", 0) for summary in found]
        peaks[stage] = max((s.get("peak_bytes", 0) for s in found), default=0), max(expected, default=0)
    return peaks


def _guard_answers(outcome: Outcome) -> list[EvaluationRef]:
    sides = [side for found in outcome.guards for side in (found.candidate, found.champion, found.anchor)]
    return [side for side in sides if side is not None]


def _log_metrics(iteration: Iteration, outcome: Outcome, stages: dict[str, float], peaks: Peaks) -> None:
    graded, targets = outcome.sampled.graded, outcome.sampled.targets
    metrics = {
        **outcome.after.metrics,
        **{f"champion/{name}": value for name, value in outcome.before.metrics.items()},
        **{name: value for name, value in outcome.distilled.metrics.items() if name in WATCHED},
        **outcome.distilled.probes,
        **graded.metrics,
        **freshness(iteration, outcome.sampled),
        **token_means([(target.num_tokens, target.metrics) for target in targets]),
        "rollout/kept": float(graded.num_kept),
        "rollout/references": float(graded.num_references),
        "gate/promoted": float(outcome.verdict.promote),
        **outcome.verdict.metrics,
        **decoding_disagreement(outcome.before.metrics, outcome.after.metrics),
        **{f"time/{name}_seconds": seconds for name, seconds in stages.items()},
        **{f"memory/{name}_gb": peak / 1e9 for name, (peak, _) in peaks.items()},
    }
    shown = ("eval/", "gate/", "guard/", "refill/", "rollout/")
    of_campaign = {name: value for name, value in metrics.items() if name.startswith(shown) or name in WATCHED}
    number, before = iteration.number, outcome.before.metrics
    # Point 0 of every curve is the model that an iteration, or the campaign, compares with; point 1 what came of it.
    tracker().log_metrics(iteration.run_id, [(number, before), (number + 1, metrics)])
    start = [(0, before)] if number == 0 else []
    tracker().log_metrics(iteration.campaign.run_id, [*start, (number + 1, of_campaign)])


def _plots(iteration: Iteration, outcome: Outcome) -> None:
    rollouts = rollouts_of(*outcome.sampled.shards)
    entropies = histogram(rollouts.entropies, 40)
    with scratch() as folder:
        plot_steps(read_steps(local(outcome.distilled.policy.state)), folder / "training.png")
        plot_completions(rollouts.lengths(), entropies, folder / "completions.png")
        for name in ("training.png", "completions.png"):
            tracker().log_figure(iteration.run_id, folder / name, f"plots/{name}")


def _markdown(iteration: Iteration, outcome: Outcome, summary: IterationSummary, stages: dict[str, float], peaks: Peaks) -> str:
    before, after, sampled, name = outcome.before, outcome.after, outcome.sampled, iteration.name
    graded, verdict, probes = sampled.graded, outcome.verdict, outcome.distilled.probes
    times = "\n".join(
        f"| {stage} | {seconds:.1f} | {peaks[stage][0] / 1e9:.2f} | {peaks[stage][1] / 1e9:.2f} |"
        for stage, seconds in stages.items()
    )
    dropped = ", ".join(f"{count} {reason}" for reason, count in graded.reasons.items() if reason != "kept") or "none"
    sides, names = (before.metrics, after.metrics), ("eval/constant_accuracy", "eval/answer_diversity")
    constant, different = (" | ".join(shown_share(metrics.get(name), 3) for metrics in sides) for name in names)
    return f"""{verdict.summary}

| | before (champion) | after (candidate) |
|---|---|---|
| held-out accuracy, greedy | {shown_accuracy(before.metrics)} | {shown_accuracy(after.metrics)} |
| the commonest answer alone would give | {constant} |
| different answers per completion | {different} |
| held-out items answered | {before.answered} | {after.answered} |
| mean length (tokens) | {before.metrics["eval/mean_length"]:.1f} | {after.metrics["eval/mean_length"]:.1f} |
{decoding_rows(before.metrics, after.metrics)}

Loss {summary.loss_first:.4f} → {summary.loss_last:.4f} nats per token;
{sampled.prompts.num_prompts} prompts, {_sampled(sampled.shards, graded)}{where_from(iteration, sampled)};
trained on {graded.num_kept} completions, {graded.num_references} of them references{_references(graded)}; dropped: {dropped}.
Data: {_data(iteration)}.
Model: {iteration.campaign.config.model.source}: {state_of_model(describe(store(), iteration.campaign.initial.uri))}.
Probes: {", ".join(f"{probe} {value:.4g}" for probe, value in probes.items())}.

| stage | seconds | peak memory (GB) | estimated at most |
|---|---|---|---|
{times}

[MLflow run]({tracker().run_url(iteration.run_id)}) · [model versions]({tracker().model_url(name, summary.version)})
"""


def _by_slice(iteration: Iteration, answers: AnswersRef) -> str:
    found = json.loads((local(answers.uri) / "slices.json").read_text())
    return "\n".join(slice_table(found, iteration.config.evaluation.slices))


def _sampled(shards: list[ShardRef], graded: GradedRef) -> str:
    if "rollout/tokens" not in graded.metrics:
        return f"nothing sampled, {graded.num_references} references of {sum(s.num_tokens for s in shards)} tokens"
    accuracy = graded.metrics.get("rollout/accuracy")
    known = "unknown (no labels)" if accuracy is None else f"{accuracy:.3f}"
    return f"{graded.metrics['rollout/tokens']:.0f} sampled tokens, accuracy of the rollouts {known}"


def _data(iteration: Iteration) -> str:
    """What became of the data set's rows, and which state of the source they are of."""
    stored = describe(store(), iteration.campaign.data.uri)
    summary = stored.summary
    counts = {name.removeprefix("num_").replace("_", " "): summary[name] for name in summary if name.startswith("num_")}
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.get("reasons", {}).items())
    rows = ", ".join(f"{count} {name}" for name, count in counts.items()) + (f" ({reasons})" if reasons else "")
    return f"{rows}; {iteration.campaign.config.data.source}: {in_words(stored.identity.get('content', {}))}"


def _references(graded: GradedRef) -> str:
    share = graded.metrics.get("references/accuracy")
    return "" if share is None else f" (the grader accepts {share:.3f} of these)"


def shown_share(share: float | None, digits: int = 4) -> str:
    """A share to some digits, or that it is unknown."""
    return "unknown" if share is None else f"{share:.{digits}f}"

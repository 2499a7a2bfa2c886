"""What a person looks at: Prefect artifacts, MLflow plots, one summary per iteration and per campaign."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from pydantic import Field

from opsd_core.plots import plot_accuracy, plot_completions, plot_steps
from opsd_core.records.rollouts import read_rollouts
from tasks.context import local, scratch, tidy_cache, tracker
from tasks.refs import (
    Campaign,
    DistilRef,
    EvaluationRef,
    GradedRef,
    PolicyRef,
    PromptSet,
    Record,
    ShardRef,
    TargetsRef,
    VerdictRef,
)
from tasks.runtime.progress import artifact_key
from tasks.runtime.retries import STAGE


class IterationSummary(Record):
    """The numbers of one iteration that the campaign's summary needs."""

    iteration: int
    version: int
    promoted: bool
    accuracy_before: float | None
    """None without labels, as the next three."""
    accuracy_after: float | None
    error_before: float | None
    error_after: float | None
    loss_first: float
    loss_last: float
    wall_seconds: float
    compute_seconds: float = Field(description="Sampling, grading, scoring, training and evaluation.")

    @property
    def overhead_seconds(self) -> float:
        return max(0.0, self.wall_seconds - self.compute_seconds)


@task(name="open-iteration", task_run_name="open-iteration-it{iteration}", **STAGE)
def open_iteration(campaign: Campaign, iteration: int) -> str:
    """The iteration's MLflow run, a child of the campaign's; the same one when the iteration runs again. Prunes the cache."""
    tidy_cache()
    tags = {"opsd.campaign": campaign.id, "prefect.flow_run_id": campaign.flow_run_id or ""}
    return tracker().iteration_run(campaign.run_id, iteration, tags)


@task(name="report", task_run_name="report-it{iteration}", **STAGE)
def report_iteration(
    campaign: Campaign,
    iteration: int,
    run_id: str,
    prompts: PromptSet,
    shards: list[ShardRef],
    graded: GradedRef,
    targets: list[TargetsRef],
    distilled: DistilRef,
    candidate: PolicyRef,
    before: EvaluationRef,
    after: EvaluationRef,
    verdict: VerdictRef,
) -> IterationSummary:
    """Metrics and plots to MLflow, a markdown and a table artifact to Prefect."""
    stages = {
        "rollout": sum(shard.seconds for shard in shards),
        "grade": graded.seconds,
        "targets": sum(target.seconds for target in targets),
        "distil": distilled.seconds,
        "evaluate": before.seconds + after.seconds,
    }
    metrics = {
        **after.metrics,
        **{f"champion/{name}": value for name, value in before.metrics.items()},
        **distilled.probes,
        **graded.metrics,
        **_token_means(targets),
        "rollout/kept": float(graded.num_kept),
        "rollout/references": float(graded.num_references),
        "gate/promoted": float(verdict.promote),
        **{f"time/{name}_seconds": seconds for name, seconds in stages.items()},
    }
    experiment = tracker()
    experiment.log_metrics(run_id, [(iteration, metrics)])
    campaign_metrics = {
        name: value for name, value in metrics.items() if name.startswith(("eval/", "gate/", "rollout/"))
    }
    experiment.log_metrics(campaign.run_id, [(iteration, campaign_metrics)])
    for shard in shards:
        experiment.log_dataset(
            run_id,
            f"rollouts-it{iteration}-shard{shard.shard}",
            shard.uri,
            shard.digest,
            shard.num_rollouts,
            "rollouts",
        )
    _plots(run_id, shards, distilled)
    experiment.log_text(run_id, verdict.summary, "verdict.md")
    experiment.end_run(run_id, "FINISHED")
    summary = IterationSummary(
        iteration=iteration,
        version=candidate.version,
        promoted=verdict.promote,
        accuracy_before=before.metrics.get("eval/accuracy"),
        accuracy_after=after.metrics.get("eval/accuracy"),
        error_before=before.metrics.get("eval/accuracy_se"),
        error_after=after.metrics.get("eval/accuracy_se"),
        loss_first=distilled.metrics["distillation/first_loss"],
        loss_last=distilled.metrics["distillation/loss"],
        wall_seconds=0.0,  # the flow sets it: this task is part of it
        compute_seconds=sum(stages.values()),
    )
    key = f"opsd-{artifact_key(campaign.name)}-it{iteration}"
    create_markdown_artifact(
        _markdown(
            campaign, summary, stages, prompts, shards, graded, distilled, candidate, before, after, verdict, run_id
        ),
        key=key,
        description=f"Version {candidate.version} {'promoted' if verdict.promote else 'not promoted'}; "
        f"accuracy {_shown(summary.accuracy_before)} → {_shown(summary.accuracy_after)}",
    )
    return summary


def _token_means(targets: list[TargetsRef]) -> dict[str, float]:
    """Means over the tokens of all shards."""
    names = {name for target in targets for name in target.metrics}
    having = {name: [target for target in targets if name in target.metrics] for name in sorted(names)}
    return {
        name: sum(t.metrics[name] * t.num_tokens for t in refs) / max(sum(t.num_tokens for t in refs), 1)
        for name, refs in having.items()
    }


def _plots(run_id: str, shards: list[ShardRef], distilled: DistilRef) -> None:
    rollouts = [r for shard in shards for r in read_rollouts(local(shard.uri) / "rollouts.parquet")]
    steps = [json.loads(line) for line in (local(distilled.steps_uri) / "steps.jsonl").read_text().splitlines()]
    with scratch() as folder:
        plot_steps(steps, folder / "training.png")
        entropies = np.concatenate([r.entropy_T for r in rollouts])
        plot_completions([len(r.completion_ids) for r in rollouts], entropies, folder / "completions.png")
        for name in ("training.png", "completions.png"):
            tracker().log_figure(run_id, folder / name, f"plots/{name}")


def _markdown(
    campaign, summary, stages, prompts, shards, graded, distilled, candidate, before, after, verdict, run_id
) -> str:
    outcome = "promoted to champion" if summary.promoted else "refused"
    times = "\n".join(f"| {name} | {seconds:.1f} |" for name, seconds in stages.items())
    lengths = f"{before.metrics['eval/mean_length']:.1f} → {after.metrics['eval/mean_length']:.1f}"
    dropped = ", ".join(f"{count} {reason}" for reason, count in graded.reasons.items() if reason != "kept") or "none"
    return f"""# {campaign.name}: iteration {summary.iteration} — version {summary.version} {outcome}

{verdict.summary}

| | before (champion) | after (candidate) |
|---|---|---|
| held-out accuracy | {_accuracy(before)} | {_accuracy(after)} |
| the commonest answer alone would give | {_share(before, "constant_accuracy")} | {_share(after, "constant_accuracy")} |
| different answers per completion | {_share(before, "answer_diversity")} | {_share(after, "answer_diversity")} |
| mean length (tokens) | {before.metrics["eval/mean_length"]:.1f} | {after.metrics["eval/mean_length"]:.1f} |
| truncated | {before.metrics["eval/truncated_fraction"]:.3f} | {after.metrics["eval/truncated_fraction"]:.3f} |

Loss {summary.loss_first:.4f} → {summary.loss_last:.4f} nats per token; mean length {lengths};
{prompts.num_prompts} prompts, {_sampled(shards, graded)};
trained on {graded.num_kept} completions, {graded.num_references} of them references{_references(graded)}; dropped: {dropped}.
Probes: {", ".join(f"{name} {value:.4g}" for name, value in distilled.probes.items())}.

| stage | seconds |
|---|---|
{times}

[MLflow run]({tracker().run_url(run_id)}) · [model versions]({tracker().model_url(campaign.name, candidate.version)})
"""


def _sampled(shards: list[ShardRef], graded: GradedRef) -> str:
    if "rollout/tokens" not in graded.metrics:
        return f"nothing sampled, {graded.num_references} references of {sum(s.num_tokens for s in shards)} tokens"
    accuracy = graded.metrics.get("rollout/accuracy")
    known = "unknown (no labels)" if accuracy is None else f"{accuracy:.3f}"
    return f"{graded.metrics['rollout/tokens']:.0f} sampled tokens, accuracy of the rollouts {known}"


def _references(graded: GradedRef) -> str:
    share = graded.metrics.get("references/accuracy")
    return "" if share is None else f" (the grader accepts {share:.3f} of these)"


def _share(evaluation: EvaluationRef, name: str) -> str:
    value = evaluation.metrics.get(f"eval/{name}")
    return "unknown" if value is None else f"{value:.3f}"


def _accuracy(evaluation: EvaluationRef) -> str:
    if "eval/accuracy" not in evaluation.metrics:
        return "unknown (no labels)"
    accuracy, error = evaluation.metrics["eval/accuracy"], evaluation.metrics["eval/accuracy_se"]
    return f"{accuracy:.3f} ± {1.96 * error:.3f}"


def _shown(accuracy: float | None) -> str:
    return "unknown" if accuracy is None else f"{accuracy:.4f}"


@task(name="close-campaign", **STAGE)
def close_campaign(campaign: Campaign, summaries: list[IterationSummary], stopped: Sequence[str] = ()) -> str:
    """Accuracy per iteration as a plot and a table; the campaign's MLflow run is finished. `stopped`: alarms, in words."""
    rows = [
        {
            "iteration": s.iteration,
            "version": s.version,
            "outcome": "promoted" if s.promoted else "refused",
            "accuracy before": _shown(s.accuracy_before),
            "accuracy after": _shown(s.accuracy_after),
            "loss": f"{s.loss_first:.4f} → {s.loss_last:.4f}",
            "seconds": round(s.wall_seconds, 1),
            "model compute": round(s.compute_seconds, 1),
            "everything else": round(s.overhead_seconds, 1),
        }
        for s in summaries
    ]
    create_table_artifact(
        rows, key=f"opsd-{artifact_key(campaign.name)}-campaign", description=f"Campaign {campaign.name} ({campaign.id})"
    )
    measured = [s for s in summaries if s.accuracy_before is not None]
    points = [("start", s.accuracy_before, s.error_before or 0.0, True) for s in measured[:1]]
    points += [(f"it{s.iteration} (v{s.version})", s.accuracy_after, s.error_after or 0.0, s.promoted) for s in measured]
    if points:
        with scratch() as folder:
            plot_accuracy(points, Path(folder) / "accuracy.png")
            tracker().log_figure(campaign.run_id, Path(folder) / "accuracy.png", "plots/accuracy.png")
    tracker().end_run(campaign.run_id, "FINISHED")
    tracker().flush()
    wall, compute = sum(s.wall_seconds for s in summaries), sum(s.compute_seconds for s in summaries)
    lines = [
        f"iteration {s.iteration}: version {s.version} {'promoted' if s.promoted else 'refused'}, "
        f"accuracy {_shown(s.accuracy_before)} -> {_shown(s.accuracy_after)}"
        for s in summaries
    ]
    lines += stopped
    if summaries:
        share = 100 * (1 - compute / wall)
        lines.append(f"model compute {compute:.0f} s, everything else {wall - compute:.1f} s ({share:.0f} %)")
    text = "\n".join(lines)
    create_markdown_artifact(
        f"# Campaign {campaign.name}\n\n```\n{text}\n```\n",
        key=f"opsd-{artifact_key(campaign.name)}-summary",
        description=lines[-1] if lines else None,
    )
    return text

"""The end of a campaign for a person: a table, a plot, the closing lines."""

from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from opsd_core.answers.words import accuracy_interval, headline
from opsd_core.plots import plot_accuracy
from tasks.context import scratch, tracker
from tasks.refs import Campaign
from tasks.runtime.progress import artifact_key
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.renewal.saved import saved_in_words
from tasks.stages.report import shown_share
from tasks.summary import IterationSummary


@task(name="close-campaign", **STAGE)
def close_campaign(campaign: Campaign, summaries: list[IterationSummary], stopped: Sequence[str] = ()) -> str:
    """Accuracy per iteration as a plot and a table; the campaign's MLflow run is finished. `stopped`: alarms, in words."""
    rows = [
        {
            "iteration": s.iteration,
            "version": s.version,
            "outcome": s.outcome,
            "accuracy before": shown_share(s.accuracy_before),
            "accuracy after": shown_share(s.accuracy_after),
            "guards": s.guards,
            "loss": f"{s.loss_first:.4f} → {s.loss_last:.4f}",
            "seconds": round(s.wall_seconds, 1),
            "model compute": round(s.compute_seconds, 1),
            "everything else": round(s.overhead_seconds, 1),
        }
        for s in summaries
    ]
    told = _headline(campaign, summaries)
    create_table_artifact(rows, key=f"opsd-{artifact_key(campaign.name)}-campaign", description=told)
    measured = [s for s in summaries if s.accuracy_before is not None]
    points = [("start", s.accuracy_before, accuracy_interval(s.accuracy_before, s.items), True) for s in measured[:1]]
    points += [
        (f"it{s.iteration} (v{s.version})", s.accuracy_after, accuracy_interval(s.accuracy_after, s.items), s.promoted)
        for s in measured
    ]
    if points:
        with scratch() as folder:
            plot_accuracy(points, folder / "accuracy.png")
            tracker().log_figure(campaign.run_id, folder / "accuracy.png", "plots/accuracy.png")
    tracker().end_run(campaign.run_id, "FINISHED")
    tracker().flush()
    wall, compute = sum(s.wall_seconds for s in summaries), sum(s.compute_seconds for s in summaries)
    lines = [
        f"iteration {s.iteration}: version {s.version} {s.outcome}, "
        f"accuracy {shown_share(s.accuracy_before)} -> {shown_share(s.accuracy_after)}; {s.guards}"
        for s in summaries
    ]
    lines += [*stopped, *(f"what it answers, before and after: {s.answers}" for s in summaries[-1:])]
    lines += saved_in_words(summaries)
    if summaries:
        rest = wall - compute
        lines.append(f"model compute {compute:.0f} s, everything else {rest:.1f} s ({100 * rest / wall:.0f} %)")
    text = "\n".join(lines)
    create_markdown_artifact(
        f"# {told}\n\nCampaign {campaign.id}.\n\n```\n{text}\n```\n",
        key=f"opsd-{artifact_key(campaign.name)}-summary",
        description=told,
    )
    return text


def _headline(campaign: Campaign, summaries: Sequence[IterationSummary]) -> str:
    """What the campaign changed: from its start to the last promoted version, or to the last one."""
    last = [s for s in summaries if s.promoted][-1:] or summaries[-1:]
    ends = (summaries[0].accuracy_before, last[0].accuracy_after) if summaries else (None, None)
    return headline(campaign.name, ends, [(s.version, s.outcome) for s in summaries], last[0].guards if last else "")

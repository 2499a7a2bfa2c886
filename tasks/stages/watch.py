"""Alarms at work: reported when they only warn, raised when they stop an iteration, answered with the remedy."""

from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from opsd_core.errors import AlarmError
from opsd_core.training.alarms import Alarm, Stage, find_alarms, remedied
from opsd_core.training.monitors import Metrics
from tasks.context import tracker
from tasks.refs import Campaign
from tasks.runtime.progress import artifact_key
from tasks.runtime.retries import STAGE


def watch(campaign: Campaign, iteration: int, run_id: str, stage: Stage, history: Sequence[Metrics]) -> None:
    """Check the latest metrics. AlarmError when a limit is passed and alarms.remedy is not warn."""
    found = find_alarms(campaign.config.alarms, stage, history)
    if found:
        tracker().log_metrics(run_id, [(iteration, {f"alarms/{alarm.name}": 1.0 for alarm in found})])
        sound(campaign, iteration, found)


def sound(campaign: Campaign, iteration: int, found: Sequence[Alarm]) -> None:
    """Log alarms. AlarmError when alarms.remedy is not warn."""
    config = campaign.config.alarms
    text = "; ".join(f"{alarm.name}: {alarm.message}" for alarm in found)
    get_run_logger().warning("alarm in iteration %d: %s", iteration, text)
    if config.remedy != "warn":
        raise AlarmError(
            f"iteration {iteration} is stopped by an alarm: {text}. What it made so far is kept; alarms.remedy={config.remedy}.",
            tuple(alarm.name for alarm in found),
        )


@task(name="recover", task_run_name="recover-it{iteration}", **STAGE)
def recover(
    campaign: Campaign, iteration: int, alarm: str, names: tuple[str, ...], num_stopped: int
) -> Campaign | None:
    """Close a stopped iteration's run and give the campaign as it goes on, from its champion; None when it ends."""
    config = remedied(campaign.config)
    if num_stopped > campaign.config.alarms.max_recoveries:
        config = None
    outcome = "The campaign ends." if config is None else "The campaign goes on from the champion."
    if config is None and campaign.config.alarms.remedy != "end":
        outcome += f" {num_stopped} iterations were stopped, alarms.max_recoveries={campaign.config.alarms.max_recoveries}."
    text = f"{alarm} {outcome}"
    experiment = tracker()
    run_id = experiment.iteration_run(campaign.run_id, iteration)
    experiment.log_tags(run_id, {"opsd.alarms": ",".join(names)})
    experiment.log_text(run_id, text, "alarm.md")
    experiment.end_run(run_id, "FAILED")
    name = artifact_key(campaign.name)
    create_markdown_artifact(f"# {campaign.name}: iteration {iteration} stopped\n\n{text}\n", key=f"opsd-{name}-it{iteration}")
    get_run_logger().warning(text)
    return None if config is None else campaign.model_copy(update={"config": config})

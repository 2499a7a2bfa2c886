"""Alarms: logged if they only warn, raised if they stop an iteration; then the configured remedy is applied."""

from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from opsd_core.config import CampaignConfig
from opsd_core.errors import AlarmError
from opsd_core.selection.monitors import Metrics
from opsd_core.training.alarms import Alarm, Stage, find_alarms, remedied
from opsd_core.training.trends import trend_metrics
from tasks.context import tracker
from tasks.refs import Campaign, Iteration
from tasks.runtime.announce import announce
from tasks.runtime.progress import artifact_key
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task


def watch(iteration: Iteration, stage: Stage, history: Sequence[Metrics]) -> list[str]:
    """Check the latest metrics; the alarms, in words. AlarmError when a limit is passed and alarms.remedy is not warn."""
    found = find_alarms(iteration.config.alarms, stage, history)
    if stage == "evaluation":
        going = trend_metrics(history, iteration.config.alarms.slope_window)
        tracker().log_metrics(iteration.run_id, [(iteration.number, going)])
    if found:
        raised = {f"alarms/{alarm.name}": 1.0 for alarm in found}
        tracker().log_metrics(iteration.run_id, [(iteration.number, raised)])
        sound(iteration, found)
    return [f"{alarm.name}: {alarm.message}" for alarm in found]


def sound(iteration: Iteration, found: Sequence[Alarm]) -> None:
    """Log alarms. AlarmError when alarms.remedy is not warn."""
    number, remedy = iteration.number, iteration.config.alarms.remedy
    text = "; ".join(f"{alarm.name}: {alarm.message}" for alarm in found)
    get_run_logger().warning("alarm in iteration %d: %s", number, text)
    links = {"run": tracker().run_url(iteration.run_id)}
    said = f"{iteration.name}: alarm in iteration {number}: {text}"
    announce("alarm", (iteration.name, None), said, links=links, once=f"{iteration.run_id} {text}")
    if remedy != "warn":
        raise AlarmError(
            f"iteration {number} is stopped by an alarm: {text}. What it made so far is kept; alarms.remedy={remedy}.",
            tuple(alarm.name for alarm in found),
        )


@task(name="recover", task_run_name="recover-it{number}", **STAGE)
def recover(
    campaign: Campaign, config: CampaignConfig, number: int, alarm: AlarmError, num_stopped: int
) -> CampaignConfig | None:
    """Close a stopped iteration's run; the configuration with which the campaign continues, or None when it ends.

    `config`: the campaign's configuration with the remedies so far. `num_stopped`: stopped iterations, this one included.
    """
    remedy, limit = remedied(config), config.alarms.max_recoveries
    if num_stopped > limit:
        remedy = None
    outcome = "The campaign ends." if remedy is None else "The campaign continues from the champion."
    if remedy is None and config.alarms.remedy != "end":
        outcome += f" {num_stopped} iterations were stopped, alarms.max_recoveries={limit}."
    text = f"{alarm} {outcome}"
    experiment = tracker()
    run_id = experiment.iteration_run(campaign.run_id, number)
    experiment.log_tags(run_id, {"opsd.alarms": ",".join(alarm.names)})
    experiment.log_text(run_id, text, "alarm.md")
    experiment.end_run(run_id, "FAILED")
    key = f"opsd-{artifact_key(campaign.name)}-it{number}"
    create_markdown_artifact(f"# {campaign.name}: iteration {number} stopped\n\n{text}\n", key=key)
    get_run_logger().warning(text)
    return remedy

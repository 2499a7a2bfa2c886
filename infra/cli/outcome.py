"""What became of a run, in words, and where to look at it."""

import os
import re
from collections.abc import Sequence

from prefect.client.schemas.objects import FlowRun

from infra.cli.progress import Report
from infra.cli.server import campaign_of, message_of, page_of
from tasks.runtime.settings import public_url


def verdict_lines(name: str, reports: Sequence[Report]) -> list[str]:
    """Whether the campaign shipped a version, and why not."""
    if not reports:
        return ["No iteration ended, so there is no new version."]
    if promoted := [report for report in reports if report.promoted]:
        last = promoted[-1]
        first = promoted[0].before
        return [f"Promoted: version {last.version} of {name} is champion; held-out accuracy {first} → {last.after}."]
    last = reports[-1]
    if waits := [report for report in reports if "wait" in report.outcome or "waits for" in report.markdown]:
        version = waits[-1].version
        return [f"Waits for a person: version {version} of {name}. Answer: opsd approve {name} {version} (or opsd refuse)."]
    lines = [f"Not promoted: the champion of {name} stays; held-out accuracy {last.before} → {last.after}."]
    return lines + [f"  - {reason}" for reason in reasons_of(last.markdown)]


def reasons_of(markdown: str) -> list[str]:
    """The gate's reasons in an iteration's report."""
    _, _, rest = markdown.partition("\n## ")
    reasons = []
    for line in rest.splitlines()[1:]:
        if line.startswith("- "):
            reasons.append(line.removeprefix("- "))
        elif line.strip():
            break
    return reasons


def ending(run: FlowRun) -> str:
    """How a run that did not complete ended."""
    state = run.state
    if state is None or state.is_completed():
        return ""
    if state.is_cancelled():
        return f"{run.name} was cancelled; finished stages are kept. To continue: the same command again."
    if state.is_crashed():
        return (
            f"{run.name}: its process died ({message_of(run) or 'no reason is known'}). To continue: the same command again."
        )
    return message_of(run) or f"{run.name} failed. What it wrote: opsd logs {run.id}"


def addresses(run: FlowRun, reports: Sequence[Report] = (), *, registers: bool = True) -> list[str]:
    """Where to look: the run, its MLflow pages, and the page of answers."""
    lines = ["To look at:", f"  the run and its reports    {page_of(run)}"]
    found = [re.findall(r"https?://[^\s)]+answers\.html", report.markdown) for report in reports]
    if pages := [page for pages in found for page in pages]:
        lines.append(f"  answers, before and after  {pages[-1]}")
    mlflow = public_url(os.environ.get("MLFLOW_TRACKING_URI", "")).rstrip("/")
    if mlflow.startswith("http"):
        lines.append(f"  metrics and plots          {mlflow}/#/experiments")
        lines += [f"  the registered versions    {mlflow}/#/models/{campaign_of(run)}"] if registers else []
    return lines

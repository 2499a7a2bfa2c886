"""What became of a run, in words, and where to look at it."""

import os
import re
import sys
from collections.abc import Sequence

import click
from prefect.client.schemas.objects import FlowRun

from infra.access.servers import is_private, login_lines
from infra.cli.command import table
from infra.cli.progress import Progress
from infra.cli.server import message_of, page_of
from infra.state import open_state, state_root
from infra.summary import mlflow_addresses
from opsd_core import errors
from opsd_core.errors import OpsdError
from opsd_core.judgement.verdict import WARNING

_CLASS = re.compile(r"(?:(?:Flow|Task) run encountered an exception:?\s*)?(?:[\w.]+\.)?(\w+):")
"""Of the error in a state's message."""


def verdict_lines(name: str, progress: Progress) -> list[str]:
    """Whether the campaign shipped a version, and why not."""
    reports = progress.reports
    if not reports:
        return ["No iteration ended, so there is no new version."]
    if promoted := [report for report in reports if report.promoted]:
        last = promoted[-1]
        first = promoted[0].before
        lines = [f"Promoted: version {last.version} of {name} is champion; held-out accuracy {first} → {last.after}."]
        lines += [f"  - {reason}" for reason in reasons_of(last.markdown) if reason.startswith("Guard")]
        return lines + warnings_of(last.markdown)
    last = reports[-1]
    if waits := [report for report in reports if "wait" in report.outcome or "waits for" in report.markdown]:
        version = waits[-1].version
        by_hand, answer = f"opsd promote {name} {version}", f"opsd approve {name} {version} (or opsd refuse)"
        ways = {"manual": by_hand, "approve": answer}
        how = ways.get(progress.mode, f"{answer}, or with promotion.mode=manual: {by_hand}")
        return [f"Waits for a person: version {version} of {name}. To decide: {how}", *warnings_of(waits[-1].markdown)]
    lines = [f"Not promoted: the champion of {name} stays; held-out accuracy {last.before} → {last.after}."]
    return lines + [f"  - {reason}" for reason in reasons_of(last.markdown)]


def warnings_of(markdown: str) -> list[str]:
    """What the verdict of an iteration's report warns of."""
    found = [line.removeprefix(WARNING) for line in markdown.splitlines() if line.startswith(WARNING)]
    return [f"  Warning: {text}" for text in found]


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
    """How a run that did not complete ended; "" when it did."""
    state = run.state
    if state is not None and state.is_completed():
        return ""
    if state is None:
        return f"{run.name} has no state. Prefect's page: {page_of(run)}"
    if state.is_cancelled():
        return f"{run.name} was cancelled; finished stages are kept. To continue: the same command again."
    if state.is_crashed():
        return (
            f"{run.name}: its process died ({message_of(run) or 'no reason is known'}). To continue: the same command again."
        )
    return message_of(run) or f"{run.name} failed. What it wrote: opsd logs {run.id}"


def failure(run: FlowRun) -> OpsdError | None:
    """`ending` as the error that the run met, of the same class where that is one of opsd's; None when it completed."""
    why = ending(run)
    if not why:
        return None
    met = _CLASS.match((run.state.message or "") if run.state else "")
    kind = getattr(errors, met[1], None) if met else None
    return kind(why) if isinstance(kind, type) and issubclass(kind, OpsdError) else OpsdError(why)


def closing(run: FlowRun, deployment: str, head: Sequence[str], report: str) -> int:
    """Print the head and where to look, and why a run did not complete; the exit status."""
    click.echo("\n".join([*head, "", *addresses(run, deployment, report)]).lstrip("\n"))
    if why := ending(run):
        click.echo(f"opsd: {why}", err=True)
    return 1 if why else 0


def addresses(run: FlowRun, deployment: str, report: str) -> list[str]:
    """Where to look: the run, its MLflow pages, the page of answers, and how one gets into them."""
    try:
        found = mlflow_addresses(run, deployment, report)
    except OpsdError as error:
        found = {"": f"MLflow does not answer, so its addresses are left out: {error}"}
    lines = ["To look at:", *table([("the run and its reports", page_of(run)), *found.items()], "  ").splitlines()]
    return lines + login_lines(open_state(state_root()), os.environ, show=is_private(sys.stdout))

"""`opsd versions`, `promote`, `rollback`, `approve`, `refuse` and `answers`: registered models and who ships them."""

import getpass
import shutil
from pathlib import Path
from typing import Any

import click

from infra.cli.command import Command, table

_REASON = "by hand, from the command line"
_who = click.option("--who", default=getpass.getuser, show_default="the user", help="Who decides; it is kept with the move.")
_comment = click.option("--comment", default="", help="Why; it is kept with the move.")


@click.command(cls=Command)
@click.argument("name")
def versions(name: str) -> int:
    """List the versions of a model.

    Their aliases, what became of them, and the accuracy they were judged by.
    """
    from infra.cli.names import named, number_of, registry
    from opsd_core.judgement.verdict import WAITS

    asked, tracker = named(name), registry()
    only = number_of(asked)
    rows = [("version", "alias", "outcome", "measured")]
    for entry in tracker.versions(asked.name):
        if only in (None, entry.version):
            tags = entry.tags
            outcome = tags.get("gate.verdict") or tags.get("opsd.gate") or tags.get("opsd.role", "")
            if who := tags.get("opsd.approval_by"):
                outcome += f" ({tags['opsd.approval']} by {who})"
            elif outcome == WAITS and (until := tags.get("opsd.approval")):
                outcome = until
            rows.append((str(entry.version), " ".join(entry.aliases), outcome, tags.get("gate.numbers", "")))
    click.echo(table(rows))
    if only is None and (moves := tracker.moves(asked.name)):
        last = moves[-1]
        click.echo(f"\nChampion since {last.at}: version {last.after}, by {last.who}: {last.why}")
    click.echo(f"\nIn MLflow: {tracker.public_uri}/#/models/{asked.name}")
    return 0


@click.command(cls=Command)
@click.argument("name")
@click.argument("version", required=False)
@click.option("--reason", default=_REASON, help="Why; it is kept with the move.")
@_who
def promote(name: str, version: str | None, reason: str, who: str) -> int:
    """Make a version the champion.

    The champion so far becomes `previous`. Without a version the newest candidate.

    \b
    Examples:
      opsd promote demo 3 --reason "read ten completions"
      opsd promote demo@candidate
    """
    from infra.cli.names import named, number_of

    asked = named(name, version)
    parameters: dict[str, Any] = {"name": asked.name, "version": number_of(asked, "candidate"), "reason": reason, "who": who}
    return _carried_out("promote", parameters)


@click.command(cls=Command)
@click.argument("name")
@click.option("--reason", default=_REASON, help="Why; it is kept with the move.")
@_who
def rollback(name: str, reason: str, who: str) -> int:
    """Make the previous champion the champion again."""
    from infra.cli.names import named, registered

    return _carried_out("rollback", {"name": registered(named(name).name), "reason": reason, "who": who})


def _carried_out(deployment: str, parameters: dict[str, Any]) -> int:
    """Ask for a short run, wait for it, and print what it says; the exit status."""
    from infra.cli.server import prefect, submit
    from infra.cli.settling import settled

    with prefect() as client:
        return settled(client, submit(client, deployment, parameters))


@click.command(cls=Command)
@click.argument("name")
@click.argument("version", required=False)
@_comment
@_who
def approve(name: str, version: str | None, comment: str, who: str) -> int:
    """Approve a promotion that waits for a person."""
    return _answered(name, version, {"decision": "approve", "comment": comment, "who": who})


@click.command(cls=Command)
@click.argument("name")
@click.argument("version", required=False)
@_comment
@_who
def refuse(name: str, version: str | None, comment: str, who: str) -> int:
    """Refuse a promotion that waits for a person."""
    return _answered(name, version, {"decision": "refuse", "comment": comment, "who": who})


def _answered(name: str, version: str | None, given: dict[str, str]) -> int:
    from infra.approve import answer, waiting
    from infra.cli.names import named, number_of
    from infra.cli.server import prefect
    from infra.cli.settling import settled
    from opsd_core.errors import ConfigError, RefusedError

    asked = named(name, version)
    number = number_of(asked)
    with prefect() as client:
        runs = waiting(client, asked.name, number)
        if not runs:
            there = ", ".join(f"{r.parameters.get('name')}/{r.parameters.get('version')}" for r in waiting(client)) or "none"
            which = f"version {number} of {asked.name!r}" if number else repr(asked.name)
            raise ConfigError(f"no promotion of {which} waits for an answer. Waiting: {there}.")
        if reason := answer(client, runs[0], given["decision"], given["comment"], given["who"]):
            raise RefusedError(f"the answer was not accepted: {reason}")
        return settled(client, client.read_flow_run(runs[0].id))


@click.command(cls=Command)
@click.argument("name")
@click.argument("version", required=False)
@click.option("--against", metavar="VERSION", help="The version to stand beside it (default: the champion that it met).")
@click.option("--to", type=click.Path(path_type=Path), help="The file to write (default: NAME-VERSION-answers.html here).")
@click.option("--open", "opened", is_flag=True, help="Show it in the browser.")
@click.option("--export", "folder", type=click.Path(path_type=Path), help="A new folder for files that other tools read.")
def answers(
    name: str, version: str | None, against: str | None, to: Path | None, opened: bool, folder: Path | None
) -> int:
    """Write a page of what a model answered.

    Held-out questions with the answers before and after, in one HTML file that opens without a network. Without a version the
    newest one that was measured.

    --export writes what other tools read, and the page only where --to or --open ask for it too: completions.jsonl (messages,
    tokens, log-probabilities of student and teacher), dataset (the same for datasets.load_dataset or a hub), before.json and
    after.json (for inspect view --log-dir).

    \b
    Examples:
      opsd answers demo --open
      opsd answers demo 3 --against 1 --to answers.html
      opsd answers demo --export demo-answers
    """
    from infra.cli.names import named, number_of

    asked = named(name, version)
    number = number_of(asked)
    other = number_of(named(asked.name, against)) if against else None
    if to or opened or folder is None:
        suffix = f"{'newest' if number is None else number}{f'-against-{other}' if other else ''}"
        _page(asked.name, number, other, to or Path(f"{asked.name}-{suffix}-answers.html"), opened)
    if folder is not None:
        _exported(asked.name, number, other, folder.expanduser())
    return 0


def _page(name: str, number: int | None, other: int | None, target: Path, opened: bool) -> None:
    from opsd_core.errors import ServiceError
    from tasks.answers import answers_of

    page = answers_of(name, number, other)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, target)
    except OSError as error:
        raise ServiceError(f"{target} cannot be written: {error.strerror or error}. Name another file with --to.") from error
    click.echo(target.resolve())
    if opened:
        click.launch(target.resolve().as_uri())


def _exported(name: str, number: int | None, other: int | None, target: Path) -> None:
    from infra.cli.folders import new_folder
    from tasks.answers import export_answers

    with new_folder(target, "--export") as folder:
        written = [path.name for path in export_answers(name, number, folder, other)]
    click.echo("\n".join(str(target.resolve() / name) for name in written))

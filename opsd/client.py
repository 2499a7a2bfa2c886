"""A client of the running system, thin above what the command line uses: one way to submit, one way to watch.

The servers are those of the environment, else those that `opsd up` starts. Every error is an OpsdError, in words.
"""

import getpass
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infra.cli.command import know_the_servers
from opsd_core.errors import BusyError, ConfigError

if TYPE_CHECKING:
    import pandas as pd
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

    from infra.cli.progress import Progress, Report
    from infra.cli.settings.request import Request
    from tasks.tracking import Tracker

_REASON = "by hand, from Python"
_OF_PREFECT = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")


@dataclass
class Run:
    """A run that was asked for; it goes on whatever becomes of this object and its process."""

    id: str
    name: str
    """Of the campaign, and of the model whose versions it makes."""
    url: str
    """Its page in Prefect."""
    _progress: "Progress" = field(repr=False)

    @property
    def state(self) -> str:
        """Prefect's word for it now: Scheduled, Running, Completed, Failed, ..."""
        with _servers() as client:
            return client.read_flow_run(_uuid(self.id)).state_name or "unknown"

    @property
    def reports(self) -> "list[Report]":
        """One per iteration that has ended: version, outcome, accuracy before and after, and the report as Markdown."""
        with _servers() as client:
            self._progress.read(client, client.read_flow_run(_uuid(self.id)))
        return list(self._progress.reports)

    @property
    def report(self) -> str:
        """The newest report as Markdown: an iteration's, in the end the campaign's, or a dry run's; empty while there is none."""
        from infra.summary import newest_report

        with _servers() as client:
            return newest_report(client, client.read_flow_run(_uuid(self.id))).strip()

    def wait(self, timeout_s: float | None = None, *, quiet: bool = False) -> "Run":
        """Show the progress until the run has ended, then what became of it; returns this run.

        The error that the run met when it failed, of its class; OpsdError when it was cancelled or its process died;
        BusyError when it has not ended after `timeout_s`. Ctrl-C ends the waiting, not the run.
        """
        from infra.cli.outcome import failure, verdict_lines
        from infra.cli.watching import Silent, display, watch

        with _servers() as client:
            begun = client.read_flow_run(_uuid(self.id))
            limit = math.inf if timeout_s is None else timeout_s
            if quiet:
                ended = watch(client, begun, self._progress, Silent(), limit)
            else:
                with display() as shown:
                    ended = watch(client, begun, self._progress, shown, limit)
            if ended.state is None or not ended.state.is_final():
                raise BusyError(f"{ended.name} has not ended after {limit:g} s: {ended.state_name}. It goes on; wait again.")
            if error := failure(ended):
                raise error
        if self._progress.reports and not quiet:
            print("\n".join(verdict_lines(self.name, self._progress)))
        return self

    def cancel(self) -> None:
        """Cancel it; finished stages are kept. RefusedError when it has ended."""
        from infra.cli.observing import cancelled

        with _servers() as client:
            cancelled(client, client.read_flow_run(_uuid(self.id)))


@dataclass(frozen=True)
class Version:
    """A registered version of a model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    """champion, candidate, previous."""
    outcome: str
    """promoted, refused, waits for a person; `initial` for the weights that the first campaign began with."""
    accuracy: float | None
    """Of greedy answers to the held-out items; None where it was not measured or its record is gone."""
    uri: str
    """Where its folder is stored."""
    digest: str
    """SHA-256 of its weights; empty for versions that opsd did not make."""
    url: str
    """Its page in MLflow."""

    def path(self) -> Path:
        """Its folder on this machine, every byte verified, for transformers or vLLM; to be read only, it is the cache's own.

        IntegrityError when a stored byte is not what was promised.
        """
        from infra.cli.folders import kept
        from infra.cli.names import Named

        _registry()
        return kept(Named(self.name, None, self.version)).folder


def run(what: str | Path | Mapping[str, Any], **overrides: Any) -> Run:
    """Ask for a campaign: a recipe's name, a settings file, or settings; `overrides` come last.

        run("tiny", iterations=1, rollout={"temperature": 0.8})
        run({"recipe": "base", "name": "mine", "model": {"source": "folder"}, "data": {"source": "train.jsonl"}})
        run("mine.yaml", **{"optimizer.learning_rate": 1e-5})

    Paths are absolute or relative: those in a file to the file, others to the present folder. ConfigError for a setting that
    is unknown or out of bounds, before anything is submitted.
    """
    return _campaign(what, overrides, {})


def check(what: str | Path | Mapping[str, Any], **overrides: Any) -> str:
    """Try a campaign for about two minutes: the report of the dry run as Markdown; arguments and errors are those of `run`."""
    return _campaign(what, overrides, {"dry_run": True}).wait(quiet=True).report


def wait(which: Run | str, timeout_s: float | None = None, *, quiet: bool = False) -> Run:
    """`Run.wait` of a run, or of the newest one of this campaign, name or id. ConfigError when there is none."""
    if isinstance(which, Run):
        return which.wait(timeout_s, quiet=quiet)
    with _servers() as client:
        from infra.cli.progress import Progress
        from infra.cli.server import find_run

        found = _handle(find_run(client, which, active=False), Progress())
    return found.wait(timeout_s, quiet=quiet)


def versions(name: str) -> list[Version]:
    """All versions of a model, oldest first. ConfigError naming the models there are when there is no such one."""
    tracker = _registry()
    from infra.cli.names import registered

    registered(name)
    from tasks.answers import accuracies

    measured = accuracies(name)
    return [
        Version(
            name=name,
            version=entry.version,
            aliases=entry.aliases,
            outcome=entry.tags.get("gate.verdict") or entry.tags.get("opsd.role", ""),
            accuracy=measured.get(entry.version),
            uri=entry.source,
            digest=entry.tags.get("opsd.model_digest", ""),
            url=tracker.model_url(name, entry.version),
        )
        for entry in tracker.versions(name)
    ]


def champion(name: str) -> Version:
    """The version that ships. ConfigError when there is no such model, or none of its versions is champion."""
    found = versions(name)
    for entry in found:
        if "champion" in entry.aliases:
            return entry
    raise ConfigError(f"no version of {name!r} is champion; it has {', '.join(str(v.version) for v in found) or 'none'}.")


def answers(name: str, version: int | str | None = None, against: int | str | None = None) -> "pd.DataFrame":
    """What a version and the champion it met wrote to the same held-out questions, one row each.

    Columns: id, question, reference, and of both versions `before_` and `after_` right, answer, text, tokens.
    version: a number or an alias; None = the newest one that was measured. against: the version that stands before it; None =
    the champion that it was compared with. ConfigError when there is no such version or no stored evaluation of one.
    """
    import pandas as pd

    from infra.cli.names import named, number_of

    asked = named(name, None if version is None else str(version))
    _registry()
    other = None if against is None else number_of(named(asked.name, str(against)))
    number = number_of(asked)
    from tasks.answers import answers_table

    return pd.DataFrame(answers_table(asked.name, number, other))


def promote(name: str, version: int | str | None = None, reason: str = _REASON, who: str | None = None) -> Version:
    """Make a version champion, the newest candidate where none is named; returns the champion. Errors as `Run.wait`."""
    from infra.cli.names import named, number_of

    asked = named(name, None if version is None else str(version))
    _registry()
    number = number_of(asked, "candidate")
    _carried_out("promote", {"name": asked.name, "version": number, "reason": reason, "who": who or getpass.getuser()})
    return champion(asked.name)


def rollback(name: str, reason: str = _REASON, who: str | None = None) -> Version:
    """Make the previous champion champion again; returns it. Errors as `Run.wait`."""
    from infra.cli.names import registered

    _registry()
    _carried_out("rollback", {"name": registered(name), "reason": reason, "who": who or getpass.getuser()})
    return champion(name)


def _carried_out(deployment: str, parameters: dict[str, Any]) -> None:
    from infra.cli.outcome import failure
    from infra.cli.server import submit
    from infra.cli.settling import ended

    with _servers() as client:
        if error := failure(ended(client, submit(client, deployment, parameters))):
            raise error


def _campaign(what: str | Path | Mapping[str, Any], overrides: Mapping[str, Any], knobs: Mapping[str, Any]) -> Run:
    know_the_servers()
    asked = _request(what, overrides)
    config = asked.checked()
    with _servers() as client:
        from infra.cli.progress import Progress
        from infra.cli.server import submit

        return _handle(submit(client, "iterate", asked.parameters() | dict(knobs)), Progress.of(config))


def _request(what: str | Path | Mapping[str, Any], overrides: Mapping[str, Any]) -> "Request":
    from infra.cli.settings.python import plain_settings
    from infra.cli.settings.request import request_of

    if not isinstance(what, str | os.PathLike | Mapping):
        raise ConfigError(f"{what!r:.80} is neither a recipe, a settings file nor settings by name.")
    start = plain_settings(what) if isinstance(what, Mapping) else os.path.expanduser(os.fspath(what))  # noqa: PTH111
    return request_of(start, plain_settings(overrides), "Python")


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise ConfigError(f"{text!r:.80} is not the id of a run.") from error


def _handle(run: "FlowRun", progress: "Progress") -> Run:
    from infra.cli.server import campaign_of, page_of

    return Run(id=str(run.id), name=campaign_of(run), url=page_of(run), _progress=progress)


def _registry() -> "Tracker":
    """MLflow's client; the addresses are read again, because this process may be older than the servers."""
    know_the_servers()
    from infra.cli.names import registry

    if kept := sys.modules.get("tasks.context"):
        kept.renew()
    return registry()


@contextmanager
def _servers() -> "Iterator[SyncPrefectClient]":
    """Prefect's client; the addresses are read again, also where Prefect was loaded before they were known."""
    know_the_servers()
    from prefect import settings

    from infra.cli.server import prefect

    known = {getattr(settings, name): os.environ[name] for name in _OF_PREFECT if os.environ.get(name)}
    with settings.temporary_settings(updates=known), prefect() as client:
        yield client

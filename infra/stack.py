"""The embedded stack on one machine: Prefect, MLflow and an S3 server, on loopback, without root or Docker.

    python -m infra.stack up [--worker]   start what is missing; with --worker also deployments and a worker
    python -m infra.stack down            stop everything
    python -m infra.stack status          what runs where; exit status 1 when a server does not serve
    python -m infra.stack login           links that log a browser in; they hold the passwords
    python -m infra.stack env             a shell line that loads the client variables: eval "$(… env)"
    python -m infra.stack run COMMAND …   run a command with the client variables
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from infra.access.servers import is_private, login_lines
from infra.lifecycle import down, status, up
from infra.services import SERVERS
from infra.state import State, open_state, state_root
from opsd_core.errors import OpsdError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        state = open_state(state_root())
        return options.action(state, options)
    except OpsdError as error:
        print(f"opsd: {error}", file=sys.stderr)
        return 1


def _up(state: State, options: argparse.Namespace) -> int:
    started = up(state, os.environ, worker=options.worker)
    print(f"Started: {', '.join(started)}." if started else "Everything runs already; nothing was started.")
    return _status(state, options)


def _down(state: State, options: argparse.Namespace) -> int:
    stopped = down(state, options.patience)
    print(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")
    return 0


def _status(state: State, options: argparse.Namespace) -> int:
    reports = status(state, os.environ)
    for report in reports:
        where = report.url.rpartition("@")[2] or "-"
        pid = f"pid {report.pid}" if report.pid else ""
        print(f"  {report.name:8} {report.state:16} {where:34} {pid:12} {report.log or ''}".rstrip())
    print("\n".join(login_lines(state, os.environ, show=is_private(sys.stdout))))
    served = {report.name for report in reports if report.state in ("running", "external")}
    return 0 if served.issuperset(SERVERS) else 1


def _login(state: State, options: argparse.Namespace) -> int:
    lines = login_lines(state, os.environ, show=True)
    print("\n".join(lines or ["Prefect and MLflow are not this stack's own: ask whoever runs them."]))
    return 0


def _env(state: State, options: argparse.Namespace) -> int:
    path = state.root / "env"
    if not path.exists():
        state.write_env(os.environ)
    print(f"set -a; . {shlex.quote(str(path))}; set +a")
    return 0


def _run(state: State, options: argparse.Namespace) -> int:
    environ = {**os.environ, **state.client_variables(os.environ)}
    beside = os.path.dirname(sys.executable)  # noqa: PTH120 - a PATH entry, kept as text
    environ["PATH"] = os.pathsep.join([beside, environ.get("PATH", os.defpath)])
    sys.stdout.flush()
    try:
        os.execvpe(options.command[0], options.command, environ)
    except OSError as error:
        print(f"opsd: {options.command[0]!r} cannot be run: {error}", file=sys.stderr)
        return 127


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.stack", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    start = commands.add_parser("up", help="start what is missing and wait until it serves")
    start.add_argument("--worker", action="store_true", help="also register the deployments and start a worker")
    start.set_defaults(action=_up)
    stop = commands.add_parser("down", help="stop everything, runs in flight included")
    stop.add_argument("--patience", type=float, default=15.0, help="seconds before a process is killed (default 15)")
    stop.set_defaults(action=_down)
    commands.add_parser("status", help="what runs where").set_defaults(action=_status)
    login = commands.add_parser("login", help="links that log a browser in; they hold the passwords")
    login.set_defaults(action=_login)
    commands.add_parser("env", help="a shell line that loads the client variables").set_defaults(action=_env)
    run = commands.add_parser("run", help="run a command with the client variables")
    run.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
    run.set_defaults(action=_run)
    return parser


if __name__ == "__main__":
    sys.exit(main())

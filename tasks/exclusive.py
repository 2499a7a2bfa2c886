"""One campaign per registered model, one move of its champion at a time: leases in the object store.

    leases/campaign/<name>   held by a campaign from its first to its last iteration
    leases/champion/<name>   held for the seconds in which the alias is compared and moved

Two leases, so that a person can roll back while a long campaign is running. Both are renewed while their holder lives and
end by themselves when it dies (`tasks.storage.lease`). Campaigns of different models never wait for each other.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.runtime import flow_run

from opsd_core.errors import ConfigError
from tasks.context import store
from tasks.storage.lease import Lease

CAMPAIGNS, CHAMPIONS = "leases/campaign", "leases/champion"
_TTL_S = 90.0
"""Longer than a restart of the object store; a holder that died elsewhere blocks its model for as long as this."""
_MOVE_WAIT_S = 60.0
_DEFAULT_WAIT_S = 600.0


@contextmanager
def one_campaign(name: str) -> Iterator[Lease]:
    """Hold the campaign lease of model `name`, waiting OPSD_LEASE_WAIT_S seconds (default 600) for it.

    Raises BusyError saying which run holds it.
    """
    with store().lease(f"{CAMPAIGNS}/{name}", _TTL_S, wait_s=wait_seconds(), holder=_holder(f"campaign {name}")) as held:
        yield held


@contextmanager
def champion_moves(name: str) -> Iterator[Lease]:
    """Hold the right to move the champion of `name`; compare and move inside. Raises BusyError saying who holds it."""
    with store().lease(f"{CHAMPIONS}/{name}", _TTL_S, wait_s=_MOVE_WAIT_S, holder=_holder(f"a move of {name}")) as held:
        yield held


def running_campaigns() -> list[str]:
    """Names of the models whose campaign lease is held by a process that may still live."""
    held = (info.key for info in store().list(CAMPAIGNS + "/"))
    return sorted(key.removeprefix(CAMPAIGNS + "/") for key in held if Lease(store(), key, _TTL_S, "").holder_now())


def wait_seconds() -> float:
    """Seconds that a second campaign of the same model waits. ConfigError when OPSD_LEASE_WAIT_S is not such a number."""
    text = os.environ.get("OPSD_LEASE_WAIT_S", "")
    try:
        seconds = float(text) if text else _DEFAULT_WAIT_S
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 7 * 24 * 3600:
        raise ConfigError(f"OPSD_LEASE_WAIT_S={text!r} must be a number of seconds from 0 to a week.")
    return seconds


def _holder(what: str) -> str:
    run = flow_run.get_id()
    return f"{what}, flow run {run}" if run else f"{what}, pid {os.getpid()}"

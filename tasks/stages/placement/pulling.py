"""The runner's side: take a session's calls one after another until its campaign has ended, or is gone for good."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from prefect.logging import get_run_logger
from pydantic import BaseModel

from opsd_core.digest import digest
from opsd_core.errors import IntegrityError, OpsdError, ServiceError
from tasks.context import store
from tasks.engines import offer, stop_engine
from tasks.loaded import release
from tasks.refs import PolicyRef
from tasks.stages.placement.calls import Desk, decoded, failed, returned
from tasks.storage.lease import Lease, renewed

PATIENCE_S = 120.0
"""A runner ends when nothing was heard of its campaign for this long: its process died, or the store is away."""
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 0.5
_LOOK_S = 3.0
_LOOK_AT_OTHERS_S = 1.0
_IDLE_S = 15.0
"""Without a call for this long a runner ends the engine that it keeps for the next one."""
_GRACE_S = 9.0
"""Between the end of a campaign and that of a call in progress; cancelled runs are ended by their worker before."""


def pull(session: str, pool: str, me: str) -> int:
    """Work on the calls of `session` as `me`, a runner in work pool `pool`; returns how many it answered."""
    desk, number, pause_s = Desk(store(), session), 0, FIRST_PAUSE_S
    campaign, keeper, busy = _Campaign(desk), _Keeper(), time.monotonic()
    if campaign.goes_on():
        desk.offer(me, f"in work pool {pool!r}", offer())
    while campaign.goes_on():
        try:
            worked = _work(desk, campaign, keeper, me)
        except (ServiceError, IntegrityError) as error:
            get_run_logger().warning("the store is waited for: %s", error)
            worked = None
        number += bool(worked)
        if worked is not None:
            busy = time.monotonic()
        elif time.monotonic() - busy > _IDLE_S:
            stop_engine()
        pause_s = FIRST_PAUSE_S if worked is not None else min(2 * pause_s, LAST_PAUSE_S)
        if worked is None:
            time.sleep(pause_s)
    keeper.let_go()
    return number


def _work(desk: Desk, campaign: "_Campaign", keeper: "_Keeper", me: str) -> bool | None:
    """Work on one call that nobody works on: whether this runner's answer counts; None when there was none to take."""
    for key in _unanswered(desk, campaign, me):
        lease = desk.lease(key, me)
        if lease.try_take() is None:
            with renewed(lease):
                record = desk.read("calls", key)
                if record is not None and desk.read("results", key) is None:
                    return _answer(desk, key, lease, _outcome(record, keeper, campaign.watching(key)))
    return None


def _unanswered(desk: Desk, campaign: "_Campaign", me: str) -> list[str]:
    """Keys of calls to try, each runner in an order of its own: few races. Now and then first those that others began.

    A lease among these may have run out: a runner that died or stands still is noticed though other calls are waiting.
    """
    done, begun = set(desk.keys("results")), set(desk.keys("leases"))
    waiting = sorted((key for key in desk.keys("calls") if key not in done), key=lambda key: digest([me, key]))
    fresh = [key for key in waiting if key not in begun]
    if fresh and time.monotonic() - campaign.looked < _LOOK_AT_OTHERS_S:
        return fresh
    campaign.looked = time.monotonic()
    return [key for key in waiting if key in begun] + fresh


def _outcome(record: dict[str, Any], keeper: "_Keeper", watched: Any) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        stage, arguments = decoded(record)
        keeper.prepare(stage.name, arguments)
        with watched:
            result = returned(stage, stage(**arguments))
    except Exception as error:  # whatever it is, the campaign is told and decides
        result = failed(error)
    return result | {"seconds": time.perf_counter() - started}


def _answer(desk: Desk, key: str, lease: Lease, result: dict[str, Any]) -> bool:
    """Hand in a result, unless the call was given to another runner meanwhile."""
    try:
        lease.check()
    except ServiceError as error:
        get_run_logger().warning("refused: %s", error)
        return False
    return desk.answer(key, result | {"runner": lease.holder})


class _Campaign:
    """What is known of the campaign's process."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.heard, self.looked = desk, time.monotonic(), 0.0

    def goes_on(self) -> bool:
        """False once it has ended, or nothing was heard of it for PATIENCE_S."""
        with suppress(OpsdError):
            life = self.desk.parent()
            if life == "ended":
                return False
            if life == "lives":
                self.heard = time.monotonic()
        return time.monotonic() - self.heard < PATIENCE_S

    @contextmanager
    def watching(self, key: str) -> Iterator[None]:
        """End this process from a thread when the campaign ends, or takes the call back, while the block works on it."""
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(key, done), name=f"watch {key}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _watch(self, key: str, done: threading.Event) -> None:
        wanted = time.monotonic()
        while not done.wait(_LOOK_S):
            if self.goes_on() and self._is_posted(key):
                wanted = time.monotonic()
            elif time.monotonic() - wanted > _GRACE_S:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _is_posted(self, key: str) -> bool:
        try:
            return self.desk.read("calls", key) is not None
        except OpsdError:
            return True


class _Keeper:
    """Keeps loaded policies for as long as calls of the same stage use the same models."""

    def __init__(self) -> None:
        self.last: Any = None

    def prepare(self, stage: str, arguments: dict[str, Any]) -> None:
        """Let go of all policies unless this call needs those of the last one."""
        now = (stage, _digests(list(arguments.values())))
        if now != self.last:
            self.let_go()
        self.last = now

    def let_go(self) -> None:
        """Leave no policy in memory."""
        release()


def _digests(value: Any) -> frozenset[str]:
    """Of every policy that a record names."""
    if isinstance(value, PolicyRef):
        return frozenset({value.digest})
    parts = value.__dict__.values() if isinstance(value, BaseModel) else value if isinstance(value, list | tuple) else ()
    return frozenset().union(*map(_digests, parts))

"""A random walk of faults over campaigns: events drawn from a seed alone, and what must hold when each campaign has ended.

    kill                     kill -9 somewhere in an attempt
    pause                    SIGSTOP, some seconds, SIGCONT
    twin                     the same campaign triggered a second time while it runs
    restart-s3 / -mlflow / -prefect    the server stopped and started during an attempt
    outage                   the object store unreachable for some seconds
    network                  an attempt through a network that loses, tears and alters what it carries
    damage / delete          one byte of a stored object flipped, one stored object gone
    gc                       retention deletes what it can
    move                     a person rolls the champion back and promotes it again

Which events, where and with which numbers is decided by the seed; at which instruction they strike is the machine's.
"""

import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from infra import processes
from opsd_core.errors import IntegrityError
from tasks.context import tracker
from tasks.storage.artifacts import describe, fetch
from tasks.storage.lease import Lease
from tasks.storage.manifest import MANIFEST_NAME
from tests.faults.kills import _FORKS, Arm
from tests.faults.outcome import outcome
from tests.faults.proxy import FAULTS, FaultProxy
from tests.stack import Stack

KINDS = {
    "kill": 6,
    "pause": 3,
    "twin": 3,
    "restart-s3": 1,
    "restart-mlflow": 1,
    "restart-prefect": 1,
    "outage": 2,
    "network": 2,
    "damage": 4,
    "delete": 4,
    "gc": 2,
    "move": 2,
}
"""Kinds and how often they are drawn, relative to each other."""
WHO = "walker"
_NAMED = re.compile(r"(Integrity|Service|Busy|Config|Refused|Model|Data)Error|Crashed|Connect")
_PATIENCE_S = 300.0
_TRIGGERS = 8
SPENT = "checkpoints/"
"""Nobody reads a checkpoint again when its distillation has ended, so nobody mends it."""
_NOT_KEPT = ("leases/", "probe/", "quarantine/")


@dataclass(frozen=True)
class Event:
    """One fault."""

    kind: str
    place: float
    """Where in the campaign it strikes: a share of the calm campaign's stages."""
    seconds: float
    """Delay after that place, or how long it lasts."""
    number: int
    """Chooses an object, or is the seed of a bad network."""


def draw(seed: int, count: int, kinds: dict[str, int] = KINDS) -> list[Event]:
    """The first `count` events of this seed."""
    chance, events = random.Random(seed), []
    for _ in range(count):
        (kind,) = chance.choices(list(kinds), list(kinds.values()))
        events.append(Event(kind, chance.random(), round(chance.uniform(0.1, 3.0), 2), chance.randrange(10**6)))
    return events


@dataclass
class Walk:
    """One campaign on its way through events."""

    arm: Arm
    stack: Stack
    stages: list[str]
    """Of the calm campaign, in order."""
    met: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    failed: int = 0
    """Attempts that ended with a named error."""
    moved: bool = False
    story: list[str] = field(default_factory=list)
    """What happened, for the message of a failure."""

    def meet(self, event: Event) -> None:
        """Let one event happen, and the attempt that it strikes end."""
        kind, _, which = event.kind.partition("-")
        self.story.append(f"{event.kind} at {event.place:.2f}")
        getattr(self, f"_{kind}")(event, *([which] if which else []))
        self.met[event.kind] += 1

    def _kill(self, event: Event) -> None:
        process = self._start()
        if self._reaches(process, event):
            time.sleep(event.seconds / 3)
            os.kill(process.pid, signal.SIGKILL)
        self._end(process)

    def _pause(self, event: Event) -> None:
        process = self._start()
        if self._reaches(process, event):
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(event.seconds)
            os.kill(process.pid, signal.SIGCONT)
        self._end(process)

    def _twin(self, event: Event) -> None:
        process = self._start()
        self._reaches(process, event)
        twin = self._start("twin")
        self._end(process)
        self._end(twin, "twin")

    def _restart(self, event: Event, which: str) -> None:
        process = self._start()
        self._reaches(process, event)
        processes.stop(self.stack.state.root, which)
        self.stack.up()
        self._end(process)

    def _outage(self, event: Event) -> None:
        with FaultProxy(self.stack.env["AWS_ENDPOINT_URL_S3"], {}, event.number) as proxy:
            process = self._start(AWS_ENDPOINT_URL_S3=proxy.url)
            self._reaches(process, event)
            proxy.rates = {"reset": 1.0}
            time.sleep(event.seconds)
            proxy.rates = {}
            self._end(process)

    def _network(self, event: Event) -> None:
        rates = dict.fromkeys(FAULTS, 0.02)
        with FaultProxy(self.stack.env["AWS_ENDPOINT_URL_S3"], rates, event.number, stall_s=2.5) as proxy:
            self._end(self._start(AWS_ENDPOINT_URL_S3=proxy.url, OPSD_S3_TIMEOUT_S="2"))

    def _damage(self, event: Event) -> None:
        store = self.arm.store()
        if key := self._object(event):
            data = bytearray(store.get(key))
            data[event.number % len(data)] ^= 1 + event.number % 255
            store.put(key, bytes(data))
            self._drop_copies()

    def _delete(self, event: Event) -> None:
        if key := self._object(event):
            self.arm.store().delete(key)
            self._drop_copies()

    def lose(self, keys: list[str]) -> None:
        """Delete these objects of the store."""
        self.story.append(f"lost: {keys}")
        for key in keys:
            self.arm.store().delete(key)
        self._drop_copies()

    def stored(self) -> list[str]:
        """Objects that a campaign keeps."""
        return [i.key for i in self.arm.store().list("") if not i.key.startswith(_NOT_KEPT) and i.size]

    def _object(self, event: Event) -> str | None:
        found = self.stored()
        key = found[event.number % len(found)] if found else None
        self.story.append(str(key))
        return key

    def _drop_copies(self) -> None:
        """So that the store is read, and not this machine's copies of it."""
        for folder in (self.arm.folder / "cache").glob("[!.]*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _gc(self, event: Event) -> None:
        self._end(self._start("gc", call="gc"), "gc")

    def _move(self, event: Event) -> None:
        self.moved = True
        self._end(self._start("move", call="move"), "move")

    def _start(self, log: str = "log", call: str = "campaign", **environ: str) -> BaseProcess:
        self.arm.folder.mkdir(parents=True, exist_ok=True)
        (self.arm.folder / log).unlink(missing_ok=True)
        given = (self.arm.root, self.arm.folder, self.arm.name, self.arm.parameters, log, call, environ)
        process = _FORKS.Process(target=_run, args=given, daemon=True)
        process.start()
        return process

    def _reaches(self, process: BaseProcess, event: Event) -> bool:
        """Whether the process is still alive when it has come to the event's place."""
        stage = self.stages[int(event.place * (len(self.stages) - 1))]
        deadline = time.monotonic() + _PATIENCE_S
        while process.is_alive() and stage not in self.arm.stages():
            assert time.monotonic() < deadline, self.arm.log()[-3000:]
            time.sleep(0.02)
        return process.is_alive()

    def _end(self, process: BaseProcess, log: str = "log") -> int:
        process.join(_PATIENCE_S)
        text = (self.arm.folder / log).read_text(errors="replace") if (self.arm.folder / log).exists() else ""
        assert process.exitcode is not None, f"{log} hangs: {text[-3000:]}"
        self.attempts += 1
        self.story.append(f"{log}: {process.exitcode}")
        if process.exitcode not in (0, -signal.SIGKILL):
            self.failed += 1
            assert _NAMED.search(text), text[-3000:]
        return process.exitcode

    def finish(self) -> None:
        """Trigger until the campaign is complete and everything that it stored can be read."""
        for _ in range(_TRIGGERS):
            status = self._end(self._start())
            wrong = unreadable(self.arm)
            if status == 0 and not wrong:
                break
            self._drop_copies()
        assert status == 0 and not wrong, f"{wrong}\n{self.arm.log()[-3000:]}"
        if self.moved:
            self._end(self._start("restore", call="restore"), "restore")

    def leaks(self) -> list[str]:
        """Held leases, temporary folders, metrics that were not sent."""
        store = self.arm.store()
        held = [i.key for i in store.list("leases/") if Lease(store, i.key, 90.0, "").holder_now()]
        temporary = [str(path) for path in (self.arm.folder / "cache").glob(".*")]
        unsent = [str(p) for p in (self.stack.state.root / "spool").rglob("*") if p.is_file() and p.stat().st_size]
        return held + temporary + unsent

    def result(self) -> dict[str, Any]:
        """What must be equal to the calm campaign's: the moves by a person and the records of damage left out."""
        found = outcome(self.arm)
        moves = [(move.action, move.before, move.after) for move in tracker().moves(self.arm.name) if move.who != WHO]
        objects = [key for key in found["objects"] if not key.startswith(("quarantine/", SPENT))]
        counts = {kind: count for kind, count in found["artifacts"].items() if f"{kind}/" != SPENT}
        return found | {"moves": moves, "objects": objects, "artifacts": counts}


def unreadable(arm: Arm) -> list[str]:
    """Stored artifacts that do not verify, read afresh."""
    store, wrong, cache = arm.store(), [], arm.folder / "verified"
    shutil.rmtree(cache, ignore_errors=True)
    for info in store.list(""):
        if info.key.endswith(f"/{MANIFEST_NAME}") and not info.key.startswith((*_NOT_KEPT, SPENT)):
            try:
                fetch(store, describe(store, store.uri(info.key.rpartition("/")[0])), cache)
            except IntegrityError as error:
                wrong.append(str(error)[:300])
    shutil.rmtree(cache, ignore_errors=True)
    return wrong


def _run(
    root: str, folder: Path, name: str, parameters: dict[str, Any], log: str, call: str, environ: dict[str, str]
) -> None:
    descriptor = os.open(folder / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(OPSD_STORE=root, OPSD_CACHE=str(folder / "cache"), OPSD_LEASE_WAIT_S="30", **environ)
    if call == "campaign":
        from flows.iterate import iterate

        iterate(name=name, **parameters)
    elif call == "gc":
        from flows.gc import gc

        gc(dry_run=False, keep_candidates=3, min_age_hours=0)
    elif call == "move":
        from flows.promote import promote, rollback

        before = tracker().version_by_alias(name, "champion")
        rollback(name, "walk", WHO)
        promote(name, "walk", before, WHO)
    else:
        from flows.promote import promote

        newest = max(entry.version for entry in tracker().versions(name))
        if tracker().version_by_alias(name, "champion") != newest:
            promote(name, "walk: what damage had prevented", newest, WHO)

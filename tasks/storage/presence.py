"""Who works on a flow run: one small object per run, `leases/run/<flow run id>`.

The worker writes it before it submits a run and again when the process has started; the flow then renews it at a third of
its lifetime until it ends. On the machine that wrote it the process itself is asked; elsewhere a record that ran out tells.
It excludes nobody: leases do that (`tasks.storage.lease`). It answers one question, whether a run still has a process.
"""

import json
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import NoReturn

from opsd_core.errors import OpsdError
from tasks.storage.base import Store
from tasks.storage.process_mark import Mark, is_of_this_machine, process_is_gone, process_mark

RUNS = "leases/run"
TTL_S = 90.0
"""Lifetime of a record that its flow renews; a flow that died elsewhere is missed after this."""
_START_TTL_S = 300.0
"""Of a started process until its flow renews: what loading a flow may take at most."""
_LAUNCH_TTL_S = 60.0
"""Of a run that a worker has taken without having started its process."""
_RETRY_S = 5.0
_MAX_BYTES = 4096


@dataclass(frozen=True)
class Record:
    """What is known of a run's process."""

    process: Mark | None
    expires_at: float
    """Seconds since 1970."""
    attempt: int = 1
    """Counts the starts; a process that finds a later one here was given up for dead."""
    launching: bool = False
    """Whether `process` is the worker's, which has not started the run's own yet."""

    @property
    def is_vacant(self) -> bool:
        """Whether it only counts the starts: the run waits for its next one."""
        return self.process is None and self.expires_at == 0.0

    @property
    def is_local(self) -> bool:
        """Whether it was written on this machine, since its last boot."""
        return is_of_this_machine(self.process)

    def is_over(self, now: float) -> bool:
        """Whether the process is gone: known on its own machine, taken from the record's lifetime elsewhere."""
        return process_is_gone(self.process) if self.is_local else self.expires_at < now


def key_of(run_id: str) -> str:
    """Where the record of a run is."""
    return f"{RUNS}/{run_id}"


def read_record(store: Store, run_id: str) -> Record | None:
    """The record of a run; None without one, or when it is damaged."""
    found = store.read(key_of(run_id), _MAX_BYTES)
    if found is None:
        return None
    try:
        fields = json.loads(found[0])
        return Record(
            process=fields["process"] if isinstance(fields["process"], dict) else None,
            expires_at=float(fields["expires_at"]),
            attempt=int(fields["attempt"]),
            launching=bool(fields["launching"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def recorded_runs(store: Store) -> list[str]:
    """Ids of the runs that have a record."""
    return [info.key.removeprefix(RUNS + "/") for info in store.list(RUNS + "/")]


def announce_launch(store: Store, run_id: str) -> int:
    """Record that this process, a worker, is about to start the run; returns the number of this start."""
    before = read_record(store, run_id)
    attempt = before.attempt + 1 if before else 1
    _write(store, run_id, Record(process_mark(), time.time() + _LAUNCH_TTL_S, attempt, launching=True))
    return attempt


def announce_process(store: Store, run_id: str, pid: int, attempt: int) -> None:
    """Record the started process of the run; nothing when it has ended already."""
    mark = process_mark(pid)
    if mark is not None or process_mark() is None:
        _write(store, run_id, Record(mark, time.time() + _START_TTL_S, attempt))


def vacate(store: Store, run_id: str, attempt: int) -> None:
    """Record that nobody works on the run: what follows is a new start."""
    _write(store, run_id, Record(None, 0.0, attempt))


def forget(store: Store, run_id: str) -> None:
    """Remove the record of a run that needs none any more."""
    store.delete(key_of(run_id))


def _write(store: Store, run_id: str, record: Record) -> None:
    store.put(key_of(run_id), json.dumps(asdict(record)).encode())


class Presence:
    """Keeps the record of the run that this process works on, from a thread, through outages of the store."""

    def __init__(self, store: Store, run_id: str, ttl_s: float = TTL_S) -> None:
        self.store, self.run_id, self.ttl_s = store, run_id, ttl_s
        self.attempt = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew_forever, name=f"presence {run_id}", daemon=True)

    def begin(self) -> None:
        """Start renewing; never raises for an outage."""
        self._thread.start()

    def end(self) -> None:
        """Stop and remove the record, for a few seconds at most; an outage leaves it to run out."""
        self._stop.set()
        self._thread.join(timeout=_RETRY_S)
        last = threading.Thread(target=self._forget, name=f"absence {self.run_id}", daemon=True)
        last.start()
        last.join(timeout=_RETRY_S)

    def _forget(self) -> None:
        with suppress(OpsdError):
            forget(self.store, self.run_id)

    def _renew_forever(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            try:
                self._renew()
                pause_s = self.ttl_s / 3
            except OpsdError:
                pause_s = min(_RETRY_S, self.ttl_s / 3)

    def _renew(self) -> None:
        known = read_record(self.store, self.run_id)
        if self.attempt == 0:
            # The worker that started this process has counted; without one, this start follows the last known.
            self.attempt = 1 if known is None else known.attempt + (not _made_for_this(known))
        elif known is not None and known.attempt > self.attempt:
            _end_process(self.run_id)
        _write(self.store, self.run_id, Record(process_mark(), time.time() + self.ttl_s, self.attempt))


def _made_for_this(record: Record) -> bool:
    return record.is_local and not record.is_over(time.time())


def _end_process(run_id: str) -> NoReturn:
    """End at once, with the status that nobody reports: the run has a later start, whose state must not be touched."""
    with suppress(OSError):  # a full disk must not keep it alive
        print(f"opsd: flow run {run_id} was given up for dead and started again elsewhere; this process ends.", file=sys.stderr)
        sys.stderr.flush()
    os._exit(0)

"""A lease: one holder at a time, kept in the object store, that ends by itself when its holder dies.

The lease is a JSON object. Taking it is a conditional write (absent, or compare-and-swap of an expired one); a thread
renews it at a third of its lifetime; giving it back marks it expired, again by compare-and-swap, so a late holder can
never remove somebody else's lease. Clocks of different hosts are assumed to agree within `_CLOCK_SLACK_S`.
A holder on this same machine whose process is gone counts as expired at once.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from opsd_core.errors import BusyError, IntegrityError, ServiceError
from tasks.storage.process_mark import process_is_gone, process_mark

_CLOCK_SLACK_S = 2.0
_POLL_S = 0.5
_MAX_LEASE_BYTES = 4096


class LeaseStore(Protocol):
    """The part of a store that a lease needs."""

    def uri(self, key: str) -> str: ...
    def read(self, key: str, max_bytes: int | None = None) -> tuple[bytes, str] | None: ...
    def put_if_absent(self, key: str, data: bytes) -> bool: ...
    def put_if_match(self, key: str, data: bytes, etag: str) -> bool: ...


class Lease:
    """A held lease; `check()` before anything that must not happen twice."""

    def __init__(self, store: LeaseStore, key: str, ttl_s: float, holder: str) -> None:
        self.store, self.key, self.ttl_s = store, key, ttl_s
        self.holder = holder or f"{socket.gethostname()} pid {os.getpid()}"
        self.token = uuid.uuid4().hex
        self.expires_at = 0.0
        self._stop = threading.Event()
        self._lost_to: str | None = None

    def check(self) -> None:
        """Raises ServiceError when the lease was lost to another holder or ran out because renewal failed."""
        if self._lost_to is None and time.time() < self.expires_at:
            return
        raise ServiceError(
            f"The lease {self.store.uri(self.key)} of {self.holder} is lost: "
            f"{self._lost_to or 'the object store was unreachable for longer than its lifetime'}. "
            "Nothing was changed after that; run again."
        )

    def _body(self, ttl_s: float) -> bytes:
        expires_at = time.time() + ttl_s
        record = {"holder": self.holder, "token": self.token, "expires_at": expires_at, "process": process_mark()}
        return json.dumps(record).encode()

    def _write(self, etag: str | None) -> bool:
        """One conditional write of a fresh record."""
        body = self._body(self.ttl_s)
        store, key = self.store, self.key
        won = store.put_if_absent(key, body) if etag is None else store.put_if_match(key, body, etag)
        if won:
            self.expires_at = json.loads(body)["expires_at"]
        return won

    def record(self) -> dict[str, Any] | None:
        """What is stored, whoever wrote it: holder, expires_at (0 where it was given back), ...; None without one."""
        current = self._current()
        return current[0] if current else None

    def _current(self) -> tuple[dict[str, Any], str] | None:
        found = self.store.read(self.key, _MAX_LEASE_BYTES)
        if found is None:
            return None
        try:
            record = json.loads(found[0])
            return {**record, "expires_at": float(record["expires_at"])}, found[1]
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{self.store.uri(self.key)} is not a lease ({error}); delete that object.") from error

    def try_take(self) -> dict[str, Any] | None:
        """None when this lease is now held; otherwise the record of who holds it."""
        current = self._current()
        if current is None:
            if self._write(None):
                return None
            current = self._current()
            if current is None:
                return {"holder": "another process", "expires_at": time.time()}
        record, etag = current
        if record["token"] == self.token:
            self.expires_at = record["expires_at"]
            return None
        if is_over(record) and self._write(etag):
            return None
        return record

    def holder_now(self) -> str | None:
        """Who holds the lease, without taking it; None when it is free."""
        current = self._current()
        return None if current is None or is_over(current[0]) else str(current[0]["holder"])

    def renew_forever(self) -> None:
        """Renew at a third of the lifetime until stopped or lost; outages are retried until the lease runs out."""
        while not self._stop.wait(self.ttl_s / 3):
            try:
                current = self._current()
                if current is None or current[0]["token"] != self.token:
                    self._lost_to = f"now held by {current[0]['holder']}" if current else "its object was deleted"
                    return
                self._write(current[1])
            except (ServiceError, IntegrityError):
                continue

    def release(self) -> None:
        """Stop renewing and mark the lease as free; a failure leaves it to expire."""
        self._stop.set()
        try:
            current = self._current()
            if current is not None and current[0]["token"] == self.token:
                free = {"holder": self.holder, "token": self.token, "expires_at": 0.0, "process": None}
                self.store.put_if_match(self.key, json.dumps(free).encode(), current[1])
        except (ServiceError, IntegrityError):
            return


@contextmanager
def hold_lease(store: LeaseStore, key: str, ttl_s: float, *, wait_s: float = 0.0, holder: str = "") -> Iterator[Lease]:
    """Hold the lease `key` (lifetime `ttl_s` seconds, renewed) inside the block, waiting up to `wait_s` for it.

    Raises BusyError saying who holds it and until when.
    """
    lease = Lease(store, key, ttl_s, holder)
    deadline = time.monotonic() + wait_s
    while (held_by := lease.try_take()) is not None:
        if time.monotonic() >= deadline:
            until = datetime.fromtimestamp(held_by["expires_at"], UTC).isoformat(timespec="seconds")
            raise BusyError(
                f"{store.uri(key)} is held by {held_by['holder']} until {until} (renewed while it works). "
                "Wait for that run, cancel it, or let the lease run out if it died."
            )
        time.sleep(_POLL_S)
    with renewed(lease):
        yield lease


@contextmanager
def renewed(lease: Lease) -> Iterator[Lease]:
    """Keep a lease that was taken, renewed inside the block and given back at its end."""
    renewer = threading.Thread(target=lease.renew_forever, name=f"lease {lease.key}", daemon=True)
    renewer.start()
    try:
        yield lease
    finally:
        lease._stop.set()
        renewer.join()
        lease.release()


def is_over(record: dict[str, Any]) -> bool:
    """Whether a lease was given back, ran out, or was held by a process of this machine that is gone."""
    expired = record["expires_at"] + _CLOCK_SLACK_S < time.time() or record["expires_at"] == 0.0
    return expired or process_is_gone(record.get("process"))

"""Calls of stages as small objects in the store: posted by a campaign, taken by runners under leases, answered once.

    runners/<session>/parent          lease of the campaign's process: it lives, it ended, or it is missing
    runners/<session>/calls/<key>     a stage and its arguments
    runners/<session>/leases/<key>    held by the runner that works on the call
    runners/<session>/results/<key>   what came of it: a record of addresses and numbers, or an error in words
    runners/<session>/offers/<run>    what a runner's machine has

Arguments and results are JSON of the types that the stage declares, so nothing but records travels. Everything of a session is
deleted when it ends; the work itself lies in the store as artifacts, and is found there by whoever calls again.
"""

import inspect
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal, get_type_hints

from prefect import Task
from pydantic import TypeAdapter

from opsd_core import errors
from opsd_core.digest import digest
from opsd_core.errors import IntegrityError, OpsdError
from opsd_core.models.devices import Offer
from tasks.storage.lease import Lease, is_over
from tasks.storage.s3 import Store

SESSIONS = "runners"
TTL_S = 20.0
"""Of a call's lease and of the campaign's: a stopped holder is missed after this and the lease's slack."""
Call = tuple[Any, ...]
Life = Literal["lives", "missing", "ended"]


class Desk:
    """The calls of one session."""

    def __init__(self, store: Store, session: str) -> None:
        self.store, self.prefix = store, f"{SESSIONS}/{session}"

    @property
    def parent_key(self) -> str:
        """Of the lease that the campaign's process holds."""
        return f"{self.prefix}/parent"

    def parent(self) -> Life:
        """Whether the campaign's process holds its lease, let it run out, or gave it back."""
        record = Lease(self.store, self.parent_key, TTL_S, "").record()
        if record is None or record["expires_at"] == 0.0:
            return "ended"
        return "missing" if is_over(record) else "lives"

    def post(self, task: Task, call: Call) -> str:
        """Hand out a call; returns its key. The same call has the same key."""
        record = encoded(task, call)
        key = digest(record)[:32]
        self.store.put(f"{self.prefix}/calls/{key}", json.dumps(record).encode())
        return key

    def withdraw(self, keys: Sequence[str]) -> None:
        """Take calls back, with what came of them: nobody begins them, and who works on them stops."""
        for part in ("calls", "leases", "results"):
            for key in keys:
                self.store.delete(f"{self.prefix}/{part}/{key}")

    def keys(self, part: str) -> list[str]:
        """Of `calls`, `results` or `offers`."""
        return [info.key.rpartition("/")[2] for info in self.store.list(f"{self.prefix}/{part}/")]

    def read(self, part: str, key: str) -> dict[str, Any] | None:
        """A record; None where there is none."""
        found = self.store.read(f"{self.prefix}/{part}/{key}")
        return None if found is None else json.loads(found[0])

    def lease(self, key: str, holder: str) -> Lease:
        """The lease of a call, not taken yet."""
        return Lease(self.store, f"{self.prefix}/leases/{key}", TTL_S, holder)

    def answer(self, key: str, result: dict[str, Any]) -> bool:
        """Write what came of a call; False when somebody else did before."""
        return self.store.put_if_absent(f"{self.prefix}/results/{key}", json.dumps(result).encode())

    def offer(self, run: str, where: str, offer: Offer) -> None:
        """Say what a runner's machine has; `where` is its work pool."""
        record = {"where": where, "at": time.time(), **asdict(offer)}
        self.store.put(f"{self.prefix}/offers/{run}", json.dumps(record).encode())

    def clear(self) -> None:
        """Delete everything of the session; its runners end."""
        for info in self.store.list(f"{self.prefix}/"):
            self.store.delete(info.key)


def encoded(task: Task, call: Call) -> dict[str, Any]:
    """A call as JSON."""
    hints = _hints(task)
    names = list(inspect.signature(task.fn).parameters)
    given = {
        name: TypeAdapter(hints[name]).dump_python(value, mode="json") for name, value in zip(names, call, strict=False)
    }
    return {"stage": f"{task.fn.__module__}:{task.fn.__name__}", "arguments": given}


def decoded(record: dict[str, Any]) -> tuple[Task, dict[str, Any]]:
    """The stage and the arguments of a call. IntegrityError when it names no stage of this code."""
    module, _, name = record["stage"].partition(":")
    stage = getattr(import_module(module), name, None) if module.startswith("tasks.") else None
    if not isinstance(stage, Task):
        raise IntegrityError(f"{record['stage']!r:.200} is no stage of this code: campaign and runner run other versions of it.")
    hints = _hints(stage)
    return stage, {name: TypeAdapter(hints[name]).validate_python(value) for name, value in record["arguments"].items()}


def returned(task: Task, value: Any) -> dict[str, Any]:
    """A result as JSON."""
    return {"value": TypeAdapter(_hints(task)["return"]).dump_python(value, mode="json")}


def failed(error: Exception) -> dict[str, Any]:
    """An error as JSON, in words."""
    return {"error": type(error).__name__, "said": str(error)[: errors.MAX_SAID], "names": list(getattr(error, "names", ()))}


def result_of(task: Task, result: dict[str, Any]) -> Any:
    """What a stage returned; the error that it raised is raised again."""
    if "value" in result:
        return TypeAdapter(_hints(task)["return"]).validate_python(result["value"])
    kind = getattr(errors, result["error"], None)
    if kind is errors.AlarmError:
        raise errors.AlarmError(result["said"], tuple(result["names"]))
    if isinstance(kind, type) and issubclass(kind, OpsdError):
        raise kind(result["said"])
    raise OpsdError(f"{task.name} failed in a runner: {result['error']}: {result['said']}")


@lru_cache(maxsize=64)
def _hints(task: Task) -> dict[str, Any]:
    return get_type_hints(task.fn)

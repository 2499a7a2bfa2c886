"""The same campaign done here and by runners, and what of it must be equal."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tasks import context
from tasks.runtime.settings import load_settings
from tasks.stages.placement.calls import SESSIONS
from tasks.storage.artifacts import describe
from tasks.storage.manifest import MANIFEST_NAME
from tasks.storage.s3 import Store, open_store

KINDS = ("rollouts", "targets", "grades", "states", "evaluations")


def tiny(model: str, shards: int, **overrides: Any) -> dict[str, Any]:
    """Parameters of a campaign whose shards take a moment each."""
    return {
        "recipe": "tiny",
        "iterations": 1,
        "num_prompts": 4 * shards,
        "num_steps": 4,
        "seed": 4321,
        "overrides": {
            "model": {"source": model, "dtype": "auto", "device": "auto"},
            "optimizer": {"batch_size": 16},
            "evaluation": {"num_items": 20},
            "execution": {"num_shards": shards, "checkpoint_every": 2, **overrides},
        },
    }


@contextmanager
def store_at(root: str) -> Iterator[Store]:
    """This process uses the store `root` inside the block."""
    before = os.environ["OPSD_STORE"]
    os.environ["OPSD_STORE"] = root
    context.renew()
    try:
        yield open_store(root, load_settings())
    finally:
        os.environ["OPSD_STORE"] = before
        context.renew()


def manifests(store: Store, kinds: tuple[str, ...] = KINDS) -> frozenset[str]:
    """Keys of the manifests that are there, whole artifacts or not."""
    return frozenset(i.key for kind in kinds for i in store.list(f"{kind}/") if i.key.endswith(f"/{MANIFEST_NAME}"))


def made(store: Store, kinds: tuple[str, ...] = KINDS, known: frozenset[str] = frozenset()) -> dict[str, dict[str, Any]]:
    """Kind -> key -> name, length and sha256 of every stored file, of what trained and sampled; timings are in none of them.

    known: manifests of artifacts that are left out, which may be damaged.
    """
    found: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for key in manifests(store, kinds) - known:
        artifact = describe(store, store.uri(key.removesuffix(f"/{MANIFEST_NAME}")))
        found[key.partition("/")[0]][artifact.key] = artifact.manifest["files"]
    return found


def sessions(store: Store, name: str) -> list[str]:
    """Objects of the calls of campaign `name`."""
    return [info.key for info in store.list(f"{SESSIONS}/{name}/")]


def eventually(found: Callable[[], Any], patience_s: float = 240.0) -> Any:
    """What `found` returns once it is true."""
    deadline = time.monotonic() + patience_s
    while not (value := found()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return value

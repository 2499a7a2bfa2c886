"""A trained policy as it is stored: whole, or where adapters were trained the adapter, beside the base that the store has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opsd_core.mlmodel import write_mlmodel
from opsd_core.models.policy import Policy, Serving, save_policy, verify_stored
from opsd_core.models.storage.apart import StoredBase, can_be_apart, keep_apart
from opsd_core.records.apart import REST, WEIGHTS
from tasks.context import local, settings, store
from tasks.refs import Iteration, PolicyRef
from tasks.storage.apart import place_of
from tasks.storage.artifacts import describe
from tasks.storage.cache import enter, staging

_LOADER = "tasks.storage.pyfunc_loader"


def write_candidate(iteration: Iteration, student: Policy, folder: Path) -> dict[str, Any]:
    """Write the folder, compared with the policy, and return its summary; `base` in it is the base's key in the store."""
    serving, model = Serving.of(student, iteration.config), iteration.config.model
    counted = {"parameters": sum(p.numel() for p in student.causal_lm.parameters())}
    if can_be_apart(student, model.trust_remote_code):
        return counted | _beside(iteration.campaign.initial, student, serving, folder)
    save_policy(student, folder, serving)
    verify_stored(student, folder)
    write_mlmodel(folder)
    return counted


def _beside(initial: PolicyRef, student: Policy, serving: Serving, folder: Path) -> dict[str, Any]:
    """The adapter's folder; the whole one that it stands for goes into the cache, where the next stages find it."""
    base, cache = StoredBase(local(initial), store().key_of(initial.uri), initial.digest), settings().cache
    with staging(cache) as staged:
        record = keep_apart(student, base, serving, folder, staged)
        enter(staged, place_of(record, cache))
    write_mlmodel(folder, _LOADER, f"{REST}/generation_config.json")
    return {"base": base.address, "adapter": _in_words(student, folder)}


def _in_words(student: Policy, folder: Path) -> str:
    (config,) = student.model.peft_config.values()
    return f"rank {config.r}, alpha {config.lora_alpha:g}, {(folder / WEIGHTS).stat().st_size:,} bytes"


def base_below(policy: PolicyRef) -> dict[str, str]:
    """base_uri, base_digest and adapter (its rank and size) of a policy that is stored as an adapter; empty for a whole one."""
    found = describe(store(), policy.uri)
    if not found.summary.get("base"):
        return {}
    base = describe(store(), store().uri(found.summary["base"]))
    return {"base_uri": base.uri, "base_digest": base.digest, "adapter": found.summary["adapter"]}


def beside_in_words(beside: Mapping[str, str]) -> str:
    """A sentence about `base_below` for people; empty for a whole model."""
    return f" Stored as an adapter ({beside['adapter']}) of the base {beside['base_digest'][:16]}." if beside else ""

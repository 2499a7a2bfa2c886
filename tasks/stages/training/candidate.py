"""A trained policy as its folder in the store: whole, or where adapters were trained the adapter beside the base that the store has."""

from pathlib import Path
from typing import Any

from opsd_core.mlmodel import write_mlmodel
from opsd_core.models.policy import Policy, Serving, save_policy, verify_stored
from opsd_core.models.storage.apart import StoredBase, can_be_apart, keep_apart
from opsd_core.records.apart import REST
from tasks.context import local, settings, store
from tasks.refs import Iteration, PolicyRef
from tasks.storage.apart import place_of
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
    return {"base": base.address}

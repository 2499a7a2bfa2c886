"""What may be deleted from the store: everything that no kept version needs, by lineage.

A version needs what its tags and its stored lineage name (weights, trainer state, rollouts, grades, targets, evaluation, data,
configuration, the page of its answers) and what those name in turn (prompts, teacher, starting weights), but not its ancestors'
rollouts: a trainer state is complete in itself. A model that is stored as an adapter needs its base. Configurations, verdicts and
other small records stay, and so do studies with all that their arms made. What was deleted is made again when a campaign needs
it, because a stage whose manifest is gone runs.
"""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from opsd_core.errors import IntegrityError
from tasks.guards import ANCHOR
from tasks.storage.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, content_digest, data_key, parse_manifest
from tasks.storage.s3 import Store
from tasks.tracking.registry import Version

FOLLOWED: dict[str, tuple[str, ...]] = {
    "datasets": ("of",),
    "prompts": (),
    "curricula": ("before",),
    "rollouts": ("prompts",),
    "rehearsals": (),
    "grades": ("rollouts", "grades", "solved"),
    "peers": (),
    "acceptances": (),
    "solved": ("peers", "prompts"),
    "targets": ("rollouts", "teacher", "data", "grades", "solved"),
    "checkpoints": (),
    "stopped": (),
    "refills": (),
    "renewals": (),
    "states": ("initial", "teacher", "rollouts", "grades", "targets", "rehearsal"),
    "models": ("state",),
    "engines": (),
    "evaluations": (),
    "guards": (),
    "answers": (),
    "lineage": (),
    "campaigns": ("initial", "data", "teachers"),
    "verdicts": ("evaluations",),
    "studies": ("initial", "data"),
    "study-arms": ("initial", "data", "teachers"),
    "study-sets": (),
    "study-reports": (),
}
"""Kind -> entries of its identity that name what it needs. Objects of other kinds are never touched."""
ALWAYS_KEPT = ("campaigns", "engines", "peers", "renewals", "stopped", "verdicts")
"""Small records; what they name may go."""
STUDIES = ("studies", "study-arms", "study-sets", "study-reports")
"""Results for good: they stay, with the weights, states, rollouts and targets of every arm."""
_NAMES_IN = {"study-arms": "training.json", "lineage": "lineage.json"}
"""Kind -> the file of addresses of what it needs, beside its identity."""
PINNED = "opsd.pinned"


@dataclass
class Stored:
    """One artifact as it lies in the store, finished or not."""

    key: str
    num_bytes: int = 0
    modified: float = 0.0
    identity: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """Every way in which another artifact may name it: digest, address, identity digest, files digest."""
    base: str = ""
    """Key of the model that it is an adapter of."""

    @property
    def kind(self) -> str:
        return self.key.partition("/")[0]


@dataclass(frozen=True)
class Plan:
    """What is kept, why the rest of it is, and what goes."""

    stored: dict[str, Stored]
    kept: frozenset[str]
    protected: frozenset[str]
    """Needed by nobody, but too young, or perhaps in the making while a campaign runs."""

    @property
    def deletable(self) -> list[str]:
        """Keys of what goes, sorted."""
        return sorted(self.stored.keys() - self.kept - self.protected)

    def rows(self) -> list[dict[str, Any]]:
        """Count and bytes per kind: kept, protected, deletable."""
        groups = {"kept": self.kept, "protected": self.protected, "deletable": frozenset(self.deletable)}
        rows = []
        for kind in FOLLOWED:
            row: dict[str, Any] = {"kind": kind}
            for name, keys in groups.items():
                chosen = [self.stored[key] for key in keys if self.stored[key].kind == kind]
                row |= {name: len(chosen), f"{name} bytes": sum(entry.num_bytes for entry in chosen)}
            rows.append(row)
        total = {name: sum(row[name] for row in rows) for name in rows[0] if name != "kind"}
        return [*rows, {"kind": "total", **total}]


def survey(store: Store) -> dict[str, Stored]:
    """Every artifact of a known kind by its key; those without a usable manifest name nothing and are named by nobody."""
    found: dict[str, Stored] = {}
    for kind in FOLLOWED:
        for info in store.list(kind + "/"):
            match = re.match(r"[a-z-]+/[0-9a-f]{32}(?=/)", info.key)
            if match is None:
                continue
            entry = found.setdefault(match[0], Stored(match[0]))
            entry.num_bytes += info.size
            entry.modified = max(entry.modified, info.modified)
    for key, entry in found.items():
        data = store.read(f"{key}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
        try:
            manifest = parse_manifest(data[0], key) if data else None
        except IntegrityError:
            continue  # `find` would not use it either
        if manifest is not None:
            folder = data_key(key, manifest)
            entry.identity = manifest["identity"]
            entry.base = "/".join(str(manifest["summary"].get("base", "")).split("/")[:2])
            entry.names = (content_digest(manifest), store.uri(folder), key.split("/")[1], folder.rsplit("/", 1)[1])
    return found


def kept_versions(versions: Iterable[Version], keep_candidates: int, running: bool) -> list[Version]:
    """Versions of one model whose artifacts stay: aliased, pinned, guards' anchors, the newest candidates; all while one runs."""
    versions = list(versions)
    if running:
        return versions
    newest = [entry.version for entry in versions if entry.tags.get("opsd.role") == "candidate"][-keep_candidates:]
    return [
        entry
        for entry in versions
        if entry.aliases
        or entry.version in newest
        or ANCHOR in entry.tags
        or entry.tags.get(PINNED, "").lower() in ("true", "1", "yes")
    ]


def needed_by(store: Store, stored: Mapping[str, Stored], versions: Iterable[Version]) -> set[str]:
    """Keys of what these versions and all studies need: named in tags, source or arms, judged in verdicts, and onwards."""
    index: dict[str, set[str]] = {}
    for key, entry in stored.items():
        for name in entry.names:
            index.setdefault(name, set()).add(key)
    address = re.compile(re.escape(store.root) + r"/([a-z-]+/[0-9a-f]{32})(?=/|\"|$)")
    waiting, judged = [key for key, entry in stored.items() if entry.kind in STUDIES], set()
    for version in versions:
        for text in (version.source, *version.tags.values()):
            waiting += [key for key in address.findall(text) if key in stored]
        judged.add((version.tags.get("opsd.campaign"), version.version))
    for key, entry in stored.items():
        of = (entry.identity.get("campaign"), (entry.identity.get("versions") or [None])[0])
        if entry.kind == "verdicts" and of in judged:
            waiting.append(key)
    needed: set[str] = set()
    while waiting:
        key = waiting.pop()
        if key in needed:
            continue
        needed.add(key)
        if stored[key].base in stored:
            waiting.append(stored[key].base)
        if stored[key].kind in _NAMES_IN and stored[key].names:
            text = store.get(f"{store.key_of(stored[key].names[1])}/{_NAMES_IN[stored[key].kind]}").decode()
            waiting += [found for found in address.findall(text) if found in stored]
        for name in FOLLOWED[stored[key].kind]:
            value = stored[key].identity.get(name)
            for reference in value if isinstance(value, list) else [value]:
                waiting += index.get(reference, ()) if isinstance(reference, str) else ()
    return needed


def make_plan(
    store: Store,
    versions: Mapping[str, list[Version]],
    *,
    keep_candidates: int,
    min_age_s: float,
    running: Iterable[str] = (),
) -> Plan:
    """Which artifacts go; `versions` are all versions of every registered model, `running` the models with a campaign.

    While any campaign runs, nothing that belongs to no version goes either: it may be an iteration in the making.
    """
    stored, running = survey(store), set(running)
    chosen = [v for name, of in versions.items() for v in kept_versions(of, keep_candidates, name in running)]
    kept = needed_by(store, stored, chosen) | {key for key, entry in stored.items() if entry.kind in ALWAYS_KEPT}
    protected = {key for key, entry in stored.items() if entry.modified > time.time() - min_age_s}
    if running:
        everyone = needed_by(store, stored, (entry for of in versions.values() for entry in of))
        protected |= stored.keys() - everyone
    return Plan(stored, frozenset(kept), frozenset(protected - kept))

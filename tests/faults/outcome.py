"""What a campaign leaves behind, in a form in which two campaigns of the same work must be equal."""

import re
from collections import Counter
from typing import Any

import mlflow

from opsd_core.records.rollouts import read_rollouts
from tasks.context import tracker
from tasks.storage.artifacts import describe, fetch
from tasks.storage.manifest import MANIFEST_NAME
from tests.faults.kills import Arm

_LINEAGE = re.compile(
    r"opsd\.(iteration|role|model_digest|parent_.*|teacher_.*|rollout_digests|gate|replaced.*)|gate\.(?!at).*"
)
_OWN = ("leases/", "probe/", "campaigns/", "verdicts/", "lineage/", "answers/")
"""Kinds whose identity holds the campaign's name or id; the other ones must be the same objects, byte for byte."""
_TIMED = ("system/", "time/", "memory/")


def outcome(arm: Arm) -> dict[str, Any]:
    """Weights, registry, moves of the champion, metrics, and stored objects of `arm`'s campaign.

    AssertionError when a rollout is stored twice, a version has a twin, or a metric has a step twice.
    """
    store, versions = arm.store(), tracker().versions(arm.name)
    sources = [entry.source for entry in versions]
    assert len(set(sources)) == len(sources), f"{arm.name}: registered twice"
    kinds = Counter(info.key.split("/")[0] for info in store.list("") if info.key.endswith(f"/{MANIFEST_NAME}"))
    return {
        "registry": [
            (entry.version, entry.aliases, {t: v for t, v in sorted(entry.tags.items()) if _LINEAGE.fullmatch(t)})
            for entry in versions
        ],
        "moves": [(move.action, move.before, move.after) for move in tracker().moves(arm.name)],
        "weights": [describe(store, source).manifest["files"] for source in sources],
        "rollouts": _rollouts(arm),
        "runs": _metrics(arm.name),
        "artifacts": dict(kinds),
        "objects": sorted(
            info.key for info in store.list("") if not info.key.startswith(_OWN) and "MANIFEST" not in info.key
        ),
    }


def _rollouts(arm: Arm) -> dict[tuple[str, ...], int]:
    """How often each (shard, prompt, sample) is stored; every one must be there once."""
    store, found = arm.store(), Counter()
    shards = [info.key.rpartition("/")[0] for info in store.list("rollouts/") if info.key.endswith(MANIFEST_NAME)]
    for key in shards:
        artifact = describe(store, store.uri(key))
        if "joined" in artifact.identity:
            continue  # the rounds of a shard once more, together
        rows = read_rollouts(fetch(store, artifact, arm.folder / "cache") / "rollouts.parquet")
        found.update((str(artifact.identity["iteration"]), row.example_id, str(row.sample_index)) for row in rows)
    assert set(found.values()) == {1}, f"{arm.name}: {found.most_common(3)}"
    return dict(found)


def _metrics(name: str) -> dict[str, Any]:
    """Runs and the points of their metrics, times and machine load left out; every step once."""
    client = mlflow.MlflowClient()
    found: dict[str, Any] = {}
    for run in client.search_runs([client.get_experiment_by_name(name).experiment_id]):
        which = run.data.tags.get("opsd.iteration", "campaign")
        assert which not in found, f"{name}: two runs of {which}"
        found[which] = {"status": run.info.status}
        for metric in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, metric)
            steps = [point.step for point in points]
            assert len(steps) == len(set(steps)), f"{name}, {which}: {metric} has a step twice"
            if not metric.startswith(_TIMED):
                found[which][metric] = sorted((point.step, point.value) for point in points)
    return found


def differences(mine: dict[str, Any], expected: dict[str, Any], path: str = "") -> list[str]:
    """Every leaf in which two outcomes differ, by name."""
    if isinstance(mine, dict) and isinstance(expected, dict):
        keys = sorted(set(mine) | set(expected), key=str)
        return [line for key in keys for line in differences(mine.get(key), expected.get(key), f"{path}/{key}")]
    return [] if mine == expected else [f"{path}: {str(mine)[:300]} instead of {str(expected)[:300]}"]

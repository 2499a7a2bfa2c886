"""One shard of rollouts out of a shard's rounds, prompt after prompt: what follows reads it as if it had been sampled at once."""

import heapq
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from opsd_core.records.rollouts import Rollout, StoredRollouts, write_rollouts
from opsd_core.rollout.engines.mismatch import Mismatch
from tasks.asked import PromptSet, ShardRef
from tasks.context import local, produce, store
from tasks.refs import Iteration
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.storage.artifacts import Artifact, describe

_OF_THE_FIRST = ("policy_version", "engine", "computed")
_SUMS = ("num_rollouts", "num_references", "num_tokens", "truncated")


@task(name="join-rounds", task_run_name="join-rounds-it{iteration.number}-shard{parts[0].shard}", **STAGE)
def join_rounds(iteration: Iteration, prompts: PromptSet, parts: list[ShardRef]) -> ShardRef:
    """The completions of all rounds of a shard; `parts` in the order in which they were sampled."""
    artifact, _ = produce("rollouts", join_identity(iteration, prompts, parts), partial(_join, parts))
    counts = {name: artifact.summary[name] for name in ("num_rollouts", "num_references", "num_tokens")}
    return parts[0].model_copy(
        update={
            "uri": artifact.uri,
            "digest": artifact.digest,
            "seconds": sum(part.seconds for part in parts),
            "mismatch": artifact.summary.get("mismatch", {}),
            **counts,
        }
    )


def join_identity(iteration: Iteration, prompts: PromptSet, parts: Sequence[ShardRef]) -> dict[str, Any]:
    """What decides a shard of several rounds."""
    return {
        "policy": iteration.policy.digest,
        "prompts": prompts.content,
        "shard": parts[0].shard,
        "seed": iteration.config.seed,
        "iteration": iteration.number,
        "joined": [part.digest for part in parts],
    }


def _join(parts: Sequence[ShardRef], folder: Path) -> dict[str, Any]:
    write_rollouts(folder / "rollouts.parquet", _in_order([StoredRollouts([local(p) / "rollouts.parquet"]) for p in parts]))
    found = [describe(store(), part.uri) for part in parts]
    first = {name: found[0].summary[name] for name in _OF_THE_FIRST}
    sums = {name: sum(int(artifact.summary[name]) for artifact in found) for name in _SUMS}
    return first | sums | _held(found) | {"sampling_seconds": sum(map(sampling_seconds, found))}


def _in_order(rounds: Sequence[StoredRollouts]) -> Iterator[Rollout]:
    """All completions of a prompt together, in the first round's order of prompts; a row group of each round is in memory."""
    places: dict[str, int] = {}
    for part in rounds[0].batches(["example_id"]):
        for name in part["example_id"].to_pylist():
            places.setdefault(name, len(places))
    return heapq.merge(*rounds, key=lambda rollout: (places[rollout.example_id], rollout.sample_index))


def _held(found: Sequence[Artifact]) -> dict[str, Any]:
    """How far the record is from transformers, over all rounds."""
    worst = {"recorded_error": max(artifact.summary["recorded_error"] for artifact in found)}
    known = [Mismatch(**artifact.summary["mismatch"]) for artifact in found if artifact.summary.get("mismatch")]
    return worst | ({"mismatch": Mismatch.together(known).to_json()} if known else {})


def sampling_seconds(artifact: Artifact) -> float:
    """Model compute of a shard of rollouts, over all of its rounds."""
    return float(artifact.summary.get("sampling_seconds", artifact.summary["seconds"]))

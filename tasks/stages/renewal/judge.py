"""Are an earlier iteration's completions learned from once more? Measured, decided and stored."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from prefect.logging import get_run_logger

from opsd_core.models.policy import dtype_identity
from opsd_core.records.stored import Chosen
from opsd_core.training.wear import Judgement, judge_age, judge_wear, measure_wear, spread
from tasks.context import local, produce
from tasks.loaded import rollouts_of, shared_policy
from tasks.refs import Held, Iteration, Judged
from tasks.runtime.retries import STAGE
from tasks.runtime.side_by_side import HERE, Run
from tasks.runtime.stage import task


def judge(iteration: Iteration, held: Held | None, run: Run = HERE) -> Judged:
    """Whether `held` are kept, which `run` finds out; never without any, nor where nothing is sampled or saved."""
    rollout = iteration.config.rollout
    if held is None or rollout.refresh == "every_iteration" or rollout.on_policy_fraction == 0.0:
        return Judged()
    return run.one(judge_rollouts, iteration, held)


@task(name="judge-rollouts", task_run_name="judge-rollouts-it{iteration.number}", **STAGE)
def judge_rollouts(iteration: Iteration, held: Held) -> Judged:
    """How far the policy is from the one that sampled, and whether that is too far (rollout.refresh)."""
    artifact, seconds = produce("renewals", renewal_identity(iteration, held), partial(_judge, iteration, held))
    found = json.loads((local(artifact.uri) / "renewal.json").read_text())
    get_run_logger().info("completions are %s: %s", "kept" if found["keep"] else "sampled anew", found["reason"])
    return Judged(**found, seconds=seconds, uri=artifact.uri)


def renewal_identity(iteration: Iteration, held: Held) -> dict[str, Any]:
    """What decides whether completions are kept."""
    config = iteration.config
    limits = config.rollout.model_dump(include={"refresh", "min_overlap", "min_effective_sample_size"})
    return {
        "rollouts": [shard.digest for shard in held.shards],
        "policy": iteration.policy.digest,
        "age": _age(iteration, held),
        "sampling": [held.sampling, config.rollout.sampling],
        "limits": limits | config.token_weights.model_dump(include={"importance_clip", "max_staleness"}),
        "dtype": dtype_identity(config.model),
    }


def _age(iteration: Iteration, held: Held) -> int:
    return iteration.number - min(shard.iteration for shard in held.shards)


def _judge(iteration: Iteration, held: Held, folder: Path) -> dict[str, Any]:
    config = iteration.config
    judgement, metrics = judge_age(config, _age(iteration, held), held.sampling == config.rollout.sampling), {}
    if judgement is None:
        judgement, metrics = _measured(iteration, held)
    found = judgement._asdict() | {"metrics": metrics}
    (folder / "renewal.json").write_text(json.dumps(found, sort_keys=True))
    return found


def _measured(iteration: Iteration, held: Held) -> tuple[Judgement, dict[str, float]]:
    config, stored = iteration.config, rollouts_of(*held.shards)
    looked_at = list(Chosen(stored, np.array(spread(len(stored)), np.int64)))
    wear = measure_wear(shared_policy(iteration.policy, config.model), looked_at, config)
    metrics = {
        "rollout/overlap_top_k": wear.overlap_top_k,
        "rollout/effective_sample_size": wear.effective_sample_size,
    }
    return judge_wear(config, wear), metrics

"""Sample completions shard by shard, with the distribution at every position."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from opsd_core.config import CampaignConfig
from opsd_core.models.memory import memory_estimate
from opsd_core.models.policy import resolve_device, resolve_dtype, tokenizer_digest
from opsd_core.prompts.references import reference_template
from opsd_core.records.examples import read_examples
from opsd_core.records.rollouts import write_rollouts
from opsd_core.rollout.environments import environment_identity
from opsd_core.rollout.sample import sample_each, sample_rollouts
from tasks.asked import AskedAgain
from tasks.context import local, produce
from tasks.engines import engine_for, stop_engine
from tasks.loaded import prompt_builder, shared_policy
from tasks.refs import Iteration, PromptSet, ShardRef
from tasks.runtime.progress import progress
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task


@task(name="rollout", task_run_name="rollout-it{iteration.number}{prompts.round_name}-shard{shard}", **STAGE)
def rollout(iteration: Iteration, prompts: AskedAgain | PromptSet, shard: int) -> ShardRef:
    """Sample the shard's completions from the policy and store them with the distribution at every position."""
    identity = rollout_identity(iteration, prompts, shard)
    artifact, seconds = produce("rollouts", identity, partial(_sample, iteration, prompts, shard))
    last = shard == prompts.num_shards - 1 and not iteration.config.rollout.asks_again  # its rounds end it
    if iteration.config.execution.placement == "inline" and last:
        stop_engine()  # what follows needs the memory; runners stop theirs between stages
    counts = {name: artifact.summary[name] for name in ("num_rollouts", "num_references", "num_tokens")}
    mismatch = artifact.summary.get("mismatch", {})
    return ShardRef(
        iteration=iteration.number,
        shard=shard,
        uri=artifact.uri,
        digest=artifact.digest,
        seconds=seconds,
        mismatch=mismatch,
        **counts,
    )


def rollout_identity(iteration: Iteration, prompts: AskedAgain | PromptSet, shard: int) -> dict[str, Any]:
    """What decides a shard of completions."""
    config, builder = iteration.config, prompt_builder(iteration.policy, iteration.config)
    identity = {
        "policy": iteration.policy.digest,
        "prompts": prompts.content,
        "shard": shard,
        "student_template": builder.student_digest,
        "tokenizer": tokenizer_digest(builder.tokenizer),
        "sampling": config.rollout.sampling,
        "seed": config.seed,
        "iteration": iteration.number,
        "engine": engine(config),
    }
    identity |= environment_identity(config.rollout)
    if isinstance(prompts, AskedAgain):
        again = {"group_size": prompts.group_size, "first_sample": prompts.first_sample}
        return identity | {"sampling": config.rollout.sampling | again}
    if config.rollout.on_policy_fraction < 1.0:
        identity["references"] = reference_template(config)
    return identity


def engine(config: CampaignConfig) -> dict[str, Any]:
    """What decides a completion besides weights, prompt and seed."""
    dtype = str(resolve_dtype(config.model)).removeprefix("torch.")
    return {"name": config.execution.engine, "dtype": dtype} | {
        name: value for name, value in config.execution.sampling.items() if name != "engine"
    }


def computed(config: CampaignConfig, batch: int, expected_bytes: int = 0) -> dict[str, Any]:
    """How it was computed, where another batch size or device may round the last bits differently; and the memory expected."""
    device = resolve_device(config.model).type
    return {
        "device": device,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "bitwise_reproducible": device == "cpu",
        "expected_bytes": expected_bytes,
    }


def _sample(iteration: Iteration, prompts: AskedAgain | PromptSet, shard: int, folder: Path) -> dict[str, Any]:
    config, policy = iteration.config, shared_policy(iteration.policy, iteration.config.model)
    examples = read_examples(local(prompts) / f"shard-{shard:04d}.parquet")
    number, title = iteration.number, f"rollout-it{iteration.number}{prompts.round_name}-shard{shard}"
    with engine_for(iteration.policy, config) as sampler:
        with progress(config.name, title, "completions", (shard, prompts.num_shards)) as report:
            if isinstance(prompts, AskedAgain):
                rollouts = sample_each(sampler, examples, prompts.samples, number, config, report)
            else:
                rollouts = sample_rollouts(policy, examples, number, config, report, sampler)
        rollouts, held = sampler.checked(rollouts, config)
    write_rollouts(folder / "rollouts.parquet", rollouts)
    return {
        "num_rollouts": len(rollouts),
        "num_references": sum(r.source == "reference" for r in rollouts),
        "num_tokens": sum(r.num_sampled for r in rollouts),
        "truncated": sum(r.truncated for r in rollouts),
        "policy_version": iteration.policy.version,
        "engine": {"name": sampler.name, "version": sampler.version},
        **held,
        "computed": computed(config, config.execution.rollout_batch_size, memory_estimate(policy, config)["rollout"]),
    }

"""Choose prompts, sample completions shard by shard, grade them and decide which to train on."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from prefect import task

from opsd_core.config import RolloutConfig
from opsd_core.digest import derive_seed
from opsd_core.models.policy import Policy, resolve_dtype, tokenizer_digest
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.references import reference_template
from opsd_core.records.examples import read_examples
from opsd_core.records.rollouts import Rollout, write_rollouts
from opsd_core.rollout.generation import generate
from opsd_core.rollout.references import off_policy, reference_rollouts
from opsd_core.rollout.sampling import Sampling, rollout_of
from tasks.context import load_shared, local, produce
from tasks.refs import Campaign, PolicyRef, PromptSet, ShardRef
from tasks.runtime.progress import progress
from tasks.runtime.retries import STAGE


@task(name="rollout", task_run_name="rollout-it{prompts.iteration}-shard{shard}", **STAGE)
def rollout(campaign: Campaign, policy: PolicyRef, prompts: PromptSet, shard: int) -> ShardRef:
    """Sample the shard's completions from `policy` and store them with the distribution at every position."""
    config = campaign.config
    loaded = load_shared(policy.uri, config.model.model_dump_json())
    builder = PromptBuilder(loaded.tokenizer, config.prompts, config.teacher, config.model.chat_template)
    identity = {
        "policy": policy.digest,
        "prompts": prompts.uri.rsplit("/", 1)[-1],
        "shard": shard,
        "student_template": builder.student_digest,
        "tokenizer": tokenizer_digest(loaded.tokenizer),
        "sampling": config.rollout.model_dump(exclude={"num_prompts", "num_shards"}),
        "seed": config.seed,
        "iteration": prompts.iteration,
        "engine": engine(config.model),
    }
    if config.rollout.on_policy_fraction < 1.0:
        identity["references"] = reference_template(config)
    make = partial(_sample, campaign, policy, prompts, shard, loaded, builder)
    artifact, seconds = produce("rollouts", identity, make)
    counts = artifact.summary
    return ShardRef(
        iteration=prompts.iteration,
        shard=shard,
        uri=artifact.uri,
        digest=artifact.digest,
        num_rollouts=counts["num_rollouts"],
        num_references=counts["num_references"],
        num_tokens=counts["num_tokens"],
        seconds=seconds,
    )


def sample_rollouts(
    policy: Policy,
    config: RolloutConfig,
    keys: list[tuple[str, int]],
    prompts: list[list[int]],
    seeds: list[int],
    title: str,
) -> list[Rollout]:
    """One completion per (example id, sample index), prompt and seed, with its distributions; `title` names the progress."""
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        max_completion_length=config.max_completion_length,
        record_top_k=config.record_top_k,
    )
    with progress(title, "completions") as report:
        completions = generate(policy, prompts, seeds, sampling, config.batch_size, report)
    texts = [policy.tokenizer.decode(completion.ids_T, skip_special_tokens=True) for completion in completions]
    return [
        rollout_of(key, seed, prompt, completion, text)
        for key, seed, prompt, completion, text in zip(keys, seeds, prompts, completions, texts, strict=True)
    ]


def engine(model: Any) -> dict[str, Any]:
    """What decides a completion's bits beside weights, prompt and seed."""
    cuda = model.device != "cpu" and torch.cuda.is_available()
    return {
        "name": "transformers",
        "dtype": str(resolve_dtype(model)).removeprefix("torch."),
        "device": "cuda" if cuda else "cpu",
        "bitwise_reproducible": not cuda,
    }


def _sample(campaign, policy, prompts, shard, loaded, builder, folder: Path) -> dict[str, Any]:
    config = campaign.config
    examples = read_examples(local(prompts.uri) / f"shard-{shard:04d}.parquet")
    given, asked = [], []
    for example in examples:
        (given if off_policy(example.id, prompts.iteration, config) else asked).append(example)
    pairs = [(example, sample) for example in asked for sample in range(config.rollout.group_size)]
    ids = {example.id: builder.student_ids(example) for example in examples}
    seeds = [derive_seed("rollout", config.seed, prompts.iteration, example.id, sample) for example, sample in pairs]
    keys = [(example.id, sample) for example, sample in pairs]
    title = f"rollout-it{prompts.iteration}-shard{shard}"
    rollouts = sample_rollouts(loaded, config.rollout, keys, [ids[example_id] for example_id, _ in keys], seeds, title)
    rollouts += reference_rollouts(loaded, given, [ids[example.id] for example in given], config)
    write_rollouts(folder / "rollouts.parquet", rollouts)
    num_tokens = sum(len(r.completion_ids) for r in rollouts)
    return {
        "num_rollouts": len(rollouts),
        "num_references": len(given),
        "num_tokens": num_tokens,
        "truncated": sum(r.truncated for r in rollouts),
        "policy_version": policy.version,
    }

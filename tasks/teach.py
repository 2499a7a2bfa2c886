"""Score stored completions with the teacher: soft targets, computed once and kept beside the rollouts."""

from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from opsd_core.contexts import CONTEXTS
from opsd_core.examples_io import read_examples
from opsd_core.models import Policy
from opsd_core.prompts import PromptBuilder
from opsd_core.rollouts import read_rollouts
from opsd_core.targets import score_targets, write_targets
from opsd_core.types import Example
from tasks.context import load_shared, local, produce
from tasks.progress import progress
from tasks.records import Campaign, PolicyRef, ShardRef, TargetsRef


def teacher_ref(campaign: Campaign, champion: PolicyRef) -> PolicyRef:
    """The fixed weights that teach in this iteration."""
    return champion if campaign.config.teacher.weights == "previous" else campaign.initial


def teacher_prompts(campaign: Campaign, tokenizer: Any, examples: list[Example]) -> dict[str, list[int]]:
    """The teacher's prompt of each example, privileged context included."""
    config = campaign.config
    builder = PromptBuilder(tokenizer, config.prompts, config.teacher, config.model.chat_template)
    context = CONTEXTS[config.teacher.context]
    pool = read_examples(local(campaign.data_uri) / "train.parquet")
    return {e.id: builder.teacher_ids(e, context(e, pool, config.teacher)) for e in examples}


@task(
    name="score-targets",
    task_run_name="score-targets-it{shard.iteration}-shard{shard.shard}",
    retries=2,
    retry_delay_seconds=[3, 20],
    cache_policy=NO_CACHE,
)
def score_shard(campaign: Campaign, teacher: PolicyRef, shard: ShardRef) -> TargetsRef:
    """Teacher's top-k and tail at every position of the shard's completions."""
    config = campaign.config
    loaded = load_shared(teacher.uri, config.model.model_dump_json())
    builder = PromptBuilder(loaded.tokenizer, config.prompts, config.teacher, config.model.chat_template)
    identity = {
        "rollouts": shard.digest,
        "teacher": teacher.digest,
        "template": builder.teacher_digest,
        "context": config.teacher.context,
        "reference": config.teacher.reference,
        "data": campaign.data_uri.rsplit("/", 2)[-2],
        "temperature": config.teacher.temperature * config.distillation.temperature,
        "top_k": config.distillation.top_k,
    }
    artifact, seconds = produce("targets", identity, partial(_score, campaign, loaded, shard))
    return TargetsRef(
        shard=shard.shard,
        uri=artifact.uri,
        digest=artifact.digest,
        num_tokens=artifact.summary["num_tokens"],
        seconds=seconds,
    )


def _score(campaign: Campaign, teacher: Policy, shard: ShardRef, folder: Path) -> dict[str, Any]:
    config = campaign.config
    rollouts = read_rollouts(local(shard.uri) / "rollouts.parquet")
    wanted = {r.example_id for r in rollouts}
    train = read_examples(local(campaign.data_uri) / "train.parquet")
    prompts = teacher_prompts(campaign, teacher.tokenizer, [e for e in train if e.id in wanted])
    with progress(f"targets-it{shard.iteration}-shard{shard.shard}", "completions") as report:
        targets = score_targets(
            teacher,
            rollouts,
            [prompts[r.example_id] for r in rollouts],
            config.distillation.top_k,
            config.teacher.temperature * config.distillation.temperature,
            config.optimizer.microbatch_tokens,
            report,
        )
    write_targets(folder / "targets.parquet", targets)
    return {"num_tokens": sum(len(t.tail_logprob_T) for t in targets)}

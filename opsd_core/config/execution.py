"""How the work is done, as opposed to what decides its result."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from opsd_core.config.base import Section
from opsd_core.config.kinds.engines import ENGINE_KINDS

PoolName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ExecutionConfig(Section):
    """How the work is computed. Only overlap, engine and checked_share are in identities; with others changed the work continues.

    A kernel may round differently at another batch size, in the last bits. What was used stands in each artifact's summary.
    """

    placement: Literal["inline", "workers"] = Field(
        "inline",
        description="Where model work is done: inline = in the campaign's own process; workers = by runners, one in each slot of "
        "execution.pools.",
    )
    pools: dict[PoolName, Annotated[int, Field(ge=1, le=1000)]] = Field(
        {},
        description="Prefect work pool -> how many runners it holds for the whole campaign, such as {gpu: 4}: one for each GPU. "
        "Read only with execution.placement=workers.",
    )
    engine: Literal[*ENGINE_KINDS] = Field(
        "transformers",
        description="What samples rollouts: "
        + "; ".join(f"{name} = {kind.meaning}" for name, kind in ENGINE_KINDS.items())
        + " (`make engine-vllm`). Another engine's rollouts are others, so it is part of what a campaign is. Targets, training "
        "and evaluations are computed with transformers all the same.",
    )
    engine_memory: float = Field(
        0.5,
        gt=0.05,
        le=0.95,
        description="Share of a CUDA device's memory that an engine of its own takes while it samples; the policy stands in the "
        "rest, to compute the sampled tokens again.",
    )
    checked_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of a shard's completions, drawn by their keys, that transformers computes again to measure an engine "
        "of its own. Below 1 entropies are those of the recorded entries with the tail as one event, so less than they are.",
    )
    max_mismatch: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Mean difference in nats per token between the log-probabilities that an engine of its own recorded and "
        "those that transformers gives the same tokens, beyond which a shard is refused; null = what rounding explains: .005 in "
        "float32, .15 in bfloat16.",
    )
    num_shards: int = Field(
        2, ge=1, le=1000, description="Rollout tasks per iteration; one stored object each. Prompts that are drawn stay cut."
    )
    rollout_batch_size: int = Field(32, ge=1, le=4096, description="Completions decoded together when rollouts are sampled.")
    evaluation_batch_size: int = Field(64, ge=1, le=4096, description="Completions decoded together in an evaluation.")
    microbatch_tokens: int = Field(
        8192, ge=16, description="Most padded tokens (prompt + completion) in one forward pass of scoring and training."
    )
    gradient_checkpointing: bool | None = Field(
        None,
        description="Compute activations again in the backward pass instead of keeping them: the same gradients for about a "
        "third more time. null = where the estimate says that they do not fit.",
    )
    ranks: int = Field(
        1,
        ge=1,
        le=1024,
        description="Processes that distil together on one machine, each on a device of its own (on a CPU, with its share of the "
        "cores). The objective is the same: it is normalised by tokens, whoever scored them.",
    )
    parallel: Literal["auto", "ddp", "fsdp"] = Field(
        "auto",
        description="How the processes of execution.ranks share the work. ddp = each has all weights; fsdp = each has a part of "
        "weights, gradients, moments and teachers (FSDP2); auto = ddp where the estimate says that it fits, else fsdp.",
    )
    offload: bool | None = Field(
        None,
        description="Keep weights, gradients, moments and teachers of a distillation in the host's memory, from where "
        "layers come to the GPU to be computed (FSDP2's offloading), and step on the CPU: least memory, more time. null = "
        "where the estimate says that nothing else fits. Only with a CUDA device, and not with execution.parallel=ddp.",
    )
    overlap: bool = Field(
        False,
        description="Sample the next iteration's completions while this one trains, with the policy it began with: they are one "
        "iteration old when they are learned from. It changes what is learned, so it is part of a campaign's identity.",
    )
    checkpoint_every: int = Field(20, ge=1, description="Optimiser steps between durable trainer checkpoints.")

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings that decide the record of a rollout, where they are not the defaults."""
        read = {"engine", *{"checked_share"} & {*ENGINE_KINDS[self.engine].reads}}
        return self.model_dump(include=read, exclude_defaults=True)

    @model_validator(mode="after")
    def _copies_are_not_offloaded(self) -> "ExecutionConfig":
        if self.offload and self.parallel == "ddp" and self.ranks > 1:
            raise ValueError(
                "execution.offload=true needs weights in parts, and execution.parallel=ddp gives each process all of them. Set "
                "execution.parallel=fsdp or auto, or execution.offload=false."
            )
        return self

    @model_validator(mode="after")
    def _runners_have_a_pool(self) -> "ExecutionConfig":
        if self.placement == "workers" and not self.pools:
            raise ValueError(
                "execution.placement=workers needs execution.pools: the Prefect work pools whose workers do it, and how many "
                'runners each of them holds, such as {"gpu": 4}. Name them, or set execution.placement=inline.'
            )
        return self

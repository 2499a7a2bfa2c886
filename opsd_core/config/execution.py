"""How the work is done, as opposed to what decides its result."""

from pydantic import Field

from opsd_core.config.base import Section


class ExecutionConfig(Section):
    """How the work is computed. No setting is part of any identity: a changed one continues the same work.

    A kernel may round differently at another batch size, in the last bits. What was used stands in each artifact's summary.
    """

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
    checkpoint_every: int = Field(20, ge=1, description="Optimiser steps between durable trainer checkpoints.")

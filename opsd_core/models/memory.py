"""How much memory the stages of an iteration need, before any of them runs: an estimate from sizes alone.

P = parameters, A = those of adapters, T = tokens of a forward pass, L = layers, H = hidden size, I = size of the feed-forward
layer, n = processes that train together

    rollout, evaluate   b P + caches of keys and values of the batch at full length
    targets             b P + hidden states
    distil              held + moving + the larger of activations and the optimiser's own copies
      held              4 P, or p P + 4 A under adapters (p: model.lora.base_dtype), + 12 P_trained (gradient and two moments)
                        + b P per fixed teacher, 4 P for an average, nothing for a teacher that is the student or was recorded
      activations       4 T L (10 H + 4 I), with gradient checkpointing 4 T (L H + 10 H + 4 I)
    ddp                 each process holds it all, and one more copy of the gradients while they are added up
    fsdp                held / n, and what is whole for a moment: embeddings, head and two layers, with their gradients
    offload             nothing held, and what is whole for a moment: the rest is in the host's memory

b = bytes of a weight in the dtype of sampling. The factors 10 and 4 count what a decoder layer keeps for its backward pass.
Checked against counted bytes in tests/core/models/test_training_memory.py; figures for common sizes in docs/LOG.md.
"""

from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import PretrainedConfig

from opsd_core.config import CampaignConfig, TeacherConfig
from opsd_core.config.kinds.engines import ENGINE_KINDS
from opsd_core.models.policy import Policy, resolve_device, resolve_dtype, training_dtype

_OVERHEAD = 600_000_000
"""Bytes of the process itself: interpreter, libraries, buffers of kernels."""
_SHARE = 0.8
"""Share of the free memory that training may take before activations are computed twice instead of kept."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, in numbers."""

    parameters: int
    ends: int
    """Numbers of embedding and head; once where they are one matrix."""
    hidden: int
    layers: int
    intermediate: int
    cache: int
    """Numbers that the caches keep per token."""

    @classmethod
    def of(cls, policy: Policy) -> "Shape":
        """Of a policy, with or without its weights."""
        model = policy.causal_lm
        ends = {id(m.weight): m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}
        config = model.config.get_text_config(decoder=True)
        return cls._of(config, sum(p.numel() for p in model.parameters()), sum(weight.numel() for weight in ends.values()))

    @classmethod
    def of_config(cls, config: PretrainedConfig) -> "Shape":
        """Of a decoder of the usual kind, by its configuration alone: attention of grouped heads, a gated feed-forward layer."""
        text = config.get_text_config(decoder=True)
        ends = text.vocab_size * text.hidden_size * (1 if text.tie_word_embeddings else 2)
        sizes = cls._of(text, 0, ends)
        heads, shared = text.num_attention_heads, getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // heads
        layer = 2 * sizes.hidden * size * (heads + shared) + 3 * sizes.hidden * sizes.intermediate + 2 * sizes.hidden
        return cls._of(text, ends + sizes.layers * layer + sizes.hidden, ends)

    @classmethod
    def _of(cls, config: Any, parameters: int, ends: int) -> "Shape":
        """A name that a family does not have counts as its usual multiple."""
        hidden = int(getattr(config, "hidden_size", 0) or 1024)
        layers = int(getattr(config, "num_hidden_layers", 0) or 12)
        heads = int(getattr(config, "num_attention_heads", 0) or 1)
        shared = int(getattr(config, "num_key_value_heads", 0) or heads)
        size = int(getattr(config, "head_dim", 0) or hidden // heads)
        intermediate = int(getattr(config, "intermediate_size", 0) or 4 * hidden)
        return cls(parameters, ends, hidden, layers, intermediate, 2 * layers * shared * size)

    @property
    def kept(self) -> int:
        """Numbers that a layer keeps per token for its backward pass."""
        return 10 * self.hidden + 4 * self.intermediate

    def adapters(self, rank: int) -> int:
        """About the numbers of adapters at every linear map of every layer."""
        return min(self.parameters, 2 * rank * self.layers * (4 * self.hidden + 3 * self.intermediate))


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one process at the peak of a distillation."""

    student: int
    learning: int
    """Gradients and the optimiser's moments."""
    teachers: int
    moving: int
    """Whole for a moment: gradients that are added up (ddp), layers and ends that compute (fsdp)."""
    activations: int
    """Or the optimiser's own copies, where these are more."""

    @property
    def tensors(self) -> int:
        """All of it, without the process itself."""
        return self.student + self.learning + self.teachers + self.moving + self.activations

    @property
    def peak(self) -> int:
        return _OVERHEAD + self.tensors


def plan_training(
    shape: Shape,
    config: CampaignConfig,
    *,
    tokens: int,
    ranks: int = 1,
    parallel: str = "ddp",
    checkpointing: bool = False,
) -> TrainingMemory:
    """Bytes of the device of each of `ranks` processes at the peak of training, with `tokens` in the largest forward pass.

    `parallel`: ddp, fsdp, or offload.
    """
    adapters = shape.adapters(config.model.lora.rank) if config.model.lora.rank else 0
    trained = adapters or shape.parameters
    wide = training_dtype(config.model).itemsize
    student, learning = wide * shape.parameters + 4 * adapters, 12 * trained
    teachers = _teachers(config, resolve_dtype(config.model).itemsize) * shape.parameters
    layer = (shape.parameters - shape.ends) // shape.layers
    moving, offload = 0, parallel == "offload"
    if ranks > 1 and parallel == "ddp":
        moving = 4 * trained
    elif ranks > 1 or offload:
        student, learning, teachers = (0 if offload else part // ranks for part in (student, learning, teachers))
        moving = wide * (shape.ends + 2 * layer) + 4 * (shape.ends + layer if not adapters else 2 * adapters // shape.layers)
    layers = shape.layers * (shape.hidden if checkpointing else shape.kept) + (shape.kept if checkpointing else 0)
    copies = 4 * (max(shape.ends, layer) if not adapters else adapters // shape.layers) // (ranks if moving else 1)
    return TrainingMemory(student, learning, teachers, moving, max(4 * tokens * layers, 0 if offload else copies))


def _teachers(config: CampaignConfig, width: int) -> int:
    """Bytes of teachers and anchors per parameter."""
    anchor = width if config.distillation.initial_kl and not config.model.lora.rank else 0
    if config.distillation.teacher_free:
        return anchor
    held = {(term.teacher.weights, term.teacher.source): term.teacher for term in config.teacher.terms}
    return anchor + sum(_copies(teacher, config, width) for teacher in held.values())


def _copies(teacher: TeacherConfig, config: CampaignConfig, width: int) -> int:
    """Bytes per parameter of a teacher by itself, of all peers together."""
    kind = teacher.weights_kind
    if config.distillation.records_targets and kind.recordable:
        return width * max(1, len(teacher.peers))
    if kind.is_student or kind.adapters:
        return 0
    return 4 if kind.keeps else width * max(1, len(teacher.peers) if kind.several else 1)


def estimate_of_training(
    policy: Policy, config: CampaignConfig, *, tokens: int, checkpointing: bool = False, parallel: str = "ddp"
) -> TrainingMemory:
    """`plan_training` of a policy in as many processes as are configured."""
    ranks = config.execution.ranks
    shape = Shape.of(policy)
    return plan_training(shape, config, tokens=tokens, ranks=ranks, parallel=parallel, checkpointing=checkpointing)


def memory_estimate(
    policy: Policy, config: CampaignConfig, *, tokens: int | None = None, checkpointing: bool = False
) -> dict[str, int]:
    """Bytes at the peak of each stage, on the device that it runs on.

    `tokens` in one forward pass of training, where they are known; else as many as the settings allow.
    """
    shape, width = Shape.of(policy), resolve_dtype(config.model).itemsize
    weights, rollout, evaluation = width * shape.parameters, config.rollout, config.evaluation
    longest = config.prompts.max_prompt_length + rollout.max_completion_length
    sampled = config.execution.rollout_batch_size * longest * shape.cache * width
    asked = config.execution.evaluation_batch_size * (config.prompts.max_prompt_length + evaluation.max_completion_length)
    tokens = tokens or max(config.execution.microbatch_tokens, config.rollout.max_completion_length)
    training = estimate_of_training(
        policy, config, tokens=tokens, checkpointing=checkpointing, parallel=_parallel(config)
    )
    return {
        "rollout": _OVERHEAD + weights * (2 if ENGINE_KINDS[config.execution.engine].made_by else 1) + sampled,
        "targets": _OVERHEAD + weights + tokens * shape.kept * width,
        "distil": training.peak,
        "evaluate": _OVERHEAD + weights + asked * shape.cache * width,
    }


def _parallel(config: CampaignConfig) -> str:
    if config.execution.offload:
        return "offload"
    return "fsdp" if config.execution.parallel == "fsdp" else "ddp"


def wants_checkpointing(policy: Policy, config: CampaignConfig, tokens: int, parallel: str = "ddp") -> bool:
    """Whether activations are computed again in the backward pass: as configured, else where they would not fit.

    `tokens` of the largest forward pass.
    """
    if config.execution.gradient_checkpointing is not None:
        return config.execution.gradient_checkpointing
    return not _fits(estimate_of_training(policy, config, tokens=tokens, parallel=parallel), config)


def wants_offload(policy: Policy, config: CampaignConfig) -> bool:
    """Whether what is trained lives in the host's memory: as configured, else where a GPU has no room for it in any other way."""
    asked, again = config.execution.offload, config.execution.gradient_checkpointing is not False
    if asked is not None or resolve_device(config.model).type != "cuda" or config.execution.parallel == "ddp":
        return bool(asked)
    tokens = max(config.execution.microbatch_tokens, config.rollout.max_completion_length)
    return not _fits(estimate_of_training(policy, config, tokens=tokens, checkpointing=again, parallel="fsdp"), config)


def wants_sharding(policy: Policy, config: CampaignConfig, tokens: int) -> bool:
    """Whether processes that hold all weights each would not fit, with activations computed again where that may be."""
    again = config.execution.gradient_checkpointing is not False
    return not _fits(estimate_of_training(policy, config, tokens=tokens, checkpointing=again), config)


def _fits(expected: TrainingMemory, config: CampaignConfig) -> bool:
    return expected.peak <= _SHARE * free_bytes(config)


def free_bytes(config: CampaignConfig) -> int:
    """Free memory for one process that trains: of its device, or its share of the machine's."""
    if resolve_device(config.model).type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available // config.execution.ranks

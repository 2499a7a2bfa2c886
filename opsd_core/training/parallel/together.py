"""Several processes that train together, each with its part of every batch.

    ddp    every process has all weights; gradients are added up once, after the last microbatch, in one flat all_reduce
    fsdp   FSDP2: every process has a part of each weight, its gradient and its moments; layers are whole while they compute

Both add up  sum_n w_n grad D_n / sum_n w_n  with the denominator of the whole batch, so they train as one process does, but for
rounding: the loss is normalised by tokens and not by processes. With fsdp a microbatch is scored inside a method that FSDP
takes for a forward pass: embeddings and head are whole there, and the objective is the same code.

Source: FSDP2, torch.distributed.fsdp.fully_shard; PyTorch DDP, arXiv:2006.15704.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from opsd_core.errors import ConfigError
from opsd_core.heap import without_gaps
from opsd_core.models.adapters import splits_tie, untie
from opsd_core.models.cut import laid_out
from opsd_core.models.forward import microbatches
from opsd_core.models.paths import Paths
from opsd_core.models.policy import Policy
from opsd_core.objective import ObjectiveResult
from opsd_core.teacher.kinds import TEACHERS
from opsd_core.teacher.log_linear import LogLinearTeacher
from opsd_core.teacher.teachers import NoTeacher, TeacherWeights
from opsd_core.training.ranks import DoesNotFit, Ranks, Round
from opsd_core.training.scored import Scored

Result = TypeVar("Result")

_CPU = torch.device("cpu")
_COLUMNS = [field.name for field in fields(ObjectiveResult) if field.name.endswith("_N")]


class DataParallel(Ranks):
    """ddp, and what both have in common. The process group exists; `device` is this process' own."""

    def __init__(self, device: torch.device = _CPU) -> None:
        super().__init__()
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = device

    def mine(self, lengths: Sequence[int], max_tokens: int) -> list[Round]:
        return [Round(rows) for rows in self._rows_of(self.rank, lengths, max_tokens)]

    def _rows_of(self, rank: int, lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
        share = shares(lengths, self.size)[rank]
        groups = microbatches([lengths[row] for row in share], self.limit(max_tokens))
        return [[share[index] for index in group] for group in groups]

    def sum(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total)

    def sync(self, parameters: Sequence[nn.Parameter]) -> None:
        having = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=self.device)
        dist.all_reduce(having, op=dist.ReduceOp.MAX)
        learned = [p for p, has in zip(parameters, having.tolist(), strict=True) if has]
        for parameter in learned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for dtype in sorted({p.dtype for p in learned}, key=str):
            gradients = [p.grad for p in learned if p.dtype == dtype]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def gather(self, scored: list[Scored], lengths: Sequence[int], batch: Sequence) -> list[Scored]:
        own = _numbers(scored).to(self.device)
        parts = [[batch[row] for rows in self._rows_of(rank, lengths, 1) for row in rows] for rank in range(self.size)]
        sizes = [sum(len(item.completion_ids) for item in part) for part in parts]
        padded = own.new_zeros(own.shape[0], max(sizes) + 1)
        padded[:, : own.shape[1]] = own
        found = [torch.empty_like(padded) for _ in parts]
        dist.all_gather(found, padded)
        everything = zip(parts, found, sizes, strict=True)
        return [_from_numbers(items, columns[:, : size + 1].cpu(), scored) for items, columns, size in everything]


class FullySharded(DataParallel):
    """fsdp: weights, gradients and moments in parts; frozen and averaged teachers too. `offload`: in the host's memory."""

    def __init__(self, device: torch.device = _CPU, offload: bool = False) -> None:
        super().__init__(device)
        self.home = torch.device("cpu") if offload else self.device
        """Where the parts are while nothing computes with them."""
        self._policy = CPUOffloadPolicy(pin_memory=self.device.type == "cuda") if offload else OffloadPolicy()
        self.mesh = init_device_mesh(self.device.type, (self.size,))
        self._student: nn.Module | None = None
        self._scorers: list[nn.Module] = []

    def prepare(self, student: Policy, *scorers: TeacherWeights) -> None:
        """Cut every model into parts. ConfigError for a model or a teacher that cannot be."""
        for scorer in scorers:
            parts = [scorer, *(member.teacher for member in scorer.members)] if isinstance(scorer, LogLinearTeacher) else [scorer]
            if strange := [type(part) for part in parts if type(part) not in {NoTeacher, *TEACHERS.values()}]:
                raise ConfigError(
                    f"execution.parallel=fsdp does not know how {strange[0].__name__} keeps its weights, and cannot cut them "
                    "into parts. Set execution.parallel=ddp."
                )
        self._student = student.causal_lm
        others = {id(p.causal_lm): p for scorer in scorers for p in scorer.policies if p.causal_lm is not student.causal_lm}
        if splits_tie(student.model):
            for policy in others.values():
                untie(policy.causal_lm)  # an average gets two matrices with the first step
        with without_gaps():
            self._shard(student, trains=True)
            for policy in others.values():
                self._shard(policy, trains=False)
        self._scorers = [policy.causal_lm for policy in others.values()]

    def _shard(self, policy: Policy, trains: bool) -> None:
        model = policy.causal_lm
        if policy.paths.scoring == "alone":
            raise ConfigError(
                f"execution.parallel=fsdp: {type(model).__name__} is scored one sequence at a time, so processes with other "
                "numbers of sequences would wait for each other for ever. Set execution.parallel=ddp."
            )
        policy.chosen_paths = Paths(policy.paths.sampling, "padded")  # a common beginning would be one more pass on some
        if not trains:
            model.requires_grad_(False)
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        inner = {id(child) for layer in layers for child in layer.modules() if child is not layer}
        shared = {"mesh": self.mesh, "offload_policy": self._policy}
        with laid_out(model, self.home):
            for layer in [layer for layer in layers if id(layer) not in inner]:
                fully_shard(layer, **shared)
            fully_shard(model, **shared, reshard_after_forward=None if trains else True)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # the loss is divided by the batch's weight already
                module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
                module.unshard()  # once outside inference mode, whose tensors could not be trained on
                module.reshard()
        model.with_whole_weights = _call
        register_fsdp_forward_method(model, "with_whole_weights")

    def call(self, function: Callable[[], Result]) -> Result:
        found: list[Any] = []

        def run() -> None:
            found.append(function())

        for model in self._scorers:
            run = partial(model.with_whole_weights, run)  # gives back nothing, so that no gradient asks for a teacher

        def scored() -> Tensor | None:
            run()
            return found[0].loss_sum if isinstance(found[0], Scored) else None

        loss_sum = self._student.with_whole_weights(scored)
        if not torch.is_grad_enabled():
            self._student.reshard()  # as a backward pass does; whole weights would not see the next step
        return found[0] if loss_sum is None else found[0]._replace(loss_sum=loss_sum)

    def mine(self, lengths: Sequence[int], max_tokens: int) -> list[Round]:
        """As many rounds on every process: layers are made whole together."""
        counts = [len(self._rows_of(rank, lengths, max_tokens)) for rank in range(self.size)]
        shortest = min(range(len(lengths)), key=lambda row: lengths[row])
        missing = max(counts) - counts[self.rank]
        return super().mine(lengths, max_tokens) + [Round([shortest], counts=False)] * missing

    def sync(self, parameters: Sequence[nn.Parameter]) -> None:
        """Nothing: every backward pass added its gradients up."""

    def lower(self, lengths: Iterable[int], max_tokens: int) -> None:
        """Out of memory in one process leaves the others waiting: all begin again, with smaller microbatches."""
        tokens = self.limit(max_tokens)
        super().lower(lengths, max_tokens)
        raise DoesNotFit(tokens, fewer=self.limit(max_tokens))


def shares(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Rows of each of `size` processes: long ones first, each to the one that has the fewest tokens so far."""
    rows_of: list[list[int]] = [[] for _ in range(size)]
    tokens = [0] * size
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        rank = min(range(size), key=lambda rank: (tokens[rank], len(rows_of[rank]), rank))
        rows_of[rank].append(row)
        tokens[rank] += lengths[row]
    return [sorted(rows) for rows in rows_of]


def _call(function: Callable[[], Result]) -> Result:
    return function()


def _column(part: Scored, name: str) -> Tensor | None:
    """A column of numbers of what was scored; where no end tokens are merged the event is the token."""
    if name in ("policy", "stopped"):
        return part.logprobs_N if name == "policy" else part.stopped_N
    value = getattr(part.result, name)
    return part.result.logprobs_N if value is None and name == "event_logprobs_N" else value


_NAMES = [*_COLUMNS, "policy", "stopped"]


def _numbers(scored: Sequence[Scored]) -> Tensor:
    """(columns, N + 1) float64: the columns of all microbatches, and in the last place the sums of the loss."""
    rows = []
    for name in _NAMES:
        columns = [(_column(part, name), part.stopped_N) for part in scored]
        rows.append(torch.cat([(absent_N if found_N is None else found_N).double() for found_N, absent_N in columns]))
    sums_C = torch.zeros(len(_NAMES), dtype=torch.float64, device=rows[0].device)
    sums_C[0] = sum(part.result.loss_sum.detach().double() for part in scored)
    sums_C[1] = sum(part.loss_sum.detach().double() for part in scored)
    return torch.cat([torch.stack(rows), sums_C[:, None]], dim=1)


def _from_numbers(items: Sequence, numbers: Tensor, scored: Sequence[Scored]) -> Scored:
    """One process' part as a single microbatch; columns that `scored`, ours, does not have are nobody's."""
    has = {name: all(_column(part, name) is not None for part in scored) for name in _NAMES}
    column = {name: numbers[row, :-1] if has[name] else None for row, name in enumerate(_NAMES)}
    result = ObjectiveResult(loss_sum=numbers[0, -1], **{name: column[name] for name in _COLUMNS})
    return Scored(items, result, column["policy"], numbers[1, -1], column["stopped"].bool())

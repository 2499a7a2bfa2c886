"""Reverse KL on a truncated support: how far the gradient is from that over the vocabulary, before and after the correction.

    python benchmarks/supports/tail.py [--prompts 100] [--model FOLDER]

Targets are recorded by the product: the tiny model that sees the answer teaches the one that does not. At every position of every
completion the gradient with respect to the student's logits is compared with the float64 gradient over the whole vocabulary,
summed over positions (bias) and for one drawn token (noise). Prints Markdown.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import opsd_core as opsd
from opsd_core.config.method import DistillationConfig
from opsd_core.models.forward import completion_hidden
from opsd_core.objective import Head, TopKTargets, distillation_loss
from opsd_core.objective.plain import project
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import members_hidden, teacher_logprobs

TOP_K = (2, 4, 8, 16)


def sides(folder: Path, prompts: int) -> tuple[Tensor, Tensor]:
    """log S and log T (N, V), float64, at every position of completions that the student sampled."""
    config = opsd.resolve("tiny", {"data": {"size": 2000}, "rollout": {"num_prompts": prompts}})
    student = opsd.load_policy(folder, config.model)
    data, builder = opsd.load_examples(config.data), opsd.PromptBuilder.of(student.tokenizer, config)
    rollouts = opsd.sample_rollouts(student, opsd.choose_prompts(data.train, 0, config), 0, config)
    seen = opsd.teacher_prompts(builder, rollouts, {}, data.train).ids
    own, completions = [r.prompt_ids for r in rollouts], [r.completion_ids for r in rollouts]
    teacher = opsd.FixedTeacher(student)
    with torch.no_grad():
        told_NV = teacher_logprobs(teacher, members_hidden(teacher, [seen[r.key] for r in rollouts], completions), Transform())
        return project(completion_hidden(student, own, completions), student.head, 1.0).double(), told_NV.double()


def gradients(student_NV: Tensor, teacher_NV: Tensor, tokens_N: Tensor, config: DistillationConfig) -> Tensor:
    """Of the product's objective with respect to the student's logits (N, V)."""
    hidden_NV, head = student_NV.clone().requires_grad_(), Head(torch.eye(student_NV.shape[1], dtype=torch.float64))
    kept = teacher_NV.topk(config.top_k, -1)
    tail_N = torch.log1p(-kept.values.exp().sum(-1).clamp(max=1 - 1e-12))
    targets = TopKTargets(kept.indices, kept.values, tail_N, teacher_NV.gather(1, tokens_N[:, None])[:, 0])
    ones_N = torch.ones(len(tokens_N), dtype=torch.float64)
    distillation_loss(hidden_NV, head, targets, tokens_N, ones_N, config).loss_sum.backward()
    return hidden_NV.grad


def full_gradients(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
    """S (log S/T - KL), float64."""
    ratios_NV = student_NV - teacher_NV
    return student_NV.exp() * (ratios_NV - (student_NV.exp() * ratios_NV).sum(-1, keepdim=True))


def row(student_NV: Tensor, teacher_NV: Tensor, top_k: int) -> list[str]:
    """Relative errors of the bucket, of the correction's mean over all tokens, and of one draw a position."""
    wanted_NV, size = full_gradients(student_NV, teacher_NV), student_NV.shape[1]
    bucket = DistillationConfig(divergence="reverse_kl", bound="none", top_k=top_k)
    sampled = bucket.model_copy(update={"tail": "sampled"})
    mean_NV = torch.zeros_like(wanted_NV)
    for token in range(size):
        tokens_N = torch.full((len(student_NV),), token)
        mean_NV += student_NV[:, token, None].exp() * gradients(student_NV, teacher_NV, tokens_N, sampled)
    generator = torch.Generator().manual_seed(0)
    drawn_N = torch.multinomial(student_NV.exp(), 1, generator=generator)[:, 0]
    found = {
        "bucket": gradients(student_NV, teacher_NV, drawn_N, bucket),
        "mean": mean_NV,
        "one draw": gradients(student_NV, teacher_NV, drawn_N, sampled),
    }
    each = [float((g - wanted_NV).norm() / wanted_NV.norm()) for g in found.values()]
    summed = [float((g - wanted_NV).sum(0).norm() / wanted_NV.sum(0).norm()) for g in found.values()]
    mass = float(student_NV.exp().gather(1, teacher_NV.topk(top_k, -1).indices).sum(-1).mean())
    return [str(top_k), f"{1 - mass:.2f}", *(f"{value:.3f}" for value in (*each, *summed))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--model", type=Path, help="a tiny model that is built already")
    chosen = parser.parse_args()
    names = [f"{name}, {where}" for where in ("positions", "sum") for name in ("bucket", "corrected mean", "one draw")]
    head = ["K", "student's mass outside", *names]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    with TemporaryDirectory() as scratch:
        student_NV, teacher_NV = sides(chosen.model or opsd.build_tiny(Path(scratch)), chosen.prompts)
    for top_k in TOP_K:
        print(f"| {' | '.join(row(student_NV, teacher_NV, top_k))} |", flush=True)
    print(f"\n{len(student_NV)} positions, {student_NV.shape[1]} tokens in the vocabulary.")


if __name__ == "__main__":
    main()

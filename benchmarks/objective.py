"""Memory and time of the fused objective against whole logits, forward + backward.

    python -m benchmarks.objective                       4,096 tokens x 49,152 entries x 576 hidden, two CPU threads
    python -m benchmarks.objective --tokens 1024         another size
    python -m benchmarks.objective --output table.md     also write the table

Every arm runs in its own process. Extra memory is the peak resident size during one forward + backward, less the
resident size just before it (inputs loaded, libraries warm); the gradients of hidden states and head are part of it.
Time is the best of --repeats; CPU time is reported next to wall time because it barely changes when other programs run.
`python -m benchmarks.gpu` does the same on a GPU, beside the bare matrix products, Liger's fused JSD and TRL's chunked loss.

N = tokens, V = vocabulary, H = hidden size, K = kept entries
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.clock import cost_of
from opsd_core.config.method import DistillationConfig
from opsd_core.objective import Head, HiddenTargets, TopKTargets
from opsd_core.objective.fused import fused_loss
from opsd_core.objective.rows import Tiles

CASES = {
    "forward_kl recorded K=32": DistillationConfig(divergence="forward_kl", targets="recorded", top_k=32),
    "forward_kl full": DistillationConfig(divergence="forward_kl", targets="online"),
    "forward_kl full, shared head": DistillationConfig(divergence="forward_kl", targets="online"),
    "reverse_kl full": DistillationConfig(divergence="reverse_kl", targets="online"),
    "jsd(0.5) full": DistillationConfig(divergence="jsd", targets="online"),
}
MEMORY_TARGET, TIME_TARGET = 1 / 8, 1.3


def tail_logprob(logprobs_NK: Tensor) -> Tensor:
    """log(1 - sum_k p_k) from the kept entries alone; at least log(1e-7), which float32 resolves."""
    return torch.log(-torch.expm1(torch.logsumexp(logprobs_NK, dim=-1).clamp(max=-1e-7)))


def whole_logits_loss(hidden_NH: Tensor, weight_VH: Tensor, targets: TopKTargets | HiddenTargets, divergence: str):
    """What trainers commonly write: log_softmax of all logits, library divergences, token_reweight; nothing logged."""
    student_NV = torch.log_softmax(functional.linear(hidden_NH, weight_VH).float(), dim=-1)
    if isinstance(targets, TopKTargets):
        kept_NK = student_NV.gather(1, targets.ids_NK)
        tail_N = tail_logprob(kept_NK)
        student_NE = torch.cat([kept_NK, tail_N[:, None]], dim=1)
        teacher_NE = torch.cat([targets.logprobs_NK, targets.tail_logprob_N[:, None]], dim=1)
        value_N = functional.kl_div(student_NE, teacher_NE, reduction="none", log_target=True).sum(-1)
    else:
        with torch.no_grad():
            teacher_logits_NV = functional.linear(targets.hidden_NH, targets.head.weight_VH).float()
            teacher_NV = torch.log_softmax(teacher_logits_NV, dim=-1)
            del teacher_logits_NV
        if divergence == "forward_kl":
            value_N = functional.kl_div(student_NV, teacher_NV, reduction="none", log_target=True).sum(-1)
        elif divergence == "reverse_kl":
            value_N = functional.kl_div(teacher_NV, student_NV, reduction="none", log_target=True).sum(-1)
        else:
            mixture_NV = torch.logaddexp(student_NV, teacher_NV) - math.log(2)
            halves = [
                functional.kl_div(mixture_NV, side, reduction="none", log_target=True)
                for side in (teacher_NV, student_NV)
            ]
            value_N = (0.5 * halves[0] + 0.5 * halves[1]).sum(-1)
    return (value_N * (1.0 / value_N.detach().clamp(min=1.0))).sum()


def make_inputs(case: str, tokens: int, vocabulary: int, hidden: int, device: str, dtype: torch.dtype) -> tuple:
    generator = torch.Generator(device).manual_seed(0)
    student = torch.randn(tokens, hidden, generator=generator, device=device)
    teacher = (student + 0.5 * torch.randn(tokens, hidden, generator=generator, device=device)).to(dtype)
    weight = torch.randn(vocabulary, hidden, generator=generator, device=device).mul_(3 / math.sqrt(hidden)).to(dtype)
    ids = torch.randint(vocabulary, (tokens,), generator=generator, device=device)
    if CASES[case].targets == "recorded":
        parts = []
        for start in range(0, tokens, 256):
            logprobs = torch.log_softmax((teacher[start : start + 256] @ weight.T).float(), dim=-1)
            top = logprobs.topk(CASES[case].top_k, dim=-1)
            parts.append((top.indices, top.values, tail_logprob(top.values)))
        targets = TopKTargets(*(torch.cat(column) for column in zip(*parts, strict=True)))
    else:
        teacher_weight = weight if "shared" in case else weight.clone()
        targets = HiddenTargets(teacher, Head(teacher_weight))
    leaf = student.to(dtype).requires_grad_()
    return leaf, weight.detach().requires_grad_(), targets, ids, torch.ones(tokens, device=device)


def make_step(arm: str, case: str, inputs: tuple, tiles: Tiles | None = None) -> Callable[[], float]:
    hidden_NH, weight_VH, targets, ids_N, weights_N = inputs

    def step() -> float:
        hidden_NH.grad = weight_VH.grad = None
        if arm == "value":
            with torch.no_grad():
                return fused_loss(
                    hidden_NH, Head(weight_VH), targets, ids_N, weights_N, CASES[case], tiles
                ).loss_sum.item()
        if arm == "fused":
            loss = fused_loss(hidden_NH, Head(weight_VH), targets, ids_N, weights_N, CASES[case], tiles).loss_sum
        elif arm == "products":
            return bare_products(hidden_NH, weight_VH, targets)
        elif arm == "liger":
            loss = liger_jsd(hidden_NH, weight_VH, targets, ids_N)
        elif arm == "trl":
            loss = trl_divergence(hidden_NH, weight_VH, targets, {"forward_kl": 0.0, "jsd": 0.5}[CASES[case].divergence])
        else:
            loss = whole_logits_loss(hidden_NH, weight_VH, targets, CASES[case].divergence)
        (loss / len(hidden_NH)).backward()
        return loss.item()

    return step


def bare_products(hidden_NH: Tensor, weight_VH: Tensor, targets: HiddenTargets) -> float:
    """Floor: the four matrix products of an online step in the inputs' dtype, nothing between them."""
    with torch.no_grad():
        logits_NV = hidden_NH @ weight_VH.T
        _ = (logits_NV @ weight_VH, logits_NV.T @ hidden_NH)
        torch.mm(targets.hidden_NH, targets.head.weight_VH.T, out=logits_NV)
    return 0.0


def liger_jsd(hidden_NH: Tensor, weight_VH: Tensor, targets: HiddenTargets, ids_N: Tensor) -> Tensor:
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    teacher_weight_VH = targets.head.weight_VH
    mean = LigerFusedLinearJSD(jsd_beta=0.5)(hidden_NH, weight_VH, targets.hidden_NH, teacher_weight_VH, ids_N)
    return mean * len(hidden_NH)


def trl_divergence(hidden_NH: Tensor, weight_VH: Tensor, targets: HiddenTargets, beta: float) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    teacher = (targets.hidden_NH, targets.head.weight_VH, None)
    return ChunkedDivergenceFunction.apply(hidden_NH, weight_VH, None, *teacher, beta)[0].sum()


def measure_cpu(arm: str, case: str, sizes: list[int], threads: int, repeats: int) -> dict:
    """One arm in this process: peak extra resident memory of the first step, then the best times."""
    torch.set_num_threads(threads)
    make_step(arm, case, make_inputs(case, 32, 4096, sizes[2], "cpu", torch.float32))()
    step = make_step(arm, case, make_inputs(case, *sizes, "cpu", torch.float32))
    first, *timed = [cost_of(step) for _ in range(repeats + 1)]
    if math.isnan(first.extra_mib):
        raise SystemExit("The kernel does not reset the peak resident size; extra memory cannot be told from inputs.")
    times = {"wall_s": min(cost.wall for cost in timed), "cpu_s": min(cost.cpu for cost in timed)}
    return {"extra_mib": first.extra_mib, "loss": first.result, **times}


def run_arm(arguments: argparse.Namespace, arm: str, case: str) -> dict:
    sizes = [str(size) for size in (arguments.tokens, arguments.vocabulary, arguments.hidden)]
    command = [sys.executable, "-m", "benchmarks.objective", "--arm", arm, "--case", case, "--threads", str(arguments.threads)]
    command += [
        "--repeats",
        str(arguments.repeats),
        "--tokens",
        sizes[0],
        "--vocabulary",
        sizes[1],
        "--hidden",
        sizes[2],
    ]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def cpu_table(arguments: argparse.Namespace) -> list[str]:
    header = [
        "case",
        "whole MiB",
        "fused MiB",
        "memory",
        "whole s (CPU s)",
        "fused s (CPU s)",
        "time",
        "CPU time",
        "loss agrees",
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    missed, recompute = [], []
    for case in CASES:
        whole, fused, value = (run_arm(arguments, arm, case) for arm in ("whole", "fused", "value"))
        memory, wall, cpu = (fused[key] / whole[key] for key in ("extra_mib", "wall_s", "cpu_s"))
        lines.append(
            f"| {case} | {whole['extra_mib']:,.0f} | {fused['extra_mib']:,.0f} | 1/{1 / memory:.1f} | "
            f"{whole['wall_s']:.2f} ({whole['cpu_s']:.2f}) | {fused['wall_s']:.2f} ({fused['cpu_s']:.2f}) | {wall:.2f}x | "
            f"{cpu:.2f}x | {abs(fused['loss'] / whole['loss'] - 1):.0e} |"
        )
        print(lines[-1], flush=True)
        missed += [f"{case}: memory 1/{1 / memory:.1f}"] if memory > MEMORY_TARGET else []
        missed += [f"{case}: CPU time {cpu:.2f}x"] if cpu > TIME_TARGET else []
        recompute.append(f"{case} +{value['cpu_s'] / fused['cpu_s']:.0%}")
    verdict = "; ".join(missed) if missed else "all reached"
    lines += ["", f"Targets: memory at most 1/8, time at most {TIME_TARGET}x of whole logits: {verdict}."]
    return [*lines, "", f"CPU time that recomputing logits in the backward pass would add: {', '.join(recompute)}."]


def describe(arguments: argparse.Namespace) -> list[str]:
    return [
        f"{arguments.tokens:,} tokens x {arguments.vocabulary:,} entries x {arguments.hidden} hidden, float32, head trained, "
        f"{arguments.threads} threads, best of {arguments.repeats}; {processor()}, torch {torch.__version__}.",
        "",
    ]


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"tokens": 4096, "vocabulary": 49_152, "hidden": 576, "threads": 2, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        sizes = [arguments.tokens, arguments.vocabulary, arguments.hidden]
        print(json.dumps(measure_cpu(arguments.arm, arguments.case, sizes, arguments.threads, arguments.repeats)))
        return
    lines = [*describe(arguments), *cpu_table(arguments)]
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(
            f"# Objective: fused against whole logits\n\n    python -m benchmarks.objective {' '.join(sys.argv[1:])}\n\n{text}\n"
        )


if __name__ == "__main__":
    main()

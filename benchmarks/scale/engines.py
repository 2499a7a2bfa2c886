"""Rollout engines side by side: tokens a second and a CPU second, start, memory, and the distance from transformers.

    OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 python -m benchmarks.scale.engines [--dtype float32] [--items 48] [--length 48]

Every installed engine samples the same prompts of SmolLM2-135M-Instruct with the same seeds at temperature 1, and its record is
held against transformers, as the rollout stage does. CPU seconds are those of this process and of all that it started. Prints
Markdown tables.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.rollouts import mixed_prompts
from opsd_core.config import CampaignConfig, resolve
from opsd_core.models.packing import packed
from opsd_core.models.policy import load_gguf, load_policy, save_policy
from opsd_core.models.storage.smollm2 import smollm2_gguf
from opsd_core.records.rollouts import Rollout
from opsd_core.rollout.engines.interface import Weights
from opsd_core.rollout.engines.kinds import engines_of, start_engine
from opsd_core.rollout.sample import complete

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Measure every engine that is installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--items", type=int, default=48)
    parser.add_argument("--length", type=int, default=48)
    parser.add_argument("--share", type=float, default=1.0, help="of vllm's completions that are computed again")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        save_policy(load_gguf(smollm2_gguf(ROOT / ".opsd/cache/downloads")), Path(folder))
        rows = [measured(name, Path(folder), options) for name in engines_of(ROOT)]
    columns = list(rows[0][0])
    print("| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for (numbers, _), name in zip(rows, engines_of(ROOT), strict=True):
        print(f"| {name} | " + " | ".join(numbers.values()) + " |")
    same = {tuple(row) for row in rows[0][1]}
    for (_, tokens), name in zip(rows[1:], engines_of(ROOT)[1:], strict=True):
        print(f"\n{sum(tuple(row) in same for row in tokens)} of {len(tokens)} completions of {name} are those of transformers.")


def settings(name: str, options: argparse.Namespace) -> CampaignConfig:
    """The same for every engine but its name."""
    return resolve(
        "base",
        {
            "model": {"source": "smollm2", "dtype": options.dtype, "device": "cpu"},
            "data": {"source": "reasoning_gym:chain_sum"},
            "prompts": {"max_prompt_length": 256},
            "rollout": {"max_completion_length": options.length, "record_top_k": 20},
            "execution": {"engine": name, "rollout_batch_size": 64, "checked_share": options.share},
        },
    )


def measured(name: str, folder: Path, options: argparse.Namespace) -> tuple[dict[str, str], list[list[int]]]:
    """The numbers of one engine as text, and the tokens that it sampled."""
    config = settings(name, options)
    policy = packed(load_policy(folder, config.model))
    prompts = mixed_prompts(policy, options.items)
    started, engine = timed(lambda: start_engine(Weights(policy, folder, "smollm2"), config, ROOT))
    with engine:
        keys = [(str(row), 0) for row in range(len(prompts))]
        sampling, rollouts = timed(lambda: complete(engine, keys, prompts, list(range(len(prompts))), config))
        checking, (rollouts, held) = timed(lambda: engine.checked(rollouts, config))
        memory = sum(process.memory_info().rss for process in psutil.Process().children(recursive=True))
    return row(started, sampling, checking, rollouts, held, memory), [r.completion_ids for r in rollouts]


def row(
    start: tuple[float, float],
    sampling: tuple[float, float],
    checking: tuple[float, float],
    rollouts: list[Rollout],
    held: dict[str, Any],
    memory: int,
) -> dict[str, str]:
    """A line of the table."""
    tokens = sum(len(rollout.completion_ids) for rollout in rollouts)
    return {
        "start: s (CPU s)": f"{start[0]:.0f} ({start[1]:.0f})",
        "tokens": str(tokens),
        "sampling: s (CPU s)": f"{sampling[0]:.1f} ({sampling[1]:.1f})",
        "record checked: s (CPU s)": f"{checking[0]:.1f} ({checking[1]:.1f})",
        "tokens/s": f"{tokens / (sampling[0] + checking[0]):.0f}",
        "tokens per CPU s": f"{tokens / (sampling[1] + checking[1]):.0f}",
        "process of its own": f"{memory / 1e9:.1f} GB" if memory > 1e8 else "none",
        "mean nats (largest)": f"{held['recorded_error']:.2g} ({held.get('mismatch', {}).get('largest', float('nan')):.2g})",
    }


def timed(work: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """(seconds, CPU seconds of this process and all below it) and the result."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = work()
    return (time.perf_counter() - wall, cpu_seconds() - cpu), result


def cpu_seconds() -> float:
    """Of this process and of all below it that run; a supervisor's own children are among them."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (own, *own.children(recursive=True)))


if __name__ == "__main__":
    main()

"""Which of a prompt's completions are trained on: all, the shortest right one, or one at random, at equal trained tokens.

    python benchmarks/groups/choice.py [--seeds 3] [--iterations 2] [--steps 60] [--model FOLDER]

The tiny model learns additions from a teacher that sees the answer until it solves some of them; every arm starts there, and
samples eight completions of each prompt. Arms differ in `filter.keep_per_prompt` and in what the teacher, always the tiny model
as it was first, is shown in place of the answer. Each takes as many steps of as many completions, so that those that keep few
train on each of them more often. Nothing is gated. Prints Markdown.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import opsd_core as opsd
from opsd_core.config import CampaignConfig
from opsd_core.models.policy import Policy

KEPT = ("all", "shortest_right", "random")
TAUGHT: dict[str, dict[str, Any]] = {
    "the answer": {},
    "a right attempt, else a wrong one": {"teacher": {"context": "other_attempt", "attempt": "right_first"}},
    "a wrong attempt, else a right one": {"teacher": {"context": "other_attempt", "attempt": "shortest_wrong_first"}},
    "no teacher: `cross_entropy`": {"distillation": {"divergence": "cross_entropy"}},
}
WARM = {"iterations": 2, "rollout": {"num_prompts": 800}, "optimizer": {"num_steps": 60}}
HELD_OUT = 300


def settings(*overrides: dict[str, Any]) -> CampaignConfig:
    """The tiny recipe, changed."""
    fixed = {
        "control": True,
        "data": {"size": 4000, "validation_fraction": 0.1},
        "evaluation": {"num_items": HELD_OUT, "num_samples": 4},
    }
    return opsd.resolve("tiny", fixed, *overrides)


def trained(start: Path, first: Path, config: CampaignConfig, folder: Path) -> tuple[Policy, dict[str, float]]:
    """What the policy at `first` teaches the one at `start`, saved in `folder`, and how many completions and tokens that took."""
    student = opsd.load_policy(start, config.model, torch.float32)
    teacher = opsd.FixedTeacher(opsd.load_policy(first, config.model))
    data, steps = opsd.load_examples(config.data), config.optimizer.num_steps
    builder, train = opsd.PromptBuilder.of(student.tokenizer, config), {example.id: example for example in data.train}
    took: dict[str, list[float]] = {"tokens": [], "kept": [], "prompts right": []}
    for iteration in range(config.iterations):
        rollouts = opsd.sample_rollouts(student, opsd.choose_prompts(data.train, iteration, config), iteration, config)
        graded = opsd.grade_rollouts(rollouts, train, config)
        prompts = {rollout.key: rollout.prompt_ids for rollout in rollouts}
        if not config.distillation.teacher_free:
            prompts = opsd.teacher_prompts(builder, rollouts, {row.key: row.correct for row in graded.rows}, data.train).ids
        pairs = [pair for pair in zip(rollouts, graded.rows, strict=True) if pair[1].keep and pair[0].key in prompts]
        chosen, rows = [rollout for rollout, _ in pairs], [row for _, row in pairs]
        targets = [] if config.distillation.teacher_free else opsd.score_rollouts(teacher, chosen, prompts, config)
        items = opsd.training_items(chosen, rows, targets, prompts, train, student, config)
        schedule = opsd.Schedule(iteration * steps, config.iterations * steps)
        seen = took["tokens"]
        opsd.distil(
            student, teacher, items, config, schedule, config.seed, on_step=lambda _, m, t=seen: t.append(m["tokens/trained"])
        )
        took["kept"].append(len(items))
        took["prompts right"].append(graded.metrics["rollout/prompts_right"] / config.iterations)
    opsd.save_policy(student, folder)
    return student, {name: float(np.sum(values)) for name, values in took.items()}


def accuracies(policy: Policy, config: CampaignConfig) -> tuple[float, float]:
    """Greedy, and the mean of four samples, on held-out items."""
    data, builder = opsd.load_examples(config.data), opsd.PromptBuilder.of(policy.tokenizer, config)
    outcomes = opsd.evaluate_policy(policy, data.validation[:HELD_OUT], builder, opsd.get_grader(config.data.grader), config)
    greedy, sampled = ([o.correct for o in outcomes if (o.mode == "greedy") == wanted] for wanted in (True, False))
    return float(np.mean(greedy)), float(np.mean(sampled))


def main() -> None:
    """Print a row for every arm: means over the seeds, with the standard error of the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--model", type=Path, help="a tiny model that is built already")
    chosen = parser.parse_args()
    method = {"rollout": {"num_prompts": 150, "group_size": 8}, "optimizer": {"num_steps": chosen.steps, "batch_size": 32}}
    method |= {"iterations": chosen.iterations}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        first = chosen.model or opsd.build_tiny(folder / "tiny")
        warm, _ = trained(first, first, settings(WARM), folder / "warm")
        print(f"start: greedy {100 * accuracies(warm, settings())[0]:.1f}, samples {100 * accuracies(warm, settings())[1]:.1f}\n")
        head = ["the teacher sees", "keep_per_prompt", "greedy", "samples", "kept", "prompts right", "trained tokens"]
        print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
        for taught, overrides in TAUGHT.items():
            for kept in KEPT:
                print(_row(taught, kept, [
                    _arm(folder, first, settings(method, overrides, {"filter": {"keep_per_prompt": kept}, "seed": 1 + seed}))
                    for seed in range(chosen.seeds)
                ]), flush=True)  # fmt: skip


def _arm(folder: Path, first: Path, config: CampaignConfig) -> list[float]:
    policy, took = trained(folder / "warm", first, config, folder / "arm")
    return [*(100 * share for share in accuracies(policy, config)), took["kept"], took["prompts right"], took["tokens"]]


def _row(taught: str, kept: str, seeds: list[list[float]]) -> str:
    means, errors = np.mean(seeds, axis=0), np.std(seeds, axis=0, ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else None
    shown = [f"{means[i]:.1f}" + ("" if errors is None else f" ± {errors[i]:.1f}") for i in range(2)]
    return f"| {taught} | {kept} | {' | '.join(shown)} | {means[2]:.0f} | {means[3]:.2f} | {means[4]:.0f} |"


if __name__ == "__main__":
    main()

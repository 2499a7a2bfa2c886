"""Stop twins: a teacher of the same vocabulary that ends with another token, compared token by token and as one event.

    python benchmarks/stops.py [--iterations 4] [--steps 30] [--model FOLDER] [--divergences forward_kl sampled_token]

The teacher is the tiny model with the output rows of its end token and of a character that no sum has exchanged, and names
both as end tokens, as an instruct model does beside its base model. It sees the answer, the student does not. Every iteration
samples anew from the student; nothing is gated. Prints Markdown.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

import opsd_core as opsd
from opsd_core.models.policy import Policy
from opsd_core.teacher.ends import stops_of

OTHER_END = "~"
LONGEST = 24


def ending_otherwise(policy: Policy) -> Policy:
    """The policy writing OTHER_END where it wrote its end token, in place."""
    end, other = policy.tokenizer.eos_token_id, policy.tokenizer.convert_tokens_to_ids(OTHER_END)
    with torch.no_grad():
        rows_VH = policy.causal_lm.lm_head.weight
        rows_VH[[end, other]] = rows_VH[[other, end]]
    policy.causal_lm.generation_config.eos_token_id = [end, other]
    return policy


def arm(folder: Path, divergence: str, merge_stop: str, iterations: int, steps: int) -> list[str]:
    """One arm's row: what the last iteration sampled, and the held-out accuracy after it."""
    config = opsd.resolve(
        "tiny",
        {
            "control": True,
            "iterations": iterations,
            "data": {"size": 2000},
            "rollout": {"num_prompts": 200, "max_completion_length": LONGEST},
            "evaluation": {"num_items": 200, "max_completion_length": LONGEST},
            "teacher": {"weights": "external", "source": "a/teacher"},
            "optimizer": {"num_steps": steps},
            "distillation": {"targets": "online", "divergence": divergence, "merge_stop": merge_stop, "bound": "none"},
        },
    )
    student = opsd.load_policy(folder, config.model, torch.float32)
    teacher = opsd.FixedTeacher(ending_otherwise(opsd.load_policy(folder, config.model)))
    assert (stops_of(student, teacher, config.distillation) is None) == (merge_stop == "off")
    data = opsd.load_examples(config.data)
    builder, train = opsd.PromptBuilder.of(student.tokenizer, config), {example.id: example for example in data.train}
    seen: list[dict[str, float]] = []
    for iteration in range(iterations + 1):
        rollouts = opsd.sample_rollouts(student, opsd.choose_prompts(data.train, iteration, config), iteration, config)
        if iteration == iterations:
            break
        graded = opsd.grade_rollouts(rollouts, train, config)
        kept = [replace(row, keep=True, reason="") for row in graded.rows]
        prompts = opsd.teacher_prompts(builder, rollouts, {}, data.train).ids
        items = opsd.training_items(rollouts, kept, [], prompts, train, student, config)
        schedule = opsd.Schedule(iteration * steps, iterations * steps)
        opsd.distil(student, teacher, items, config, schedule, iteration, on_step=lambda _, m: seen.append(m))
    outcomes = opsd.evaluate_policy(student, data.validation[:200], builder, opsd.get_grader(config.data.grader), config)
    stops = [step for step in seen if "stop/gap" in step]
    lengths = [len(rollout.completion_ids) for rollout in rollouts]
    return [
        divergence,
        merge_stop,
        f"{stops[0]['stop/gap']:.1f}",
        f"{stops[0]['stop/p_at_stop']:.2f}",
        f"{stops[-1]['stop/p_at_stop']:.2f}",
        f"{np.mean(lengths):.1f}",
        f"{np.mean([rollout.truncated for rollout in rollouts]):.2f}",
        f"{np.mean([outcome.correct for outcome in outcomes if outcome.mode == 'greedy']):.2f}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--divergences", nargs="+", default=["forward_kl", "reverse_kl", "jsd", "sampled_token"])
    parser.add_argument("--model", type=Path, help="a tiny model that is built already")
    chosen = parser.parse_args()
    head = ["divergence", "merge_stop", "gap at first", "P(stop) first", "P(stop) last", "length", "cut", "accuracy"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    with TemporaryDirectory() as scratch:
        folder = chosen.model or opsd.build_tiny(Path(scratch))
        for divergence in chosen.divergences:
            for merge_stop in ("off", "auto"):
                row = arm(folder, divergence, merge_stop, chosen.iterations, chosen.steps)
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

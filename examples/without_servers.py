"""One iteration of on-policy self-distillation with opsd_core alone: no Prefect, no MLflow, no object store.

python examples/without_servers.py            # about a minute on two cores; the tiny model learns additions
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import opsd_core as opsd


def main(folder: Path, recipe: str = "tiny", **overrides: object) -> str:
    """Sample, grade, score, distil, evaluate, decide: the gate's verdict in words."""
    config = opsd.resolve(recipe, {"data": {"size": 2000}, "iterations": 1}, overrides)
    opsd.build_tiny(folder / "initial")
    initial = opsd.load_policy(folder / "initial", config.model)
    data = opsd.load_examples(config.data)
    builder, train = opsd.PromptBuilder.of(initial.tokenizer, config), {example.id: example for example in data.train}

    # 1, 2: completions of the student's prompt, graded; what is unusable is dropped with a reason
    prompts = opsd.choose_prompts(data.train, 0, config)
    rollouts = opsd.sample_rollouts(initial, prompts, 0, config)
    graded = opsd.grade_rollouts(rollouts, train, config)
    print(f"{graded.num_kept} of {len(rollouts)} completions are trained on, accuracy {graded.metrics['rollout/accuracy']:.3f}")

    # 3: the teacher is the same model, with the answer in its prompt
    teacher = opsd.FixedTeacher(initial)
    seen = opsd.teacher_prompts(builder, rollouts, {}, data.train).ids
    targets = opsd.score_rollouts(teacher, rollouts, seen, config)

    # 4: the student's distribution moves towards the teacher's, token by token
    student = opsd.load_policy(folder / "initial", config.model, torch.float32)
    items = opsd.training_items(rollouts, graded.rows, targets, seen, train, student, config)
    steps = config.optimizer.num_steps
    opsd.distil(student, teacher, items, config, opsd.Schedule(0, steps), seed=config.seed, on_step=report)
    opsd.save_policy(student, folder / "candidate")

    # 5: is it really better?
    held_out, grader = data.validation[: config.evaluation.num_items], opsd.get_grader(config.data)
    before, after = (opsd.evaluate_policy(side, held_out, builder, grader, config) for side in (initial, student))
    return opsd.decide(after, before, config.promotion).markdown()


def report(step: int, metrics: dict[str, float]) -> None:
    """A line for every tenth optimiser step."""
    if step % 10 == 0:
        print(f"step {step}: loss {metrics['distillation/loss']:.4f}")


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        print(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)))

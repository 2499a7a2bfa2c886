"""The tiny model learns on this device what it learns on a CPU: accuracy before and after one iteration, and the loss."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import opsd_core as opsd
from benchmarks.gpu.parts import Rows
from benchmarks.gpu.sizes import Size


def rows(size: Size) -> Rows:
    """A row for each device. The samples differ in the last bits, so the accuracies agree within noise and not exactly."""
    with TemporaryDirectory() as folder:
        opsd.build_tiny(Path(folder) / "initial")
        return [_iteration(Path(folder), device, size) for device in dict.fromkeys((size.device, "cpu"))]


def _iteration(folder: Path, device: str, size: Size) -> dict[str, float | str]:
    config = opsd.resolve("tiny", {"data": {"size": size.campaign_items}, "iterations": 1, "model": {"device": device}})
    initial = opsd.load_policy(folder / "initial", config.model)
    data, losses = opsd.load_examples(config.data), []
    builder, train = opsd.PromptBuilder.of(initial.tokenizer, config), {example.id: example for example in data.train}
    rollouts = opsd.sample_rollouts(initial, opsd.choose_prompts(data.train, 0, config), 0, config)
    graded = opsd.grade_rollouts(rollouts, train, config)
    teacher, seen = opsd.FixedTeacher(initial), opsd.teacher_prompts(builder, rollouts, {}, data.train).ids
    targets = opsd.score_rollouts(teacher, rollouts, seen, config)
    student = opsd.load_policy(folder / "initial", config.model, torch.float32)
    items = opsd.training_items(rollouts, graded.rows, targets, seen, train, student, config)

    def keep(_step: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["distillation/loss"])

    opsd.distil(
        student, teacher, items, config, opsd.Schedule(0, config.optimizer.num_steps), seed=config.seed, on_step=keep
    )
    held_out, grader = data.validation[: config.evaluation.num_items], opsd.get_grader(config.data.grader)
    after = opsd.evaluate_policy(student, held_out, builder, grader, config)
    return {
        "device": device,
        "before": round(graded.metrics["rollout/accuracy"], 3),
        "after": round(sum(outcome.correct for outcome in after if outcome.mode == "greedy") / len(held_out), 3),
        "first loss": round(losses[0], 4),
        "last loss": round(losses[-1], 4),
    }

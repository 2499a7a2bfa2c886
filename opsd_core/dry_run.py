"""A campaign tried for two minutes: what both sides read, whether there is a signal, and how long an iteration will take."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opsd_core.config import CampaignConfig
from opsd_core.disk import temporary_folder
from opsd_core.errors import ModelError, TrainingError
from opsd_core.graders import get_grader, grader_kind, grader_name
from opsd_core.judgement.power import GatePower, gate_in_words
from opsd_core.models.memory import memory_estimate
from opsd_core.models.policy import Policy
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.teacher import teacher_prompts
from opsd_core.records.examples import Example
from opsd_core.records.rollouts import Key, Rollout, write_rollouts
from opsd_core.records.targets import Target, write_targets
from opsd_core.records.views import longest, views_in_words
from opsd_core.rollout.engines.interface import Engine
from opsd_core.rollout.sample import sample_rollouts
from opsd_core.selection.choice import choose_prompts
from opsd_core.selection.grading import Graded, grade_rollouts
from opsd_core.selection.monitors import Metrics
from opsd_core.teacher.ends import stops_of
from opsd_core.teacher.kinds import teacher_in_training
from opsd_core.teacher.parts import Parts
from opsd_core.teacher.scoring import score_rollouts
from opsd_core.teacher.teachers import TeacherWeights
from opsd_core.training.checkpoint import trainable_parameters
from opsd_core.training.items import TrainingItem, answer_ids, training_items
from opsd_core.training.optim import build_optimizer
from opsd_core.training.probes import run_probes
from opsd_core.training.trainer import train_step

SAMPLED, SHOWN = 32, 10
"""Prompts that are answered, and those that are shown."""
_MAX_GRADED = 500
"""References that the grader is tried on."""


@dataclass
class DryRun:
    """What was found; `problems` say why the campaign would not learn."""

    prompts: list[tuple[str, str, str]] = field(default_factory=list)
    """(student's prompt, teacher's prompt, completion) as the model reads and writes them."""
    lengths: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Name -> median and longest in tokens, and the limit."""
    accepted: float | None = None
    """Share of the references that the grader accepts as answers to their own questions; None without references."""
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """(id, reference) of those that it does not."""
    signal: Metrics = field(default_factory=dict)
    """Monitors of the samples and the probes before a first step."""
    speed: dict[str, float] = field(default_factory=dict)
    """Tokens per second of sampling, scoring and training."""
    minutes: dict[str, float] = field(default_factory=dict)
    """Stage -> minutes per iteration."""
    gigabytes: dict[str, float] = field(default_factory=dict)
    """Stored per iteration, by kind."""
    memory: dict[str, int] = field(default_factory=dict)
    """Stage -> bytes at its peak, estimated from the sizes of model and settings."""
    problems: list[str] = field(default_factory=list)


def dry_run(engine: Engine, student: Policy, parts: Parts, train: Sequence[Example], config: CampaignConfig) -> DryRun:
    """Sample, grade, score and train on a few prompts; `student` is a trainable copy in float32 and is thrown away after.

    `train` are the training items. `engine` samples; `parts` make the teacher, `parts.student` is `student`. Nothing is stored.
    """
    found, clock, policy = DryRun(), _Clock(), engine.weights.policy
    few = config.model_copy(update={"rollout": config.rollout.model_copy(update={"num_prompts": SAMPLED})})
    examples = {example.id: example for example in train}
    _check_references(found, train, config)
    with clock("rollout"):
        rollouts, _ = engine.checked(sample_rollouts(policy, choose_prompts(train, 0, few), 0, config, engine=engine), config)
    graded = grade_rollouts(rollouts, examples, config)
    found.signal |= graded.metrics
    if not graded.num_kept:
        found.problems.append(f"every completion was left out: {graded.reasons}. See config.filter.")
        return found
    seen = _seen(policy, rollouts, graded, train, config)
    _show(found, policy, rollouts, seen, config)
    teacher = teacher_in_training(parts)
    with clock("targets"):
        recorded = config.distillation.records_targets
        stops = stops_of(student, teacher, config.distillation)
        targets = score_rollouts(teacher, rollouts, seen, config, stops=stops) if recorded else []
    items = training_items(rollouts, graded.rows, targets, seen, examples, student, config)
    _probe(found, student, teacher, items, examples, config)
    batch = items[: config.optimizer.batch_size]
    with clock("distil"):
        _step(found, student, teacher, batch, config)
    found.speed = {
        "tokens sampled per second": sum(r.num_sampled for r in rollouts) / clock.seconds["rollout"],
        "completions trained per second": len(batch) / clock.seconds["distil"],
    }
    found.minutes = _minutes(clock.seconds, len(rollouts), len(batch), config)
    found.gigabytes = _gigabytes(rollouts, targets, student, config)
    largest = min(config.execution.microbatch_tokens, len(batch) * max(item.num_tokens for item in batch))
    found.memory = memory_estimate(student, config, tokens=largest)
    return found


class _Clock:
    """Seconds of named blocks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> "_Clock":
        self._name = name
        return self

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._name] = time.perf_counter() - self._started


def _check_references(found: DryRun, train: Sequence[Example], config: CampaignConfig) -> None:
    if not grader_kind(grader_name(config.data)).answers:
        return  # an item's answer is no answer to it
    grader = get_grader(config.data)
    labelled = [example for example in train if example.answer][:_MAX_GRADED]
    wrong = [example for example in labelled if not grader(example, example.answer).correct]
    if labelled:
        found.accepted = 1 - len(wrong) / len(labelled)
    found.rejected = [(example.id, example.answer) for example in wrong[:SHOWN]]
    if wrong:
        found.problems.append(
            f"the grader {grader_name(config.data)!r} rejects {len(wrong)} of {len(labelled)} references as answers to their own "
            f"questions, {wrong[0].answer!r:.60} for instance. Choose another data.grader or correct the answers."
        )


def _seen(
    policy: Policy, rollouts: Sequence[Rollout], graded: Graded, train: Sequence[Example], config: CampaignConfig
) -> Mapping[Key, list[int]]:
    """The teacher's prompts; the student's without a teacher."""
    if config.distillation.teacher_free:
        return {rollout.key: rollout.prompt_ids for rollout in rollouts}
    correct = {row.key: row.correct for row in graded.rows} if config.context_from_rollouts else {}
    return teacher_prompts(PromptBuilder.of(policy.tokenizer, config), rollouts, correct, train).ids


def _show(
    found: DryRun, policy: Policy, rollouts: Sequence[Rollout], seen: Mapping[Key, list[int]], config: CampaignConfig
) -> None:
    decode = policy.tokenizer.decode
    for rollout in [r for r in rollouts if r.key in seen][:SHOWN]:
        shown = views_in_words(seen[rollout.key], decode)
        found.prompts.append((decode(rollout.prompt_ids), shown, decode(rollout.completion_ids)))
    limits = {
        "student's prompt": ([len(r.prompt_ids) for r in rollouts], config.prompts.max_prompt_length),
        "teacher's prompt": ([longest(ids) for ids in seen.values()], config.prompts.max_teacher_prompt_length),
        "completion": ([len(r.completion_ids) for r in rollouts], config.rollout.max_completion_length),
    }
    found.lengths = {
        name: (int(statistics.median(values)), max(values), limit) for name, (values, limit) in limits.items() if values
    }


def _probe(
    found: DryRun,
    student: Policy,
    teacher: TeacherWeights,
    items: Sequence[TrainingItem],
    examples: Mapping[str, Example],
    config: CampaignConfig,
) -> None:
    answers = answer_ids(items, examples, student.tokenizer)
    try:
        found.signal |= run_probes(student, teacher, items, answers if all(answers) else [], config)
    except (TrainingError, ModelError) as error:
        found.problems.append(str(error))


def _step(
    found: DryRun, student: Policy, teacher: TeacherWeights, batch: Sequence[TrainingItem], config: CampaignConfig
) -> None:
    optimizer = build_optimizer(trainable_parameters(student).values(), config.optimizer)
    try:
        found.signal["distillation/loss"] = train_step(student, teacher, batch, optimizer, config, 0)["distillation/loss"]
    except TrainingError as error:
        found.problems.append(str(error))


def _minutes(seconds: Mapping[str, float], sampled: int, trained: int, config: CampaignConfig) -> dict[str, float]:
    """Per iteration, in proportion to what was tried; larger batches are faster, so it is an upper bound."""
    wanted, evaluation = config.rollout.most_completions, config.evaluation
    asked = 2 * evaluation.num_items * (1 + evaluation.num_samples)
    return {
        "rollout": seconds["rollout"] * wanted / sampled / 60,
        "targets": seconds["targets"] * wanted / sampled / 60,
        "distil": seconds["distil"] * config.optimizer.num_steps * config.optimizer.batch_size / trained / 60,
        "evaluate": seconds["rollout"] * asked / sampled / 60,
    }


def _gigabytes(
    rollouts: Sequence[Rollout], targets: Sequence[Target], student: Policy, config: CampaignConfig
) -> dict[str, float]:
    """Stored per iteration. A trainer state holds weights and two moments in float32, a model its weights."""
    share = config.rollout.most_completions / len(rollouts)
    trainable = sum(parameter.numel() for parameter in trainable_parameters(student).values())
    everything = sum(parameter.numel() for parameter in student.causal_lm.parameters())
    with temporary_folder() as folder:
        write_rollouts(folder / "rollouts", rollouts)
        write_targets(folder / "targets", targets)
        sizes = {name: (folder / name).stat().st_size * share / 1e9 for name in ("rollouts", "targets")}
    return sizes | {"trainer state": 12 * trainable / 1e9, "model": 4 * everything / 1e9}


def in_words(found: DryRun, config: CampaignConfig, gate: GatePower | None = None) -> str:
    """The report as markdown: problems first. `gate`: what the gate sees at the campaign's sizes."""
    lines = [f"# {config.name}: dry run", ""]
    lines += [f"- **Problem:** {problem}" for problem in found.problems] or ["No problem found: the campaign has a signal."]
    if found.accepted is not None:
        lines += ["", f"The grader accepts {found.accepted:.1%} of the references."]
        lines += [f"- rejected: item {example_id}, {answer!r:.100}" for example_id, answer in found.rejected]
    lines += ["", "| tokens | median | longest | limit |", "|---|---|---|---|"]
    lines += [f"| {name} | {middle} | {longest} | {limit} |" for name, (middle, longest, limit) in found.lengths.items()]
    lines += ["", "| measured | value |", "|---|---|"]
    lines += [f"| {name} | {value:.4g} |" for name, value in sorted((found.signal | found.speed).items())]
    minutes, stored = sum(found.minutes.values()), sum(found.gigabytes.values())
    lines += ["", f"An iteration takes about {minutes:.1f} minutes and stores {stored:.2f} GB.", ""]
    lines += ["| stage | minutes | peak memory at most (GB) |", "|---|---|---|"]
    lines += [f"| {stage} | {value:.2f} | {found.memory[stage] / 1e9:.1f} |" for stage, value in found.minutes.items()]
    if gate is not None:
        lines += ["", *gate_in_words(gate, found.minutes.get("evaluate"), found.speed.get("tokens sampled per second"))]
    for number, (student, teacher, completion) in enumerate(found.prompts, 1):
        sides = (("student reads", student), ("teacher reads", teacher), ("student writes", completion))
        lines += ["", f"## Prompt {number}"]
        lines += [line for title, text in sides for line in ("", f"{title}:", "", *(f"    {row}" for row in text.splitlines()))]
    return "\n".join(lines) + "\n"

"""pytest tests/core/records/test_flat.py — what a stage takes up does not grow with the completions that are stored."""

from pathlib import Path

import numpy as np
import pytest

from opsd_core.answers.tokens import Sampled, divergence_curve, drawn
from opsd_core.config import resolve
from opsd_core.models.policy import Policy
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.known import KnownPrompts
from opsd_core.prompts.teacher import teacher_prompts
from opsd_core.records.examples import Answers
from opsd_core.records.grades import write_grades
from opsd_core.records.rollouts import read_rollouts, write_rollouts
from opsd_core.records.sums import histogram, mean_of_parts, means_along
from opsd_core.records.targets import read_targets
from opsd_core.selection.curriculum import CurriculumState, next_state
from opsd_core.selection.grading import Graded, grade_rollouts
from opsd_core.selection.teacher_probe import probe_grades
from opsd_core.teacher.scoring import divergence_along
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.items import Recorded, stored_items, training_items
from opsd_core.training.trainer import batch_order
from tests.core.growth import growth_per_record
from tests.core.records.stored_iteration import StoredIteration
from tests.core.small import small_policy

SIZES = (512, 1536)
MOST = 400.0
"""Bytes a completion: 1 million take 400 MB at most. As objects one of 16 tokens takes over 3 kB, one of 200 a hundred."""
CONFIG = resolve("tiny", {"distillation": {"targets": "recorded"}, "rollout": {"group_size": 2}, "optimizer": {"batch_size": 8}})


@pytest.fixture(scope="module")
def iterations(tmp_path_factory) -> dict[int, StoredIteration]:
    return {size: StoredIteration(tmp_path_factory.mktemp(f"of{size}"), size, tokens=16) for size in SIZES}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return small_policy()


def graded(made: StoredIteration, policy: Policy):
    grades = grade_rollouts(made.rollouts.light, made.examples.by_id(), CONFIG)
    write_grades(made.folder / "again.parquet", grades.rows)
    return grades


def curriculum(made: StoredIteration, policy: Policy):
    mean = mean_of_parts(made.rollouts.entropies(), int(made.rollouts.lengths().sum()))
    judged = zip(made.grades.column("example_id"), made.grades.column("correct"), strict=True)
    return next_state(CurriculumState(), judged, mean, CONFIG)


def prompts(made: StoredIteration, policy: Policy):
    builder = PromptBuilder.of(policy.tokenizer, CONFIG)
    return teacher_prompts(builder, made.rollouts.light, {}, made.examples, known=KnownPrompts(2000)).ids


def prompts_of_siblings(made: StoredIteration, policy: Policy):
    config = resolve("tiny", {"teacher": {"context": "sibling_success"}, "rollout": {"group_size": 2}})
    return teacher_prompts(PromptBuilder.of(policy.tokenizer, config), made.rollouts.light, made.grades.correct(), made.examples)


def probed(made: StoredIteration, policy: Policy):
    config = resolve("tiny", {"filter": {"teacher_probe": "gain"}, "execution": {"microbatch_tokens": 4096}})
    ids, answers = _Same([1, 2, 3]), Answers(made.examples.by_id())
    return probe_grades(Graded(made.grades, {}), made.rollouts.light, ids, answers, (FixedTeacher(policy), policy), config)


def items(made: StoredIteration, policy: Policy):
    def wanted(number: int) -> list[int]:
        return [row for batch in batch_order(number, 8, 4, 0) for row in batch]

    recorded = Recorded(made.rollouts, made.grades, made.targets)
    found, _ = stored_items(recorded, _Same([1, 2, 3]), made.examples.by_id(), policy, CONFIG, wanted)
    return [found[row] for row in wanted(len(found))]


def reported(made: StoredIteration, policy: Policy):
    return histogram(made.rollouts.entropies, 40), made.rollouts.lengths()


def studied(made: StoredIteration, policy: Policy):
    scored = made.targets.by_key()
    gaps = (divergence_along(r, scored[r.key]) for r in made.rollouts if r.key in scored)
    return means_along(r.entropy_T for r in made.rollouts.light), means_along(gaps)


def shown(made: StoredIteration, policy: Policy):
    known = made.examples.by_id()
    sampled = Sampled(made.rollouts, made.grades.by_key(), str, str, made.targets.by_key(), known)
    return drawn(sampled)[:80], divergence_curve(sampled)


def chosen(made: StoredIteration, policy: Policy):
    return made.examples[17], list(made.examples.ids())[:1], sum(1 for _ in made.examples)


class _Same(dict):
    """One prompt for whoever asks."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__()
        self._ids = ids

    def __missing__(self, key: object) -> list[int]:
        return self._ids


STAGES = [graded, curriculum, prompts, prompts_of_siblings, probed, items, reported, studied, shown, chosen]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_up_little_more_for_every_completion_that_is_stored(stage, iterations, policy):
    stage(iterations[SIZES[0]], policy)  # what is loaded or kept once is there before anything is counted
    growth = growth_per_record(lambda size: stage(iterations[size], policy), SIZES)
    assert growth < MOST, f"{stage.__name__}: {growth:.0f} bytes a completion"


@pytest.mark.parametrize("read", [
    lambda folder: [r for shard in range(2) for r in read_rollouts(folder / f"rollouts-{shard}.parquet")],
    lambda folder: [t for shard in range(2) for t in read_targets(folder / f"targets-{shard}.parquet")],
])  # fmt: skip
def test_lists_of_objects_are_what_the_bound_does_not_allow(read, iterations):
    assert growth_per_record(lambda size: read(iterations[size].folder), SIZES) > MOST


def test_the_items_that_training_asks_for_are_those_of_the_whole_list(iterations, policy):
    made, asked = iterations[SIZES[0]], [3, 400, 0, 8, 3]
    examples = made.examples.by_id()
    ids = {rollout.key: [1, 2, *rollout.prompt_ids[: number % 3]] for number, rollout in enumerate(made.rollouts.light)}
    whole = training_items(list(made.rollouts), list(made.grades), list(made.targets), ids, examples, policy, CONFIG)
    recorded = Recorded(made.rollouts, made.grades, made.targets)
    found, longest = stored_items(recorded, ids, examples, policy, CONFIG, lambda number: asked)
    assert len(found) == len(whole) and longest == max(item.num_tokens for item in whole)
    for row in asked:
        for mine, theirs in zip(vars(found[row]).values(), vars(whole[row]).values(), strict=True):
            if hasattr(mine, "topk_ids_TK"):
                assert all(np.array_equal(a, b) for a, b in zip(vars(mine).values(), vars(theirs).values(), strict=True))
            else:
                assert np.array_equal(mine, theirs) and type(mine) is type(theirs)
    with pytest.raises(IndexError, match="has not been stored"):
        found[5]


def test_grades_and_figures_are_those_of_the_whole_list(iterations):
    made = iterations[SIZES[0]]
    whole = grade_rollouts(list(made.rollouts), {e.id: e for e in made.examples}, CONFIG)
    found = grade_rollouts(made.rollouts.light, made.examples.by_id(), CONFIG)
    assert found.rows == whole.rows and found.metrics == whole.metrics and found.reasons == whole.reasons


def test_writing_a_shard_takes_up_a_part_of_it(tmp_path, iterations):
    def write(size: int) -> None:
        write_rollouts(Path(tmp_path, f"{size}.parquet"), iter(iterations[size].rollouts))

    assert growth_per_record(write, SIZES) < MOST

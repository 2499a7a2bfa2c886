"""pytest tests/core/selection/test_weights.py — token weights by hand, both normalisers, leak spans."""

import math

import numpy as np
import pytest
import torch

from opsd_core.config import resolve
from opsd_core.errors import ConfigError, DataError
from opsd_core.models.forward import microbatches
from opsd_core.selection.leaks import copied_positions, leaks_text
from opsd_core.selection.token_weights import WeightInputs, token_weights
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.trainer import TrainingItem, objective
from tests.core.small import small_policy


def weigh(num_tokens=5, config=None, **inputs):
    inputs = {"completion_ids": list(range(10, 10 + num_tokens))} | inputs
    return token_weights(WeightInputs(**inputs), resolve("tiny", config or {})).tolist()


def test_every_token_counts_by_default_and_the_first_ones_can_be_skipped():
    assert weigh() == [1, 1, 1, 1, 1]
    assert weigh(config={"distillation": {"skip_first_tokens": 3}}) == [0, 0, 0, 1, 1]


def test_special_tokens_do_not_count_but_end_of_sequence_does():
    special = frozenset({11})  # 14, the end of sequence, is not among them
    assert weigh(special_ids=special) == [1, 0, 1, 1, 1]
    assert weigh(special_ids=special, config={"token_weights": {"mask_special_tokens": False}}) == [1, 1, 1, 1, 1]


def test_truncated_completions_and_routing_weigh_whole_samples():
    half = {"token_weights": {"truncated_weight": 0.5}}
    assert weigh(2, half, truncated=True) == [0.5, 0.5]
    assert weigh(2, half, truncated=False) == [1, 1]
    assert weigh(2, half, truncated=True, sample_weight=0.75) == [0.375, 0.375]
    assert weigh(2, {"token_weights": {"truncated_weight": 0}}, truncated=True) == [0, 0]


def test_position_weights_by_hand():
    """x = 0, 1/4, 2/4, 3/4, 1; .25 + .75 sigmoid((x - .3) / .1): sigmoid(-3) = .04743, (-.5) = .37754, (2) = .88080, ..."""
    late = weigh(config={"token_weights": {"position": "late"}})
    sigmoids = [1 / (1 + math.exp(-(x - 0.3) / 0.1)) for x in (0, 0.25, 0.5, 0.75, 1)]
    assert sigmoids[:3] == pytest.approx([0.04743, 0.37754, 0.88080], abs=1e-5)
    assert late == pytest.approx([0.25 + 0.75 * s for s in sigmoids], abs=1e-6)
    early = weigh(config={"token_weights": {"position": "early"}})
    assert early == pytest.approx([0.25 + 0.75 * (1 - s) for s in sigmoids], abs=1e-6)
    assert weigh(1, {"token_weights": {"position": "late"}}) == pytest.approx([0.25 + 0.75 * sigmoids[0]])


ENTROPY = np.array([0.0, math.log(2), math.log(4), math.log(2), 0.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("down", [1, 1 / 2, 1 / 4, 1 / 2, 1]), ("up", [0, 1 / 2, 3 / 4, 1 / 2, 0]), ("top", [0, 1, 1, 0, 0])],
)
def test_entropy_weights_in_both_directions(kind, expected):
    """exp(-log 2) = 1/2; top: the ceil(.4 * 5) = 2 largest, the earlier one of a tie."""
    settings = {"token_weights": {"entropy": kind, "entropy_fraction": 0.4}}
    assert weigh(config=settings, teacher_entropy_T=ENTROPY) == pytest.approx(expected)
    student = {"token_weights": settings["token_weights"] | {"entropy_of": "student"}}
    assert weigh(config=student, student_entropy_T=ENTROPY) == pytest.approx(expected)
    with pytest.raises(DataError, match="teacher's entropy"):
        weigh(config=settings, student_entropy_T=ENTROPY)


def test_entropy_of_an_online_teacher_is_refused():
    weights = {"entropy": "down"}
    with pytest.raises(ConfigError, match=r"weights\.entropy=down.*targets=recorded"):
        resolve("tiny", {"token_weights": weights, "distillation": {"targets": "online"}})
    resolve("tiny", {"token_weights": weights | {"entropy_of": "student"}, "distillation": {"targets": "online"}})


def test_copied_runs_of_the_teachers_prompt_do_not_count():
    """Private 1 2 3 4 5 6; runs of 3. The answer 4 5 6 and what the student's prompt holds may be repeated."""
    teacher, student, answer = [1, 2, 3, 4, 5, 6, 7, 8, 9], [7, 8, 9], [4, 5, 6]
    completion = [0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 1, 2]
    copied = copied_positions(completion, teacher, [student, answer], 3)
    assert copied.nonzero()[0].tolist() == [1, 2, 3]
    inputs = {"completion_ids": completion, "prompt_ids": student, "teacher_prompt_ids": teacher, "answer_ids": [answer]}
    assert weigh(config={"token_weights": {"leak_span": 3}}, **inputs) == [1, 0, 0, 0] + [1] * 10
    assert weigh(config={"token_weights": {"leak_span": 4}}, **inputs) == [1] * 14
    assert copied_positions([1, 2, 3, 4], teacher, [], 3).all()  # overlapping runs: 123 and 234
    assert copied_positions([1, 2], teacher, [], 3).tolist() == [False, False]


def test_text_leaks_by_phrase_and_by_copying():
    phrases = resolve("tiny").filter.leak_phrases
    solution = "First take the seven boats, then add the three that came later, which makes ten boats in all."
    assert leaks_text("As the reference solution shows, it is 10.", "", "", 12, phrases)
    assert not leaks_text("With reference to the table, the answer is 10.", "", "", 12, phrases)
    assert leaks_text(f"I think: {solution[:60]}", solution, "How many boats? 10", 8, phrases)
    assert not leaks_text(f"I think: {solution[:60]}", solution, f"{solution} 10", 8, phrases)  # the question says it
    assert not leaks_text(f"I think: {solution[:60]}", solution, "", 0, phrases)
    with pytest.raises(ConfigError, match=r"filter\.leak_phrases.*regular expression"):
        resolve("tiny", {"filter": {"leak_phrases": ["(unclosed"]}})


def test_sequence_normaliser_makes_long_and_short_completions_equal():
    sequence = {"token_weights": {"normaliser": "sequence", "truncated_weight": 0.5}, "distillation": {"skip_first_tokens": 1}}
    assert weigh(5, sequence) == pytest.approx([0, 1 / 4, 1 / 4, 1 / 4, 1 / 4])
    assert sum(weigh(3, sequence)) == pytest.approx(1) and sum(weigh(3, sequence, truncated=True)) == pytest.approx(0.5)
    assert weigh(1, sequence) == [0]


@pytest.mark.parametrize("normaliser", ["token", "sequence"])
def test_loss_is_the_stated_mean_whatever_the_microbatches(normaliser):
    """token: sum of all D / 9 tokens; sequence: mean of (mean over 2, mean over 7)."""
    settings = resolve(
        "tiny",
        {
            "control": True,
            "distillation": {"targets": "online", "bound": "none"},
            "rollout": {"max_completion_length": 16},
            "token_weights": {"normaliser": normaliser},
        },
    )
    policy, teacher = small_policy(0), FixedTeacher(small_policy(1))
    encode, zeros = policy.tokenizer.encode, np.zeros
    items = []
    for prompt, completion in [("12+3", "4="), ("a", "bcdefgh")]:
        ids = encode(completion)
        weights = token_weights(WeightInputs(completion_ids=ids), settings)
        items.append(TrainingItem(encode(prompt), encode(f"9|{prompt}"), ids, zeros(len(ids), np.float32), weights))
    divergence = [objective(policy, teacher, [item], settings).divergence_N.double() for item in items]
    expected = {"token": torch.cat(divergence).mean(), "sequence": torch.stack([d.mean() for d in divergence]).mean()}
    total = sum(float(item.weights_T.sum()) for item in items)
    assert total == pytest.approx({"token": 9, "sequence": 2}[normaliser])
    for max_tokens in (16, 4096):
        rows = microbatches([item.num_tokens for item in items], max_tokens)
        assert len(rows) == {16: 2, 4096: 1}[max_tokens]
        sums = [float(objective(policy, teacher, [items[i] for i in part], settings).loss_sum.detach()) for part in rows]
        assert sum(sums) / total == pytest.approx(float(expected[normaliser]), rel=1e-5)

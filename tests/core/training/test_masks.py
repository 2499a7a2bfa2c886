"""pytest tests/core/training/test_masks.py — an environment's tokens weigh nothing and say nothing, whoever reads."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from opsd_core.answers.exports import completion_rows
from opsd_core.answers.tokens import Sampled, divergence_curve, token_rows
from opsd_core.data import addition_examples
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.teacher import teacher_prompts
from opsd_core.records.grades import Grades
from opsd_core.records.rollouts import StoredRollouts, spooled_rollouts, write_rollouts
from opsd_core.records.targets import StoredTargets, write_targets
from opsd_core.rollout.recorded import recorded_error
from opsd_core.rollout.sample import sample_rollouts
from opsd_core.selection.grading import grade_rollouts
from opsd_core.selection.monitors import completion_metrics
from opsd_core.selection.token_weights import WeightInputs, token_weights
from opsd_core.teacher.scoring import score_rollouts
from opsd_core.teacher.teachers import FixedTeacher, NoTeacher
from opsd_core.training.importance import old_logprobs
from opsd_core.training.items import ITEMS, Recorded, stored_items, training_items
from opsd_core.training.monitors import overlap_ratio
from opsd_core.training.optim import build_optimizer
from opsd_core.training.probes import run_probes
from opsd_core.training.scored import score
from opsd_core.training.trainer import train_step
from opsd_core.training.wear import measure_wear
from tests.core.rollout.talking import talking_config, talking_policy

EXAMPLES = addition_examples(8)
BY_ID = {example.id: example for example in EXAMPLES}
TEACHER = {"context": "reference", "reference": "answer", "template": "{{ privileged_context }}|{{ student_prompt }}"}
WEIGHTS = {"position": "late", "entropy": "down", "importance_correction": True}
VARIANTS = {
    "recorded": {"token_weights": WEIGHTS},
    "teachers entropy, sequences": {"token_weights": {"entropy": "top", "entropy_of": "teacher", "normaliser": "sequence"}},
    "random tokens, skipped": {"token_weights": {"entropy": "random"}, "distillation": {"skip_first_tokens": 2}},
    "online, student's top k": {"distillation": {"targets": "online", "top_k_of": "student", "divergence": "reverse_kl"}},
    "initial kl": {"distillation": {"initial_kl": 0.5, "divergence": "jsd", "bound": "entry_clip"}},
    "sampled token": {"distillation": {"divergence": "sampled_token", "bound": "ratio_clip"}},
    "opsa": {"distillation": {"divergence": "opsa"}},
}


def garbage(values, draw):
    return (draw.random(values.shape) * 9 - 12).astype(values.dtype)


def disturbed(rollout, number):
    """Something else wherever an environment wrote."""
    draw, other = np.random.default_rng(number), ~rollout.sampled_T
    changes = {}
    for name in ("sampling_logprobs_T", "logprobs_T", "topk_logprobs_TK", "tail_mass_T", "entropy_T"):
        values = getattr(rollout, name).copy()
        values[other] = garbage(values[other], draw)
        changes[name] = values
    ids_TK = rollout.topk_ids_TK.copy()
    ids_TK[other] = draw.integers(2, 40, ids_TK[other].shape)
    return replace(rollout, topk_ids_TK=ids_TK, **changes)


def disturbed_target(target, rollout, number):
    draw, other = np.random.default_rng(number), ~rollout.sampled_T
    changes = {}
    for name in ("topk_logprobs_TK", "tail_logprob_T", "sampled_logprob_T", "entropy_T"):
        values = getattr(target, name).copy()
        values[other] = garbage(values[other], draw)
        changes[name] = values
    return replace(target, **changes)


class Iteration:
    """What one iteration makes of these rollouts and targets."""

    def __init__(self, config, policy):
        self.config, self.policy = config, policy
        self.teacher = NoTeacher() if config.distillation.teacher_free else FixedTeacher(policy)
        self.rollouts = sample_rollouts(policy, EXAMPLES, 0, config)
        assert any((~r.sampled_T).any() for r in self.rollouts)
        builder = PromptBuilder.of(policy.tokenizer, config)
        self.prompts = teacher_prompts(builder, self.rollouts, {}, EXAMPLES).ids
        self.targets = []
        if config.distillation.records_targets:
            self.targets = score_rollouts(self.teacher, self.rollouts, self.prompts, config)

    def items(self, rollouts, targets):
        graded = grade_rollouts(rollouts, BY_ID, self.config)
        kept = [replace(row, keep=True) for row in graded.rows]
        student = talking_policy(seed=1)
        return training_items(rollouts, kept, targets, self.prompts, BY_ID, student, self.config)

    def figures(self, rollouts, targets):
        """All numbers that are read off, and the weights after a step."""
        graded = grade_rollouts(rollouts, BY_ID, self.config)
        numbers = graded.metrics | completion_metrics(rollouts, [False] * len(rollouts), 2.0)
        numbers |= {"wear": list(measure_wear(talking_policy(seed=1), rollouts, self.config))}
        numbers |= {"error": recorded_error(self.policy, rollouts)}
        if targets:
            numbers |= overlap_ratio(rollouts, targets)
        items, student = self.items(rollouts, targets), talking_policy(seed=1)
        numbers |= {"weights": [item.weights_T.tolist() for item in items]}
        numbers |= run_probes(student, self.teacher, items, [], self.config.model_copy(update={"control": True}))
        optimizer = build_optimizer(student.model.parameters(), self.config.optimizer)
        step = train_step(student, self.teacher, items, optimizer, self.config, 0)
        numbers |= {name: value for name, value in step.items() if not name.startswith("time/")}
        weights = torch.cat([parameter.detach().ravel() for parameter in student.model.parameters()])
        return json.dumps(numbers, sort_keys=True), weights


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_recorded_of_an_environments_tokens_changes_no_weight_no_figure_and_no_gradient(name, tmp_path):
    done = Iteration(talking_config(tmp_path, teacher=TEACHER, **VARIANTS[name]), talking_policy())
    before, weights = done.figures(done.rollouts, done.targets)
    assert "NaN" not in before
    rollouts = [disturbed(r, number) for number, r in enumerate(done.rollouts)]
    targets = [disturbed_target(t, r, number) for number, (t, r) in enumerate(zip(done.targets, done.rollouts, strict=False))]
    after, others = done.figures(rollouts, targets)
    assert after == before
    assert torch.equal(weights, others)


def test_the_loss_at_an_environments_tokens_is_zero_and_its_gradient_too(tmp_path):
    """And the policy's tokens are learned from as they would be in any other completion: with the conversation before them."""
    done = Iteration(talking_config(tmp_path, teacher=TEACHER), talking_policy())
    items, student = done.items(done.rollouts, done.targets), talking_policy(seed=1)
    other_N = ~np.concatenate([item.sampled_T for item in items])
    special = np.isin([token for item in items for token in item.completion_ids], student.tokenizer.unk_token_id)
    assert (np.concatenate([item.weights_T for item in items]) > 0).tolist() == (~other_N & ~special).tolist()
    result = score(student, done.teacher, items, done.config, 0).result
    columns = (result.divergence_N, result.bounded_N, result.student_entropy_N, result.teacher_entropy_N)
    assert all((column.detach().numpy()[other_N] == 0).all() for column in columns)
    alone = [replace(item, weights_T=np.where(item.sampled_T, 0, 1).astype(np.float32)) for item in items]
    assert float(score(student, done.teacher, alone, done.config, 0).result.divergence_N.abs().sum()) > 0, "there would be some"


def test_the_teacher_reads_its_own_prompt_and_then_the_same_conversation(tmp_path):
    policy = talking_policy()
    done = Iteration(talking_config(tmp_path, teacher=TEACHER), policy)
    for r, target in zip(done.rollouts, done.targets, strict=True):
        seen = done.prompts[r.key]
        assert len(target.tail_logprob_T) == len(r.completion_ids) and seen != r.prompt_ids
        ids = torch.tensor([[*seen, *r.completion_ids]])
        with torch.no_grad():
            logprobs = torch.log_softmax(policy.causal_lm(input_ids=ids).logits[0, len(seen) - 1 : -1], -1)
        expected = logprobs.gather(1, ids[0, len(seen) :, None])[:, 0].numpy()
        if target.stop_layout:  # end tokens are one event
            expected = np.where(np.isin(r.completion_ids, policy.eos_ids), target.sampled_logprob_T, expected)
        np.testing.assert_allclose(target.sampled_logprob_T, expected, atol=1e-4)


def test_importance_ratios_exist_where_the_policy_wrote(tmp_path):
    done = Iteration(talking_config(tmp_path), talking_policy())
    for r in (disturbed(r, 0) for r in done.rollouts):
        assert np.isnan(old_logprobs(r, done.config.rollout)).tolist() == (~r.sampled_T).tolist()


def test_places_shares_and_skipped_tokens_are_counted_among_the_policys(tmp_path):
    config = talking_config(tmp_path, token_weights={"position": "late"}, distillation={"skip_first_tokens": 1})
    mask = np.array([True, True, False, False, False, True, True])
    alone = token_weights(WeightInputs([5, 6, 7, 8]), config)
    together = token_weights(WeightInputs([5, 6, 9, 9, 9, 7, 8], sampled_T=mask), config)
    assert together[mask].tolist() == alone.tolist() and together[~mask].tolist() == [0, 0, 0]


def test_what_an_environment_said_is_no_secret_of_the_teachers(tmp_path):
    config = talking_config(tmp_path, token_weights={"leak_span": 3})
    mask = np.array([True, False, False, False, True, True, True])
    said = WeightInputs([1, 7, 8, 9, 7, 8, 9], teacher_prompt_ids=[7, 8, 9, 3], sampled_T=mask)
    assert token_weights(said, config).tolist() == [1, 0, 0, 0, 1, 1, 1]
    unsaid = replace(said, completion_ids=[1, 2, 2, 2, 7, 8, 9])
    assert token_weights(unsaid, config).tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_items_from_disk_are_those_of_memory(tmp_path):
    done = Iteration(talking_config(tmp_path, teacher=TEACHER), talking_policy())
    expected = done.items(done.rollouts, done.targets)
    write_rollouts(tmp_path / "rollouts", done.rollouts), write_targets(tmp_path / "targets", done.targets)
    graded = grade_rollouts(done.rollouts, BY_ID, done.config)
    stored = Recorded(
        StoredRollouts([tmp_path / "rollouts"], tmp_path),
        Grades.of(replace(row, keep=True) for row in graded.rows),
        StoredTargets([tmp_path / "targets"]),
    )
    found, longest = stored_items(stored, done.prompts, BY_ID, talking_policy(seed=1), done.config, range)
    assert longest == max(item.num_tokens for item in expected)
    for item, again in zip(expected, [ITEMS.decode(ITEMS.arrays(i)) for i in found], strict=True):
        for name in ("completion_ids", "weights_T", "rollout_logprobs_T", "sampled_T", "rollout_entropy_T"):
            np.testing.assert_array_equal(getattr(item, name), getattr(again, name))
    spooled = spooled_rollouts(done.rollouts, tmp_path)
    again = score_rollouts(FixedTeacher(talking_policy()), spooled, done.prompts, done.config)
    np.testing.assert_array_equal(again[3].topk_logprobs_TK, done.targets[3].topk_logprobs_TK)


def test_the_page_shows_an_environments_tokens_without_numbers(tmp_path):
    done = Iteration(talking_config(tmp_path, teacher=TEACHER), talking_policy())
    rollouts = [disturbed(r, number) for number, r in enumerate(done.rollouts)]
    shown = Sampled(rollouts, {}, str, str, {t.key: t for t in done.targets}, BY_ID)
    rows = [token_rows(shown, r, {}) for r in rollouts]
    for r, row in zip(rollouts, rows, strict=True):
        for column in (row["s"], row["t"]):
            assert [value is not None for value in column] == r.sampled_T.tolist()
        for column in (row["S"], row["T"]):
            assert [bool(top) for top in column] == r.sampled_T.tolist()
    for r, row in zip(rollouts, completion_rows(shown), strict=True):
        for name in ("student_logprobs", "teacher_logprobs"):
            assert [value is not None for value in row[name]] == r.sampled_T.tolist()
    curve = divergence_curve(shown)
    assert curve == divergence_curve(copy.copy(replace(shown, rollouts=done.rollouts)))
    assert all(np.isfinite(point).all() for point in np.array(curve["points"]))


def test_what_settings_altered_is_a_share_of_the_policys_tokens(tmp_path):
    done = Iteration(talking_config(tmp_path, teacher=TEACHER), talking_policy())
    items, student = done.items(done.rollouts, done.targets), talking_policy(seed=1)
    optimizer = build_optimizer(student.model.parameters(), done.config.optimizer)
    step = train_step(student, done.teacher, items, optimizer, done.config, 0)
    own_N = np.concatenate([item.sampled_T for item in items])
    tokens_N = np.array([token for item in items for token in item.completion_ids])[own_N]
    assert step["bite/weights_tokens"] == pytest.approx(np.mean(tokens_N == student.tokenizer.unk_token_id))
    assert step["bite/stop_tokens"] == pytest.approx(np.isin(tokens_N, student.eos_ids).mean())
    assert step["tokens/trained"] == (tokens_N != student.tokenizer.unk_token_id).sum()

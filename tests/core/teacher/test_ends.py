"""pytest tests/core/teacher/test_ends.py — policy and teacher that end with different tokens: found, merged, trained."""

import copy
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from opsd_core.errors import DataError, ModelError
from opsd_core.models.policy import Policy, load_policy
from opsd_core.models.storage.ends import stored_ends
from opsd_core.objective.merging import merged
from opsd_core.objective.stops import Stops
from opsd_core.records.targets import read_targets, write_targets
from opsd_core.teacher.ends import ends_in_words, ends_of, stops_of
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import divergence_along, members_hidden, score_rollouts, score_targets, teacher_logprobs
from opsd_core.teacher.teachers import FixedTeacher, NoTeacher, PeersTeacher, check_same_vocabulary
from opsd_core.training.monitors import overlap_ratio
from opsd_core.training.trainer import Schedule, distil, objective, train_step
from tests.core.small import rollout_of, small_policy
from tests.core.training.test_trainer import TEXTS, config, gradients, items

EOS, OTHER = 0, 9
ONLINE, RECORDED = {"targets": "online", "top_k_of": "teacher", "top_k": 8}, {"targets": "recorded", "top_k": 8}


def ending(policy: Policy, *ends: int) -> Policy:
    """The policy with these end tokens in its generation config; the tokenizer's own is always one of them."""
    policy.causal_lm.generation_config.eos_token_id = list(ends)
    return policy


def stopped_items(policy, target_of=None):
    """Items whose completions end; with `target_of(rollout, prompt)` they hold recorded targets."""
    made = []
    for item in items(policy, hint="9|"):
        ids = [*item.completion_ids, EOS]
        ones = np.ones(len(ids), np.float32)
        target = None
        if target_of:
            target = target_of(rollout_of("a", 0, "", item.prompt_ids, ids), item.teacher_prompt_ids)
        made.append(replace(item, completion_ids=ids, weights_T=ones, rollout_logprobs_T=0 * ones, target=target))
    return made


def recorder(teacher, stops, top_k=8):
    return lambda rollout, prompt: score_targets(teacher, [rollout], [prompt], top_k, Transform(), 64, stops=stops)[0]


def test_end_tokens_are_those_of_tokenizer_generation_config_and_template_that_exist():
    assert ends_of(ending(small_policy(), OTHER, 10**6)) == (EOS, OTHER)
    assert ends_of(small_policy()) == (EOS,)


@pytest.mark.parametrize("declared", [None, EOS, [EOS, 3]])
def test_a_stored_model_says_the_same_without_its_weights(declared, tiny_model, tmp_path):
    for name in tiny_model.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    if declared is None:
        (tmp_path / "generation_config.json").unlink()
    else:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": declared}))
    settings = config().model
    assert stored_ends(tmp_path, settings) == ends_of(load_policy(tmp_path, settings))


def test_one_end_token_on_both_sides_changes_no_bit_of_loss_and_gradient():
    student, teacher = small_policy(0), FixedTeacher(small_policy(1))
    assert stops_of(student, teacher, config().distillation) is None
    for targets in (ONLINE, RECORDED):
        target_of = recorder(teacher, None) if targets is RECORDED else None
        batch, found = stopped_items(student, target_of), []
        for merge_stop in ("auto", "off"):
            settings = config(distillation=targets | {"merge_stop": merge_stop})
            loss = objective(student, teacher, batch, settings).loss_sum.detach()
            found.append((loss, gradients(student, teacher, batch, settings)))
        assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "sampled_token"])
def test_the_same_weights_and_context_are_exactly_zero_with_two_end_tokens(divergence):
    policy = ending(small_policy(), EOS, OTHER)
    settings = config(distillation={"targets": "online", "divergence": divergence, "bound": "none"})
    batch = [replace(item, teacher_prompt_ids=item.prompt_ids) for item in stopped_items(policy)]
    assert stops_of(policy, FixedTeacher(policy), settings.distillation).layout == (EOS, -1, OTHER)
    assert float(objective(policy, FixedTeacher(policy), batch, settings).loss_sum.detach()) == 0.0
    assert gradients(policy, FixedTeacher(policy), batch, settings).abs().max() < 1e-6


@pytest.mark.parametrize("ends", [(EOS, OTHER), (EOS,)])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "sampled_token"])
def test_recorded_and_online_targets_agree(divergence, ends):
    student, teacher = ending(small_policy(0), EOS), FixedTeacher(ending(small_policy(1), *ends))
    stops = stops_of(student, teacher, config().distillation)
    assert (stops is None) == (len(ends) == 1)
    found = []
    for targets, target_of in ((ONLINE, None), (RECORDED, recorder(teacher, stops))):
        settings = config(distillation=targets | {"divergence": divergence})
        batch = stopped_items(student, target_of)
        found.append((objective(student, teacher, batch, settings), gradients(student, teacher, batch, settings)))
    assert torch.allclose(found[0][0].bounded_N, found[1][0].bounded_N, atol=1e-5)
    assert (found[0][1] - found[1][1]).norm() <= 1e-4 * found[0][1].norm()


def test_recorded_targets_always_hold_the_events_and_come_back_from_disk(tmp_path):
    student, teacher = small_policy(0), FixedTeacher(ending(small_policy(1), EOS, OTHER))
    stops = stops_of(student, teacher, config().distillation)
    targets = [item.target for item in stopped_items(student, recorder(teacher, stops, top_k=2))]
    for target in targets:
        assert target.topk_ids_TK.shape[1] == 4 and (target.topk_ids_TK == EOS).any(1).all()
        assert (target.topk_ids_TK == OTHER).any(1).all() and (np.diff(target.topk_logprobs_TK, axis=1) <= 0).all()
        mass_T = np.exp(target.topk_logprobs_TK).sum(1) + np.exp(target.tail_logprob_T)
        assert np.allclose(mass_T, 1, atol=1e-5)
    write_targets(tmp_path / "merged", targets)
    read = read_targets(tmp_path / "merged")
    assert [target.stop_layout for target in read] == [(EOS, OTHER)] * len(TEXTS)
    assert all(np.array_equal(a.topk_ids_TK, b.topk_ids_TK) for a, b in zip(read, targets, strict=True))
    plain = [item.target for item in stopped_items(student, recorder(teacher, None))]
    write_targets(tmp_path / "plain", plain)
    schema = pq.read_schema(tmp_path / "plain")
    assert schema.metadata[b"opsd.schema_version"] == b"1" and "stop_layout" not in schema.names  # as before there were any
    assert [target.stop_layout for target in read_targets(tmp_path / "plain")] == [()] * len(TEXTS)


def test_targets_recorded_without_the_events_are_refused_and_off_takes_them():
    student, teacher = small_policy(0), FixedTeacher(ending(small_policy(1), EOS, OTHER))
    old = stopped_items(student, recorder(teacher, None))
    with pytest.raises(DataError, match=r"no end tokens merged, and the objective compares \[0, 9\] .*merge_stop=off"):
        objective(student, teacher, old, config(distillation=RECORDED))
    off = config(distillation=RECORDED | {"merge_stop": "off"})
    assert float(objective(student, teacher, old, off).loss_sum.detach()) > 0
    new = stopped_items(student, recorder(teacher, stops_of(student, teacher, config().distillation)))
    with pytest.raises(DataError, match=r"\[0, 9\] merged, and the objective compares every token by itself"):
        objective(student, teacher, new, off)
    with pytest.raises(DataError, match="no end tokens merged"):
        objective(student, teacher, [*new[:1], *old[1:]], config(distillation=RECORDED))


def test_score_rollouts_merges_as_the_setting_says():
    student, teacher = small_policy(0), FixedTeacher(ending(small_policy(1), EOS, OTHER))
    rollout = rollout_of("a", 0, "", [3], [4, EOS])
    layouts = []
    for merge_stop, stops in (("auto", None), ("auto", stops_of(student, teacher, config().distillation)), ("off", None)):
        settings = config(distillation=RECORDED | {"merge_stop": merge_stop})
        (target,) = score_rollouts(teacher, [rollout], {rollout.key: [5, 3]}, settings, stops=stops)
        layouts.append(target.stop_layout)
    assert layouts == [(EOS, -1, OTHER), (EOS, OTHER), ()]


def test_peers_that_stop_each_in_its_own_way_agree_to_stop():
    """A geometric mixture lets one peer veto another's token; merged first, none vetoes the stop."""
    policies = [ending(small_policy(1), EOS), ending(small_policy(2), EOS, OTHER)]
    teacher, stops = PeersTeacher(policies, "geometric", "uniform"), Stops.of([EOS], [[EOS], [EOS, OTHER]])
    hidden = members_hidden(teacher, [[3, 4]], [[5, 6, EOS]])
    each = [teacher_logprobs(FixedTeacher(p), [h], Transform()) for p, h in zip(policies, hidden, strict=True)]
    logits = sum(merged(one, own, stops) for one, own in zip(each, stops.members, strict=True)) / 2
    found = teacher_logprobs(teacher, hidden, Transform(), stops)
    assert torch.allclose(found, torch.log_softmax(logits, -1), atol=1e-5)
    only = teacher_logprobs(FixedTeacher(policies[1]), hidden[1:], Transform(), stops.taught_by([1]))
    assert torch.allclose(only, merged(each[1], (EOS, OTHER), stops), atol=1e-6)


@pytest.mark.parametrize("divergence", ["forward_kl", "sampled_token"])
def test_twins_in_training(divergence):
    """The teacher is the student with 9 where the student writes its stop: off unlearns the stop, auto keeps it."""
    first = small_policy(0, tied=False)
    every = {"num_steps": 8, "batch_size": len(TEXTS), "schedule": "constant"}
    learned = config(distillation={"divergence": "cross_entropy"}, optimizer=every | {"num_steps": 20, "learning_rate": 1e-2})
    distil(first, NoTeacher(), stopped_items(first), learned, Schedule(0, 20), 0)
    taught = copy.deepcopy(first)
    with torch.no_grad():
        taught.causal_lm.lm_head.weight[[EOS, OTHER]] = first.causal_lm.lm_head.weight[[OTHER, EOS]]
    found = {}
    for merge_stop in ("off", "auto"):
        student = copy.deepcopy(first)
        chosen = {"targets": "online", "divergence": divergence, "merge_stop": merge_stop, "bound": "none"}
        settings = config(distillation=chosen, optimizer=every | {"learning_rate": 2e-3})
        batch = [replace(item, teacher_prompt_ids=item.prompt_ids) for item in stopped_items(student)]
        seen = []
        teacher = FixedTeacher(ending(copy.deepcopy(taught), EOS, OTHER))
        distil(student, teacher, batch, settings, Schedule(0, 8), 0, on_step=lambda _, m, seen=seen: seen.append(m))
        found[merge_stop] = seen
    (off, *_, off_last), (auto, *_, auto_last) = found["off"], found["auto"]
    assert off["stop/p_at_stop"] == pytest.approx(auto["stop/p_at_stop"]) and auto["stop/p_at_stop"] > 0.5
    assert off["stop/gap"] < -2 and abs(auto["stop/gap"]) < 0.5
    assert off_last["stop/p_at_stop"] < 0.7 * off["stop/p_at_stop"]
    assert auto_last["stop/p_at_stop"] > 0.95 * auto["stop/p_at_stop"]


def test_without_a_stop_in_a_step_nothing_is_said_of_it():
    policy, settings = small_policy(0), config(distillation={"targets": "online"})
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    found = train_step(policy, FixedTeacher(small_policy(1)), items(policy), optimizer, settings, 0)
    assert not any(name.startswith("stop/") for name in found)
    found = train_step(policy, FixedTeacher(small_policy(1)), stopped_items(policy), optimizer, settings, 0)
    assert 0 < found["stop/p_at_stop"] < 1 and np.isfinite(found["stop/gap"])


def test_what_is_shown_of_merged_targets_stays_a_lower_limit():
    """divergence_along joins every end token with the rest, on both sides; overlap_ratio knows the event's column."""
    policy, teacher = ending(small_policy(0), EOS, OTHER), FixedTeacher(ending(small_policy(1), EOS, OTHER))
    size, stops = len(policy.tokenizer), stops_of(policy, teacher, config().distillation)
    rollout = rollout_of("a", 0, "", [3], [4, EOS])
    sides = FixedTeacher(policy), teacher
    own, theirs = (teacher_logprobs(side, members_hidden(side, [[3]], [[4, EOS]]), Transform()) for side in sides)
    top = own.topk(size)
    rollout = replace(rollout, topk_ids_TK=top.indices.numpy(), topk_logprobs_TK=top.values.detach().numpy())
    target = score_targets(teacher, [rollout], [[3]], size, Transform(), 64, stops=stops)[0]
    exact = (own.exp() * (own - theirs)).sum(-1).detach().numpy()
    found = divergence_along(rollout, target)
    assert (found <= exact + 1e-4).all() and (found > 0.3 * exact).all()
    assert overlap_ratio([rollout], [target])["distillation/overlap_ratio"] == pytest.approx(1.0, abs=0.05)


def test_other_end_tokens_are_said_and_other_special_tokens_refused():
    policy, other = small_policy(0), ending(small_policy(1), EOS, OTHER)
    check_same_vocabulary(policy, other, "teacher 'x'")
    said = ends_in_words(policy, other, "teacher 'x'", "auto")
    assert "teacher 'x' ends its completions with 0 '<eos>', 9 '7', the policy with 0 '<eos>'" in said
    assert "one stop event" in said
    assert "unlearns its own stop" in ends_in_words(policy, other, "teacher 'x'", "off")
    assert ends_in_words(policy, policy, "teacher 'x'", "auto") == ""
    renamed = Policy(other.model, copy.deepcopy(other.tokenizer))
    renamed.tokenizer.eos_token = "7"  # special now, and its end: may differ
    check_same_vocabulary(policy, renamed, "teacher 'x'")
    renamed.tokenizer.add_special_tokens({"additional_special_tokens": ["a"]})
    with pytest.raises(ModelError, match=r"only one of the two tokenizers treats \[\d+\] \('a'\) as special"):
        check_same_vocabulary(policy, renamed, "teacher 'x'")

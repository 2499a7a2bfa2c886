"""pytest tests/core/teacher/test_teachers.py — adapter_off, trust_region, peers, other vocabularies, the student's noise."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from opsd_core.errors import ConfigError, ModelError, TrainingError
from opsd_core.models.forward import completion_hidden
from opsd_core.models.policy import Policy, add_lora
from opsd_core.teacher.log_linear import LogLinearTeacher, Member
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import members_hidden, teacher_logprobs
from opsd_core.teacher.teachers import (
    AdapterOffTeacher,
    FixedTeacher,
    LiveTeacher,
    PeersTeacher,
    check_same_vocabulary,
)
from opsd_core.training.noise import embedding_noise
from opsd_core.training.probes import run_probes
from opsd_core.training.trainer import Schedule, distil, objective
from tests.core.small import small_policy
from tests.core.training.test_trainer import config, gradients, items

SETTINGS = config(distillation={"targets": "online"}, model={"lora": {"rank": 4}})


def adapted(seed=0):
    """A policy whose adapters do something."""
    policy = add_lora(small_policy(seed), SETTINGS.model.lora, seed=1)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return policy


def sides(batch):
    return [i.teacher_prompt_ids for i in batch], [i.completion_ids for i in batch]


def says(teacher, batch, transform=None):
    return teacher_logprobs(teacher, members_hidden(teacher, *sides(batch)), transform or Transform())


def test_adapter_off_is_the_initial_policy_and_leaves_the_student_as_it_was():
    student, initial = adapted(), FixedTeacher(small_policy(0))
    batch = items(student, hint="9|")
    before = says(LiveTeacher(student), batch)
    assert torch.allclose(says(AdapterOffTeacher(student), batch), says(initial, batch), atol=1e-5)
    assert not torch.allclose(before, says(initial, batch), atol=1e-2)
    assert torch.equal(says(LiveTeacher(student), batch), before)


def test_adapter_off_gives_the_gradient_that_a_second_copy_gives():
    student = adapted()
    batch = items(student, hint="9|")
    one = gradients(student, AdapterOffTeacher(student), batch, SETTINGS)
    two = gradients(student, FixedTeacher(small_policy(0)), batch, SETTINGS)
    assert (one - two).norm() <= 1e-5 * two.norm() and two.norm() > 0
    with pytest.raises(ConfigError, match=r"model\.lora\.rank"):
        AdapterOffTeacher(small_policy(0))


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_trust_region_mixes_logits(share):
    """log_softmax((1 - lambda) z_0 + lambda z_student), from the models' own logits."""
    student, initial = small_policy(1), small_policy(0)
    batch = items(student, hint="9|")
    item = batch[1]
    ids = torch.tensor([item.teacher_prompt_ids + item.completion_ids])
    start = len(item.teacher_prompt_ids) - 1
    logits = [p.model(input_ids=ids).logits[0, start:-1] for p in (initial, student)]
    wanted = torch.log_softmax((1 - share) * logits[0] + share * logits[1], -1)
    teacher = LogLinearTeacher([Member(FixedTeacher(initial), 1 - share), Member(LiveTeacher(student), share)])
    assert torch.allclose(says(teacher, [item]), wanted, atol=1e-4)
    with torch.no_grad():
        student.causal_lm.model.norm.weight.mul_(0.5)
    assert not torch.allclose(says(teacher, [item]), wanted, atol=1e-3)  # it moves with the student


def test_peers_mix_probabilities():
    policies = [small_policy(1), small_policy(2), small_policy(3)]
    batch = items(policies[0], hint="9|")
    each = [says(FixedTeacher(p), batch).exp() for p in policies]
    mixed = says(PeersTeacher(policies, "arithmetic", "uniform"), batch).exp()
    assert torch.allclose(mixed, sum(each) / 3, atol=1e-6)
    student = small_policy(0)
    metrics = run_probes(student, PeersTeacher(policies, "geometric", "confidence"), batch, [[4]] * len(batch), SETTINGS)
    assert metrics["teacher/divergence"] > 0.01 and "teacher/privilege_gain" in metrics


def test_another_vocabulary_is_refused_before_work():
    policy, other = small_policy(0), small_policy(1)
    check_same_vocabulary(policy, other, "teacher 'x'")
    renamed = Policy(other.model, copy.deepcopy(other.tokenizer))
    renamed.tokenizer.add_tokens(["<new>"])
    with pytest.raises(ModelError, match=r"teacher 'x' has another tokenizer .* \(46 and 45 tokens\)"):
        check_same_vocabulary(policy, renamed, "teacher 'x'")
    other.model.resize_token_embeddings(64, mean_resizing=False)
    with pytest.raises(ModelError, match="head of 64 entries, the policy one of 45"):
        check_same_vocabulary(policy, other, "teacher 'x'")


def test_noise_has_the_stated_size_and_follows_from_its_key():
    noise = embedding_noise(5.0, 32, 7, 3, [("a", 0), ("b", 0)])
    values = noise(0, 200)
    bound = 5.0 / (200 * 32) ** 0.5
    assert values.abs().max() <= bound and values.abs().mean().item() == pytest.approx(bound / 2, rel=0.05)
    assert torch.equal(values, embedding_noise(5.0, 32, 7, 3, [("a", 0)])(0, 200))
    for other in (noise(1, 200), embedding_noise(5.0, 32, 7, 4, [("a", 0)])(0, 200)):
        assert not torch.equal(values, other)


def test_noise_of_zero_length_vectors_changes_nothing_and_noise_does():
    policy = small_policy(0)
    prompts, completions = sides(items(policy))
    plain = completion_hidden(policy, prompts, completions)
    quiet = completion_hidden(policy, prompts, completions, lambda row, length: torch.zeros(length, 32))
    assert torch.allclose(plain, quiet, atol=1e-5)
    keys = [("x", i) for i in range(len(prompts))]
    loud = completion_hidden(policy, prompts, completions, embedding_noise(5.0, 32, 0, 0, keys))
    assert not torch.allclose(plain, loud, atol=1e-2)


def noisy_items(policy):
    return [type(i)(**(vars(i) | {"key": (f"e{n}", 0)})) for n, i in enumerate(items(policy))]


def noisy_config(**execution):
    return config(
        teacher={"context": "none", "student_noise": 5.0},
        distillation={"targets": "online"},
        optimizer={"num_steps": 4, "batch_size": 3},
        execution={"checkpoint_every": 2} | execution,
        control=False,
    )


def test_noise_alone_is_a_signal_and_the_same_in_any_microbatch():
    policy = small_policy(0)
    batch, teacher = noisy_items(policy), LiveTeacher(policy)
    assert objective(policy, teacher, batch, noisy_config()).divergence_N.mean() > 1e-4
    assert objective(policy, teacher, batch, config(distillation={"targets": "online"})).divergence_N.max() < 1e-6
    whole = gradients(policy, teacher, batch, noisy_config(microbatch_tokens=4096))
    split = gradients(policy, teacher, batch, noisy_config(microbatch_tokens=16))
    assert (whole - split).norm() <= 1e-5 * whole.norm()


def test_resume_is_bit_exact_with_noise(tmp_path):
    settings, log = noisy_config(), {}

    def run(name, **options):
        policy = small_policy(0)
        save = distil(
            policy, LiveTeacher(policy), noisy_items(policy), settings, Schedule(0, 8), 3,
            on_step=lambda step, metrics: log.setdefault(name, []).append(metrics["distillation/loss"]),
            on_checkpoint=lambda done, save: save(tmp_path / f"{name}-{done}"), **options,
        )  # fmt: skip
        save(tmp_path / name)
        return load_file(tmp_path / name / "trainable.safetensors")

    once = run("whole")
    torch.manual_seed(99)
    torch.rand(17)  # the noise must not depend on the global random state
    again = run("rest", resume_from=tmp_path / "whole-2")
    assert log["rest"] == log["whole"][2:] and len(set(log["whole"])) == 4
    assert all(torch.equal(value, again[name]) for name, value in once.items())


def test_a_student_with_nothing_to_train_is_refused():
    policy = small_policy(0)
    policy.model.requires_grad_(False)
    with pytest.raises(TrainingError, match=r"no trainable parameter.*model\.lora\.rank=0"):
        distil(policy, LiveTeacher(policy), items(policy), config(), Schedule(0, 4), 0)

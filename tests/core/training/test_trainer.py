"""pytest tests/core/training/test_trainer.py — the loop: nulls, normalisation, alignment, exact resume, probes."""

import copy
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from opsd_core.config import resolve
from opsd_core.errors import IntegrityError, TrainingError
from opsd_core.models.forward import completion_hidden, microbatches, shared_prefix
from opsd_core.models.policy import Policy, add_lora, effective_weights
from opsd_core.records.rollouts import Rollout
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import score_targets
from opsd_core.teacher.teachers import EmaTeacher, FixedTeacher, LiveTeacher
from opsd_core.training.checkpoint import load_checkpoint, save_checkpoint, trainable_parameters
from opsd_core.training.optim import build_optimizer, learning_rate
from opsd_core.training.probes import run_probes
from opsd_core.training.trainer import Schedule, TrainingItem, batch_order, distil, objective, train_step
from tests.core.small import small_policy

TEXTS = [("12+3", "4=x"), ("a", "bcdefgh"), ("what is 7 ?", "seven"), ("q", "r"), ("7+8=", "15 or so")]


def config(**overrides):
    base = {
        "control": True,
        "optimizer": {"num_steps": 4, "batch_size": 3, "learning_rate": 1e-2},
        "execution": {"checkpoint_every": 2},
        "rollout": {"max_completion_length": 16},
    }
    return resolve("tiny", base, overrides)


def items(policy, teacher=None, hint="", top_k=0):
    encode = policy.tokenizer.encode
    made = []
    for prompt, completion in TEXTS:
        ids, teacher_ids, tokens = encode(prompt), encode(hint + prompt), encode(completion)
        target = None
        if teacher is not None:
            empty = np.zeros((len(tokens), 1), np.float32)
            rollout = Rollout(
                prompt, 0, 0, ids, tokens, completion, "eos", *[empty[:, 0]] * 2, empty, empty, *[empty[:, 0]] * 2
            )
            (target,) = score_targets(FixedTeacher(teacher), [rollout], [teacher_ids], top_k, Transform(), 64)
        logprobs = np.zeros(len(tokens), np.float32)
        made.append(TrainingItem(ids, teacher_ids, tokens, logprobs, np.ones(len(tokens), np.float32), target))
    return made


def gradients(policy, teacher, batch, settings):
    policy.model.zero_grad()
    total = sum(item.weights_T.sum() for item in batch)
    for rows in microbatches([item.num_tokens for item in batch], settings.execution.microbatch_tokens):
        (objective(policy, teacher, [batch[r] for r in rows], settings).loss_sum / total).backward()
    return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("targets", ["recorded", "online"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_identical_teacher_gives_zero_loss_and_gradient(targets, divergence):
    policy = small_policy()
    settings = config(distillation={"targets": targets, "divergence": divergence, "top_k": 8})
    batch = items(policy, policy if targets == "recorded" else None, top_k=8)
    teacher = FixedTeacher(policy)
    assert objective(policy, teacher, batch, settings).divergence_N.abs().max() <= 1e-6
    assert gradients(policy, teacher, batch, settings).norm() <= 1e-5


@pytest.mark.parametrize("targets", ["recorded", "online"])
def test_any_split_into_microbatches_gives_the_same_gradient(targets):
    """Unequal lengths: a mean of microbatch means would differ."""
    policy, teacher = small_policy(0), FixedTeacher(small_policy(1))
    whole = config(distillation={"targets": targets}, execution={"microbatch_tokens": 4096})
    split = config(distillation={"targets": targets}, execution={"microbatch_tokens": 16})
    batch = items(policy, teacher.policy if targets == "recorded" else None, hint="42|", top_k=8)
    assert len(microbatches([i.num_tokens for i in batch], 16)) > 2
    one, many = gradients(policy, teacher, batch, whole), gradients(policy, teacher, batch, split)
    assert (one - many).norm() <= 1e-5 * one.norm()


def test_rows_are_those_that_predict_the_completion():
    policy = small_policy()
    prompts = [policy.tokenizer.encode(p) for p, _ in TEXTS]
    completions = [policy.tokenizer.encode(c) for _, c in TEXTS]
    hidden = completion_hidden(policy, prompts, completions)
    logits, start = policy.causal_lm.lm_head(hidden), 0
    for prompt, completion in zip(prompts, completions, strict=True):
        wanted = policy.model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        assert torch.allclose(logits[start : start + len(completion)], wanted, atol=1e-4)
        shifted = policy.model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) :]
        assert not torch.allclose(logits[start : start + len(completion)], shifted, atol=1e-2)
        start += len(completion)


def test_computing_a_shared_prefix_once_changes_neither_rows_nor_gradients():
    policy = small_policy()
    encode = policy.tokenizer.encode
    prompts = [encode(f"what is {a}+{b}?") for a, b in ((1, 2), (30, 4), (5, 60))]
    completions = [encode(text) for text in ("3", "34.", "sixty")]

    def gradient(groups):
        policy.model.zero_grad()
        for rows in groups:
            hidden = completion_hidden(policy, [prompts[r] for r in rows], [completions[r] for r in rows])
            policy.causal_lm.lm_head(hidden).square().sum().backward()
        return hidden, torch.cat([p.grad.flatten() for p in policy.model.parameters()])

    assert shared_prefix(prompts) == len("what is ")
    together, one = gradient([[0, 1, 2]])
    alone, many = gradient([[0], [1], [2]])
    assert torch.allclose(together[-len(alone) :], alone, atol=1e-5)
    assert (one - many).norm() <= 1e-5 * many.norm()


def run(start_seed, settings, teacher_kind="fixed", lora=0, **options):
    policy = small_policy(start_seed)
    shadow = copy.deepcopy(policy.model)
    if lora:
        policy = add_lora(policy, settings.model.lora, seed=1)
    teachers = {
        "fixed": lambda: FixedTeacher(small_policy(7)),
        "ema": lambda: EmaTeacher(Policy(shadow, policy.tokenizer), 0.9),
    }
    teacher, log = teachers[teacher_kind](), []
    save = distil(
        policy, teacher, items(policy, hint="9|"), settings, Schedule(0, 8), 3,
        on_step=lambda step, metrics: log.append((step, metrics["distillation/loss"], metrics["optim/grad_norm"])), **options,
    )  # fmt: skip
    return policy, teacher, log, save


@pytest.mark.parametrize(("teacher_kind", "lora"), [("fixed", 0), ("ema", 0), ("ema", 4)])
def test_resume_from_a_checkpoint_is_bit_exact(tmp_path, teacher_kind, lora):
    settings = config(distillation={"targets": "online"}, model={"lora": {"rank": lora}})
    saved = []

    def keep(done, save):
        save(tmp_path / str(done))
        saved.append(done)

    _, teacher, log, save = run(0, settings, teacher_kind, lora, on_checkpoint=keep)
    save(tmp_path / "end")
    assert saved == [2]
    _, teacher_again, rest, save = run(0, settings, teacher_kind, lora, resume_from=tmp_path / "2")
    save(tmp_path / "again")
    assert rest == log[2:]
    for name in ("trainable", "optimizer"):
        assert (tmp_path / "end" / f"{name}.safetensors").read_bytes() == (
            tmp_path / "again" / f"{name}.safetensors"
        ).read_bytes()
    for (name, a), (_, b) in zip(
        effective_weights(teacher.policy.model), effective_weights(teacher_again.policy.model), strict=True
    ):
        assert torch.equal(a, b), name


def test_next_iteration_continues_the_optimiser_of_the_last(tmp_path):
    settings = config(distillation={"targets": "online"})
    _, _, _, save = run(0, settings)
    save(tmp_path / "first")
    continued, _, _, _ = run(0, settings, start_from=tmp_path / "first")
    policy = small_policy(0)
    teacher, batch = FixedTeacher(small_policy(7)), items(policy, hint="9|")
    optimizer = build_optimizer(policy.model.parameters(), settings.optimizer)
    order = batch_order(len(batch), 3, 4, 3) * 2
    for step in range(8):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings.optimizer, step % 4, 8)
        train_step(policy, teacher, [batch[i] for i in order[step]], optimizer, settings, step)
    for a, b in zip(policy.model.parameters(), continued.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("lora", [0, 4])
def test_ema_teacher_matches_the_closed_form(lora):
    """After n updates: d**n theta_0 + (1 - d) sum_i d**(n-i) theta_i, of effective weights W + BA."""
    policy = small_policy(0)
    teacher = EmaTeacher(copy.deepcopy(policy), decay=0.8)
    if lora:
        policy = add_lora(policy, config(model={"lora": {"rank": lora}}).model.lora, seed=1)
    expected = {name: value.clone() for name, value in effective_weights(policy.model)}
    for step in range(5):
        torch.manual_seed(step)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        teacher.update(policy)
        for name, value in effective_weights(policy.model):
            expected[name] = 0.8 * expected[name] + 0.2 * value
    shadow = teacher.policy.model.state_dict()
    for name, value in expected.items():
        assert torch.allclose(shadow[name], value, atol=1e-5), name


def test_merged_lora_weights_compute_the_same_function():
    policy = add_lora(small_policy(0), config(model={"lora": {"rank": 4}}).model.lora, seed=1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    plain = small_policy(5)
    plain.model.load_state_dict(dict(effective_weights(policy.model)))
    ids = torch.tensor([policy.tokenizer.encode("what is 7+8 ?")])
    assert torch.allclose(policy.model(input_ids=ids).logits, plain.model(input_ids=ids).logits, atol=1e-4)


def test_non_finite_gradient_stops_before_the_step():
    policy, settings = small_policy(0), config(distillation={"targets": "online"})
    with torch.no_grad():
        policy.causal_lm.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    optimizer = build_optimizer(policy.model.parameters(), settings.optimizer)
    with pytest.raises(TrainingError, match="step 17: loss=nan"):
        train_step(policy, FixedTeacher(small_policy(1)), items(policy), optimizer, settings, 17)
    assert all(torch.equal(p, before[n]) or torch.isnan(p).any() for n, p in policy.model.named_parameters())
    assert not optimizer.state


def test_rounding_noise_is_not_amplified_into_a_step():
    """AdamW moves weights by lr * g / |g|: without the floor a null control would walk at full speed."""
    policy, settings = small_policy(0), config(distillation={"top_k": 8})
    before = [parameter.clone() for parameter in policy.model.parameters()]
    optimizer = build_optimizer(policy.model.parameters(), settings.optimizer)
    batch = items(policy, policy, top_k=8)
    for step in range(3):
        metrics = train_step(policy, FixedTeacher(small_policy(0)), batch, optimizer, settings, step)
        assert metrics["optim/applied"] == 0.0 and metrics["optim/grad_norm"] <= 1e-5
    assert all(torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))


def test_no_token_left_is_an_error_not_a_silent_step():
    policy, settings = small_policy(0), config()
    batch = [TrainingItem([3], [3], [4, 5], np.zeros(2, np.float32), np.zeros(2, np.float32))]
    optimizer = build_optimizer(policy.model.parameters(), settings.optimizer)
    with pytest.raises(TrainingError, match="no token of the batch counts"):
        train_step(policy, LiveTeacher(policy), batch, optimizer, settings, 0)
    with pytest.raises(TrainingError, match="no rollout is left"):
        distil(policy, LiveTeacher(policy), [], settings, Schedule(0, 4), 0)


def test_batch_order_passes_over_every_item_before_repeating():
    order = [i for batch in batch_order(10, 4, 5, seed=1) for i in batch]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:] and batch_order(10, 4, 5, seed=2) != batch_order(10, 4, 5, seed=1)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.8, 0.6, 0.4]),
        ("cosine", [0.5, 1, 1, 0.88284, 0.6, 0.31716]),
    ],
)
def test_learning_rate_by_hand(schedule, expected):
    """6 steps, warm-up 2 (0.5, 1), then x = 0, 1/4, 2/4, 3/4 with a floor of 0.2."""
    settings = config(
        optimizer={"learning_rate": 1.0, "schedule": schedule, "warmup_fraction": 1 / 3, "final_fraction": 0.2}
    ).optimizer
    assert [learning_rate(settings, step, 6) for step in range(6)] == pytest.approx(expected, abs=1e-5)


def test_probes_see_signal_alignment_and_gain():
    policy = small_policy(0)
    settings = config(distillation={"targets": "online"})
    answers = [policy.tokenizer.encode("15")] * len(TEXTS)
    metrics = run_probes(policy, FixedTeacher(small_policy(1)), items(policy, hint="15|"), answers, settings)
    assert metrics["teacher/divergence"] > 0.01
    assert metrics["alignment/max_abs_diff"] < 1e-3
    null = run_probes(policy, FixedTeacher(policy), items(policy), answers, settings)
    assert null["teacher/divergence"] < 1e-7


def test_probes_refuse_a_teacher_that_has_nothing_to_teach():
    policy = small_policy(0)
    settings = config(distillation={"targets": "online"}, control=False)
    with pytest.raises(TrainingError, match=r"nothing to learn.*teacher\.context"):
        run_probes(policy, FixedTeacher(policy), items(policy), [], settings)
    later = run_probes(policy, FixedTeacher(policy), items(policy), [], settings, trained_before=True)
    assert later["teacher/divergence"] < 1e-7  # a student that has caught up is reported, not refused


def test_probes_refuse_a_context_that_lowers_the_answers_likelihood():
    policy = small_policy(0)
    teacher = small_policy(0)
    settings = config(distillation={"targets": "online"}, control=False)
    answers = [policy.tokenizer.encode("15")] * len(TEXTS)
    batch = items(policy, hint="|")
    gain = run_probes(policy, FixedTeacher(teacher), batch, answers, settings.model_copy(update={"control": True}))
    if gain["teacher/privilege_gain"] > 0:  # make the teacher the worse side, whichever it is
        policy, teacher = small_policy(0), small_policy(0)
        batch = [
            TrainingItem(i.teacher_prompt_ids, i.prompt_ids, i.completion_ids, i.rollout_logprobs_T, i.weights_T)
            for i in batch
        ]
    with pytest.raises(TrainingError, match="require_privilege_gain=false"):
        run_probes(policy, FixedTeacher(teacher), batch, answers, settings)


@pytest.mark.parametrize("lora", [0, 4])
def test_a_state_that_does_not_fit_is_refused_with_the_name(tmp_path, lora):
    settings = config(model={"lora": {"rank": lora}})


    def make():
        return add_lora(small_policy(0), settings.model.lora, 1) if lora else small_policy(0)

    policy, teacher = make(), EmaTeacher(small_policy(1), 0.9)
    optimizer = build_optimizer(trainable_parameters(policy).values(), settings.optimizer)
    for parameter in trainable_parameters(policy).values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    teacher.update(policy)
    save_checkpoint(tmp_path, policy, optimizer, teacher, 3)

    def load():
        into = make()
        fresh = build_optimizer(trainable_parameters(into).values(), settings.optimizer)
        return load_checkpoint(tmp_path, into, fresh, EmaTeacher(small_policy(2), 0.9))

    assert load() == 3
    first = next(iter(trainable_parameters(policy)))
    for file, change, pattern in (
        ("trainable", lambda t: {k: v for k, v in t.items() if k != first}, "holds other parameters"),
        ("trainable", lambda t: t | {first: t[first][:1].contiguous()}, f"{re.escape(first)}' has the shape"),
        ("trainable", lambda t: t | {first: t[first] * torch.nan}, "not finite"),
        ("optimizer", lambda t: {k: v for k, v in t.items() if k != f"exp_avg/{first}"}, "do not agree"),
        ("optimizer", lambda t: t | {"exp_avg/other": t[f"exp_avg/{first}"].clone()}, "do not agree"),
        ("teacher", lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"}, r"difference: 'model\.norm\.weight'"),
        ("teacher", lambda t: {f"module.{k}": v for k, v in t.items()}, "first difference"),
        ("teacher", lambda t: t | {"model.norm.weight": t["model.norm.weight"] * torch.nan}, "not finite"),
        ("teacher", lambda t: t | {"model.norm.weight": torch.ones(3)}, "first difference"),
    ):
        path = tmp_path / f"{file}.safetensors"
        whole = path.read_bytes()
        save_file(change(load_file(path)), path)
        with pytest.raises(IntegrityError, match=pattern):
            load()
        path.write_bytes(whole[:50])
        with pytest.raises(IntegrityError, match=rf"{file}\.safetensors cannot be read"):
            load()
        path.write_bytes(whole)
    (tmp_path / "trainer.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"trainer\.json cannot be read"):
        load()


def test_weights_in_which_small_steps_are_lost_are_refused():
    policy = small_policy(0)
    policy.model.to(torch.bfloat16)
    with pytest.raises(TrainingError, match=r"weights are bfloat16.*load_policy\(folder, config.model, torch.float32\)"):
        distil(policy, LiveTeacher(policy), items(policy), config(), Schedule(0, 4), 0)

"""Reference completions, and what trains on them: pytest tests/core/training/test_references.py"""

import numpy as np
import pytest
import torch

from opsd_core.config import resolve
from opsd_core.data import addition_examples
from opsd_core.errors import ConfigError, DataError
from opsd_core.prompts.budgets import fitting_in_every_stage
from opsd_core.prompts.references import fitting_references, reference_ids, reference_text
from opsd_core.records.examples import Example
from opsd_core.records.rollouts import read_rollouts, write_rollouts
from opsd_core.rollout.references import off_policy, reference_rollouts
from opsd_core.training.importance import correction_metrics, importance_ratio, old_logprobs
from tests.core.small import small_policy, small_tokenizer

SFT = {"distillation": {"divergence": "cross_entropy"}, "rollout": {"on_policy_fraction": 0.0}}
ROWS = {"data": {"source": "rows.jsonl", "columns": {"solution": "solution"}}}


def test_the_choice_follows_from_seed_iteration_and_prompt_and_has_the_share_that_is_asked_for():
    ids = [example.id for example in addition_examples(2000)]
    half = resolve("tiny", {"rollout": {"on_policy_fraction": 0.7}})
    chosen = [off_policy(i, 3, half) for i in ids]
    assert abs(np.mean(chosen) - 0.3) < 0.04
    assert chosen == [off_policy(i, 3, half) for i in ids]
    assert chosen != [off_policy(i, 4, half) for i in ids]
    assert chosen != [off_policy(i, 3, half.model_copy(update={"seed": 1})) for i in ids]
    assert all(off_policy(i, 0, resolve("tiny", SFT)) for i in ids)
    assert not any(off_policy(i, 0, resolve("tiny")) for i in ids)


def test_text_is_the_solution_where_the_data_names_one_else_the_answer_else_the_template():
    example = Example("x", "1+1?", answer="2", solution="1+1 is 2")
    assert reference_text(example, resolve("tiny", SFT)) == "2"
    assert reference_text(example, resolve("tiny", SFT, ROWS)) == "1+1 is 2"
    template = {"rollout": {"reference_completion": "{{ solution }}|{{ answer }}"}}
    assert reference_text(example, resolve("tiny", SFT, template)) == "1+1 is 2|2"
    tokenizer = small_tokenizer()
    assert reference_ids(example, resolve("tiny", SFT), tokenizer, 0) == [*tokenizer.encode("2"), 0]


def test_items_without_a_text_or_with_a_long_one_are_counted():
    items = [Example(str(i), "q", "1", solution) for i, solution in enumerate(["", "long text", "ok", ""])]
    settings, tokenizer = resolve("tiny", SFT, ROWS), small_tokenizer()
    with pytest.raises(DataError, match=r"2 of 4 items have no reference text.*first: 0.*data\.columns\.solution"):
        fitting_references(items, settings, tokenizer, 4)
    with pytest.raises(DataError, match=r"1 of 2 items .*max_completion_length=4 .*longest has 10.*overflow=drop"):
        fitting_references(items[1:3], settings, tokenizer, 4)
    drop = resolve("tiny", SFT, ROWS, {"prompts": {"overflow": "drop"}})
    assert fitting_references(items[1:3], drop, tokenizer, 4) == ([items[2]], ["1"])


def test_a_reference_is_stored_with_the_policys_own_view_and_without_a_sampling_probability(tmp_path):
    policy, settings = small_policy(0), resolve("tiny", SFT)
    examples = [Example("a", "1+2=", "30", ""), Example("b", "7", "1234567", "")]
    prompts = [policy.tokenizer.encode(e.question) for e in examples]
    made = reference_rollouts(policy, examples, prompts, settings)
    write_rollouts(tmp_path / "r.parquet", made)
    for example, prompt, rollout in zip(examples, prompts, read_rollouts(tmp_path / "r.parquet"), strict=True):
        ids = [*policy.tokenizer.encode(example.answer), policy.tokenizer.eos_token_id]
        assert rollout.completion_ids == ids and rollout.source == "reference" and rollout.finish_reason == "eos"
        logits = policy.model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        wanted = torch.log_softmax(logits, -1)
        assert np.allclose(rollout.logprobs_T, wanted.gather(1, torch.tensor(ids)[:, None])[:, 0].detach(), atol=1e-4)
        assert np.allclose(rollout.entropy_T, -(wanted.exp() * wanted).sum(-1).detach(), atol=1e-4)
        assert np.allclose(np.exp(rollout.topk_logprobs_TK).sum(1) + rollout.tail_mass_T, 1.0, atol=1e-4)
        assert np.isnan(rollout.sampling_logprobs_T).all() and np.isnan(old_logprobs(rollout, settings.rollout)).all()


def test_no_importance_ratio_is_invented_for_tokens_that_nobody_sampled():
    now, old = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, float("nan"), -0.5])
    assert importance_ratio(now, old, 2.0).tolist() == pytest.approx([np.exp(0.5), 1.0, 1.0])
    assert correction_metrics(now, old, 2.0) == correction_metrics(now[[0, 2]], old[[0, 2]], 2.0)
    assert correction_metrics(now, torch.full((3,), float("nan")), 2.0) == {}


CE = {"distillation": {"divergence": "cross_entropy"}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (CE, r"own samples, all of them: its gradient is 0 in expectation.*correct_only.*control=true"),
        (CE | {"filter": {"route": "incorrect_only"}}, r"raise the likelihood of the completions that are wrong"),
        (CE | {"filter": {"route": "correct_only", "teacher_probe": "gain"}}, r"no teacher to probe"),
        (CE | {"filter": {"route": "correct_only"}, "token_weights": {"entropy": "down"}}, r"entropy_of=student"),
        (SFT | {"distillation": {"divergence": "opsa"}}, r"opsa with rollout\.on_policy_fraction=0\.0"),
        (
            SFT | {"data": {"source": "q.jsonl", "columns": {"answer": ""}}, "promotion": {"mode": "manual"}},
            r"need reference texts",
        ),
        (
            {"rollout": {"on_policy_fraction": 0.5, "group_size": 2}, "teacher": {"context": "sibling_success"}},
            r"such references would be dropped",
        ),
        (
            {
                "teacher": {"weights": "ema"},
                "distillation": {"targets": "online"},
                "iterations": 2,
                "rollout": {"on_policy_fraction": 0.5},
                "curriculum": {"schedules": {"distillation.divergence": ["cross_entropy", "forward_kl"]}},
            },
            r"neither update nor keep the average",
        ),
        (
            CE | {"iterations": 2, "curriculum": {"schedules": {"rollout.on_policy_fraction": [0.0, 1.0]}}},
            r"iteration 1: .*own samples",
        ),
    ],
)
def test_refusals(overrides, message):
    with pytest.raises(ConfigError, match=message):
        resolve("tiny", overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        SFT,
        SFT | {"teacher": {"context": "none"}},
        CE | {"filter": {"route": "correct_only"}},
        CE | {"control": True},
        CE | {"rollout": {"temperature": 1.6, "top_p": 0.8}},
        {"distillation": {"divergence": "opsa"}},
        {"rollout": {"on_policy_fraction": 0.5}},
    ],
)
def test_supervised_rejection_sampling_and_controls_are_configurations(overrides):
    assert resolve("tiny", overrides)


def test_prompts_of_every_scheduled_context_are_measured_before_the_first_iteration():
    """The second half's hint does not fit: with the count and the iteration, or dropped. The first context fits."""
    examples = [Example(str(i), "1+1", "2", "s" * (5 if i else 90)) for i in range(4)]
    schedules = {"teacher.context": ["concise", "hint"], "teacher.instruction": ["be brief", ""]}
    schedule = {"iterations": 4, "curriculum": {"schedules": schedules}}
    shown = {"teacher": {"reference": "solution", "context_fraction": 1.0, "template": "{{ privileged_context }}|"}}
    shown["teacher"] |= {"instruction": "be brief", "context": "concise"}
    limits = {"prompts": {"max_teacher_prompt_length": 40}}
    tokenizer = small_tokenizer()
    settings = resolve("tiny", ROWS, schedule, shown, limits)
    with pytest.raises(DataError, match=r"iteration 2: 1 of 4 items have a prompt that does not fit"):
        fitting_in_every_stage(examples, tokenizer, settings)
    drop = settings.model_copy(update={"prompts": settings.prompts.model_copy(update={"overflow": "drop"})})
    assert fitting_in_every_stage(examples, tokenizer, drop) == (examples[1:], ["0"])
    first = resolve("tiny", ROWS, shown, limits)
    assert fitting_in_every_stage(examples, tokenizer, first) == (examples, [])

"""pytest tests/core/config/test_guards_config.py — how guards are written, and how they are refused."""

import pytest

from opsd_core.config import CampaignConfig, resolve
from opsd_core.config.kinds.suites import ITEMS, SUITES
from opsd_core.data import load_items
from opsd_core.errors import ConfigError
from opsd_core.graders import get_grader
from opsd_core.judgement.guard_sizes import fewest_items


def guards_of(*guards, **promotion):
    return resolve("opsd_paper_v3", {"promotion": {"guards": list(guards), **promotion}}).promotion


def test_a_shipped_suite_is_written_by_its_name_or_with_changes_and_reads_back_the_same():
    own = {"name": "mine", "suite": "refunds", "data": {"source": "x.jsonl"}}
    config = resolve("opsd_paper_v3", {"promotion": {"guards": ["plain_text", {"suite": "sums", "max_drop": 0.1}, own]}})
    text, sums, mine = config.promotion.guards
    assert (text.title, text.measure, text.num_items, text.max_drop, text.rows) == ("plain_text", "likelihood", 64, 0.05, "")
    assert (sums.max_drop, sums.data.source, sums.num_items) == (0.1, "reasoning_gym:chain_sum", 200)
    assert sums.prompts.system == "Answer with the final result only."
    assert (mine.title, mine.rows, mine.measure, mine.field) == ("mine", "refunds", "grader", "promotion.guards[mine]")
    assert CampaignConfig.model_validate_json(config.model_dump_json()) == config
    (fewer,) = guards_of({"suite": "tiny_copying", "num_items": 60, "data": {"size": 60}}).guards
    assert (fewer.data.size, fewer.data.source, fewer.data.grader) == (60, "suite:tiny_copying", "exact")


@pytest.mark.parametrize("name", SUITES)
def test_a_shipped_suite_has_different_items_that_its_grader_can_judge_and_that_can_hold(name):
    (guard,) = guards_of(name).guards
    items = load_items(guard.data)
    assert len(items) >= min(guard.num_items, 100) and len(items) >= fewest_items(guard, 0.05)
    if guard.measure == "grader":
        judge = get_grader(guard.data)
        assert all(example.answer and not judge(example, "").correct for example in items)
    else:
        assert all(not example.answer for example in items)


def test_every_table_entry_of_items_is_a_suite_or_a_part_of_one():
    assert {SUITES[name].guard["data"]["source"] for name in SUITES} >= {f"suite:{name}" for name in ITEMS}


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        ("copyin", r"suite='copyin' is no shipped suite \(instructions, .* Did you mean 'tiny_copying'\?"),
        ({}, r"the guard has no data of its own"),
        (3, r"guards\.0: must be an object"),
        ({"suite": "sums", "max_drop": 1.5}, r"max_drop=1\.5 of guard 'sums' is a share"),
        ({"suite": "sums", "max_drop": 0}, r"guards\.0\.max_drop"),
        ({"data": {"source": "x.jsonl"}}, r"a guard needs a name"),
        ({"name": "Ü b", "data": {"source": "x.jsonl"}}, r"name='Ü b': a guard needs a name"),
        ({"name": "a", "data": {"source": "x.jsonl", "columns": {"answer": ""}}}, r"columns\.answer of guard 'a' is empty"),
        ({"name": "a", "data": {"source": "s3://"}}, r"promotion\.guards\[a\]\.data\.source='s3://'"),
        ({"suite": "sums", "prompts": {"student": "{{ qestion }}"}}, r"promotion\.guards\[sums\]\.prompts\.student.*no qestion"),
        ({"suite": "plain_text", "items": 3}, r"guards\.0\.items: unknown key.*promotion\.guards\.num_items"),
    ],
)
def test_a_guard_that_cannot_be_is_refused_with_the_field(guard, said):
    with pytest.raises(ConfigError, match=said):
        guards_of(guard)


def test_two_guards_of_one_name_and_an_anchor_that_is_no_version_are_refused():
    with pytest.raises(ConfigError, match="guards has sums twice"):
        guards_of("sums", "sums")
    assert guards_of(anchor="3").anchor == 3 and guards_of(anchor="none").anchor == "none"
    for anchor in (0, -1, "last", True, 1.5, None):
        with pytest.raises(ConfigError, match=r"promotion\.anchor.* is no version"):
            guards_of(anchor=anchor)


def test_recipes_guard_their_own_model_and_task_alone():
    assert [guard.title for guard in resolve("tiny").promotion.guards] == ["tiny_form"]
    assert [guard.title for guard in resolve("demo").promotion.guards] == ["sums", "plain_text"]
    for changes in ({"model": {"source": "/other"}}, {"data": {"source": "x.jsonl"}}):
        assert resolve("tiny", changes).promotion.guards == ()
        assert resolve("demo", changes).promotion.guards == ()


@pytest.mark.parametrize("recipe", ["opsd_paper_v2", "opsd_paper_v3", "sdft", "op2sd", "u_opsd", "sdpo_like"])
def test_recipes_of_forward_kl_and_jsd_judge_on_samples(recipe):
    config = resolve(recipe)
    assert config.distillation.divergence in ("forward_kl", "jsd")
    assert config.evaluation.num_samples >= 3 and config.promotion.test == "bootstrap"

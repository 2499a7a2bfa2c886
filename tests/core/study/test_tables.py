"""pytest tests/core/study/test_tables.py — numbers and words of a report, from outcomes made by hand."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from opsd_core.config import DataConfig
from opsd_core.config.kinds.contexts import CONTEXT_KINDS
from opsd_core.config.teacher import ContextName, TeacherWeightsName
from opsd_core.data import load_examples
from opsd_core.data.examples import make_example
from opsd_core.errors import ConfigError
from opsd_core.judgement.metrics import summarise
from opsd_core.judgement.statistics import wilson
from opsd_core.plots import COLOURS
from opsd_core.records.outcomes import ItemOutcome
from opsd_core.study import ARMS, STUDIES, figures, resolve_arm, resolve_study
from opsd_core.study.arms import find_arm
from opsd_core.study.items import items_text
from opsd_core.study.report import render, shares_by_set
from opsd_core.study.steps import reasoning_steps
from opsd_core.study.tables import ArmData, StudyData, study_numbers
from opsd_core.study.words import difference, sentences

ITEMS = [make_example(question=f"<b>{i}</b>+0=", answer="1" if i % 2 else str(i)) for i in range(100)]


def outcome(example, text):
    right = text == example.answer
    return ItemOutcome(example.id, "greedy", 0, right, float(right), text, 3, False, 1.0, 0.4, text)


def arm(name, answer, seeds=(0, 1, 2), sets=None):
    """An arm that writes answer(example, seed)."""
    outcomes = {seed: [outcome(e, answer(e, seed)) for e in ITEMS] for seed in seeds}
    return ArmData(
        name=name,
        title=name,
        role=find_arm(name).role,
        outcomes=outcomes,
        metrics={seed: summarise(rows) for seed, rows in outcomes.items()},
        sets=sets or {},
        curves={seed: [0.1, 0.2] for seed in seeds} if name != "base" else {},
    )


def study(*arms, **more):
    return StudyData(arms={a.name: a for a in arms}, examples=ITEMS, **more)


BASE = arm("base", lambda e, seed: "0", seeds=(0,))


def test_a_gain_that_is_only_the_commonest_answer_is_called_so():
    prior = arm("opsd", lambda e, seed: "1")
    learned = arm("opsd_ema", lambda e, seed: e.answer if int(e.id, 16) % 5 else "0")
    numbers = study_numbers(study(BASE, prior, learned))
    text = "\n".join(sentences(numbers))
    assert numbers["constant_accuracy"] == 0.5
    (of_prior,) = [line for line in text.splitlines() if line.startswith("opsd:")]
    (of_learned,) = [line for line in text.splitlines() if line.startswith("opsd_ema:")]
    assert "+49.0 points against base" in of_prior and "outside noise. This gain is only the answer prior" in of_prior
    assert "outside noise." in of_learned and "prior" not in of_learned


def test_differences_are_against_base_and_sft_and_null_is_inside_noise():
    flip = np.random.default_rng(0).random((3, 100)) < 0.5
    index = {e.id: i for i, e in enumerate(ITEMS)}
    coin = arm("null", lambda e, seed: e.answer if e.answer == "0" else "x")
    sft = arm("sft", lambda e, seed: e.answer if flip[seed, index[e.id]] else "x")
    numbers = study_numbers(study(BASE, sft, coin))
    rows = {(r["arm"], r["reference"]): r for r in numbers["differences"] if r["metric"] == "accuracy"}
    assert set(rows) == {("sft", "base"), ("null", "base"), ("null", "sft")}
    assert rows["sft", "base"]["outside_noise"] and rows["null", "sft"]["outside_noise"]
    assert not rows["null", "base"]["outside_noise"] and rows["null", "base"]["mean"] == 0.0
    assert len(rows["sft", "base"]["within_seeds"]) == 3 and rows["sft", "base"]["num_tests"] == 3


def test_what_was_forgotten_is_named_with_its_interval():
    kept, lost = [1.0] * 40, [1.0] * 20 + [0.0] * 20
    base = arm("base", lambda e, seed: "0", seeds=(0,), sets={0: {"tiny_facts": kept}})
    opsd = arm("opsd", lambda e, seed: "0", sets={seed: {"tiny_facts": lost} for seed in range(3)})
    null = arm("null", lambda e, seed: "0", sets={seed: {"tiny_facts": kept} for seed in range(3)})
    data = study(base, opsd, null, set_titles={"tiny_facts": ("facts", "forgetting")})
    lines = [line for line in sentences(study_numbers(data)) if "facts" in line]
    assert len(lines) == 1 and lines[0].startswith("opsd lost 0.500 on facts (forgetting; base 1.000) [-0.6")


def test_the_page_stands_alone_and_escapes_what_models_write():
    evil = arm("opsd", lambda e, seed: e.answer if seed == 0 and e.answer == "1" else "<script>alert(1)</script>")
    data = study(BASE, evil)
    numbers = study_numbers(data)
    html = render("t", "s", data, numbers, {"entropy": {"opsd": [0.1, 0.2]}, "kl": {}}, "f")
    assert "<script" not in html and "&lt;b&gt;" in html and "newly right" in html
    assert html.count("data:image/png;base64,") == 4 and "://" not in html
    assert json.loads(json.dumps(numbers)) == numbers


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_shipped_study_and_every_arm_resolves_to_equal_steps_and_prompts(name):
    own = {"model": {"source": "org/model"}, "data": {"source": "org/data"}} if name == "base" else {}
    config = resolve_study(name, own, {"arms": list(ARMS), "separate_teacher": "" if "tiny" in name else "org/larger"})
    found = [resolve_arm(config, arm, 3) for arm in config.trained_arms]
    assert (
        len({(c.iterations, c.optimizer.num_steps, c.optimizer.batch_size, c.rollout.num_prompts) for c in found}) == 1
    )
    assert len(found) == len(ARMS) - 1 and all(c.seed == 3 for c in found)


def test_a_study_of_ones_own_asks_for_model_and_data_and_compares_what_the_teacher_sees():
    with pytest.raises(ConfigError, match=r"recipe 'base' has no model of its own\. Give model.source"):
        resolve_study("base", {}, {})
    own = {"model": {"source": "org/model"}, "data": {"source": "org/data", "columns": {"solution": "solution"}}}
    config = resolve_study("base", own | {"teacher": {"reference": "solution"}}, {"arms": ["opsd", "opsd_answer"]})
    shown = [resolve_arm(config, arm, 0).teacher for arm in config.trained_arms]
    assert [(teacher.context, teacher.reference) for teacher in shown] == [("reference", "solution"), ("reference", "answer")]


def test_items_are_told_one_by_one_with_the_share_of_their_samples():
    greedy, *sampled = outcome(ITEMS[1], "1"), outcome(ITEMS[1], "1"), outcome(ITEMS[1], "0"), outcome(ITEMS[1], "7")
    rows = [greedy, *(replace(row, mode="sampled", sample_index=i) for i, row in enumerate(sampled)), outcome(ITEMS[2], "9")]
    one = replace(arm("opsd", lambda e, seed: "0"), outcomes={4: rows}, sets={4: {"english": [-1.5, -2.0]}})
    told = [json.loads(line) for line in items_text(StudyData({"opsd": one}, ITEMS)).splitlines()]
    shared = {"arm": "opsd", "seed": 4}
    assert told == [
        shared | {"item": ITEMS[1].id, "greedy": True, "sampled": 1 / 3, "tokens": 3, "truncated": False},
        shared | {"item": ITEMS[2].id, "greedy": False, "sampled": None, "tokens": 3, "truncated": False},
        shared | {"set": "english", "values": [-1.5, -2.0]},
    ]


def test_steps_of_an_item():
    def steps(question, **more):
        return reasoning_steps(make_example(question=question, answer="1", **more))

    assert [steps(q) for q in ("12+34=", "15+17=", "95+07=", "55+55=", "what?")] == [2, 3, 4, 4, None]
    assert steps("x", solution="3*4 = <<3*4=12>>12, <<12+1=13>>13") == 2
    assert steps("x", metadata={"entry": {"metadata": {"difficulty": {"num_terms": 3}}}}) == 3


def test_steps_of_generated_items_are_their_own_sizes_not_the_tasks_range():
    for task, options, sizes in (
        ("number_format", {"min_num_candidates": 2, "max_num_candidates": 3}, {2, 3}),
        ("chain_sum", {"min_terms": 2, "max_terms": 3}, {2, 3}),
    ):
        data = load_examples(DataConfig(source=f"reasoning_gym:{task}", options=options, size=40))
        assert {reasoning_steps(example) for example in (*data.train, *data.validation, *data.test)} == sizes


def test_arms_with_few_labels_give_as_many_completions_and_make_a_figure():
    config = resolve_study("tiny_labels", {}, {})
    few, many = resolve_arm(config, "opsd:16", 0).rollout, resolve_arm(config, "opsd:1024", 0).rollout
    assert (few.num_prompts, few.group_size, many.num_prompts, many.group_size) == (16, 100, 1024, 1)
    points = [arm_of_labels(name) for name in ("opsd:16", "opsd:64")]
    numbers = study_numbers(study(BASE, *points))
    assert "(c) Labelled examples" in render("t", "s", study(BASE, *points), numbers, {}, "f")
    with pytest.raises(ConfigError, match=r"arms has base:4, opsd:none"):
        resolve_study("tiny", {}, {"arms": ["base:4", "opsd:none"]})


def test_arms_with_few_labels_are_compared_with_sft_on_as_many():
    names = ["sft:16", "opsd:16", "sft:64", "opsd:64", "opsd"]
    data = study(BASE, *(arm_of_labels(name) for name in names))
    numbers = study_numbers(data)
    rows = {(r["arm"], r["reference"]) for r in numbers["differences"] if r["metric"] == "accuracy"}
    assert rows == {(name, "base") for name in names} | {("opsd:16", "sft:16"), ("opsd:64", "sft:64")}
    text = "\n".join(sentences(numbers))
    assert "points against sft:64 [" in text and render("t", "s", data, numbers, {}, "f").count("against sft") >= 1


def arm_of_labels(name):
    return replace(arm("opsd", lambda e, seed: e.answer), name=name)


def test_another_task_leaves_the_studys_own_options_behind():
    other = {"data": {"source": "reasoning_gym:letter_counting", "options": {"min_words": 1, "max_words": 3}}}
    config = resolve_study("smollm2", other, {})
    assert resolve_arm(config, "sft", 0).data.options == {"min_words": 1, "max_words": 3}
    assert resolve_arm(resolve_study("smollm2", {}, {}), "sft", 0).data.options["max_num_candidates"] == 3


def test_an_arm_may_be_any_teacher_by_weights_and_context():
    config = resolve_study("tiny_teachers", {}, {})
    weights, contexts = get_args(TeacherWeightsName), get_args(ContextName)
    assert set(config.trained_arms) == {f"{w}.{c}" for w in weights for c in contexts}
    taught = {arm: resolve_arm(config, arm, 0) for arm in config.trained_arms}
    assert {(c.teacher.weights, c.teacher.context) for c in taught.values()} == {
        tuple(arm.split(".")) for arm in config.trained_arms
    }
    for arm in taught.values():
        alone = arm.teacher.context == "none" and arm.teacher.weights not in ("external", "peers")
        assert arm.control == (alone or CONTEXT_KINDS[arm.teacher.context].control)
    assert taught["initial.reference"] == resolve_arm(config, "opsd", 0), "the same artifacts serve both names"
    with pytest.raises(ConfigError, match=r"arms has initial.nothing, mine.reference"):
        resolve_study("tiny", {}, {"arms": ["initial.nothing", "mine.reference"]})


def test_teachers_by_weights_and_context_are_shown_as_a_grid():
    names = ["initial.reference", "initial.none", "ema.reference", "ema.none"]
    arms = [arm(name, (lambda e, seed: e.answer) if "reference" in name else (lambda e, seed: "1")) for name in names]
    arms[2] = replace(arms[2], outcomes={}, metrics={}, failed={0: "privilege probe: -3.6 nats"})
    data = study(BASE, *arms)
    shown = render("t", "s", data, study_numbers(data), {}, "f").split("Teachers: weights and contexts")[1]
    assert "<th>initial</th><th>ema</th>" in shown
    assert "<td>reference</td><td>100.0 (+" in shown
    assert "<td>not trained</td></tr>" in shown
    assert "Teachers: weights" not in render("t", "s", study(BASE, arms[0]), study_numbers(study(BASE, arms[0])), {}, "f")


def test_a_separate_teacher_is_the_larger_tiny_model_or_a_named_one():
    taught = resolve_arm(resolve_study("tiny", {}, {}), "separate_teacher", 0)
    assert taught.teacher.source == "tiny_large" and taught.teacher.context == "none" and not taught.control
    named = resolve_study("smollm2", {}, {"arms": ["separate_teacher:64"], "separate_teacher": "org/larger"})
    assert resolve_arm(named, "separate_teacher:64", 0).teacher.source == "org/larger"
    shown = resolve_study("smollm2", {}, {"arms": ["initial.peer_success", "peers.none"], "separate_teacher": "org/larger"})
    assert all(resolve_arm(shown, arm, 0).teacher.peers == ("org/larger", "smollm2") for arm in shown.arms)
    for arm in ("separate_teacher", "initial.peer_failure", "peers.reference"):
        with pytest.raises(ConfigError, match="name it in separate_teacher"):
            resolve_study("smollm2", {}, {"arms": [arm]})


def test_no_interval_leaves_the_range_of_its_number_and_what_was_not_trained_has_no_bar():
    """Two seeds that differ by nearly everything: stretched by Student's t the plain interval ends far beyond one."""
    sets = {0: {"harder": [1.0] * 20}, 1: {"harder": [0.9] * 20}}
    ends = arm("opsd", lambda e, seed: e.answer if seed else "x", seeds=(0, 1), sets=sets)
    untrained = replace(arm("sft", lambda e, seed: "0"), outcomes={}, metrics={}, curves={}, failed={0: "diverged"})
    base = arm("base", lambda e, seed: "0", seeds=(0,), sets={0: {"harder": [0.0] * 20}})
    data = study(base, ends, untrained, set_titles={"harder": ("harder items", "shifted")})
    numbers = study_numbers(data)
    for row in numbers["differences"] + numbers["sets"]:
        assert -1.0 <= row["low"] <= row["mean"] <= row["high"] <= 1.0, row
    drawn = shares_by_set(numbers)
    for group in (drawn["test split"], drawn["harder items"]):
        assert "sft" not in group and {"base", "opsd"} <= set(group)
        assert all(0.0 <= low <= share <= high <= 1.0 for share, low, high in group.values())
    low, high = wilson(50, 100)
    assert f"[{low:.3f}, {high:.3f}]" in render("t", "s", data, numbers, {}, "f")


def test_a_sentence_says_why_a_difference_is_inside_noise_where_its_interval_says_otherwise():
    row = {"metric": "accuracy", "outside_noise": False, "num_tests": 9, "mean": 0.12, "low": 0.01, "high": 0.2, "p_value": 0.03}
    why = "the interval excludes 0, but p = 0.03 is not small enough for 9 comparisons"
    assert difference(row, "base").endswith(f"inside noise ({why})")
    assert difference(row | {"low": -0.1, "p_value": 0.5}, "base").endswith("[-10.0, +20.0], inside noise")


def test_an_arm_has_the_same_colour_in_every_figure_and_the_colours_are_told_apart():
    assert set(COLOURS) <= {"#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#000000"}
    styles = figures.Styles(["base", "opsd", "sft"])
    assert figures.bars({"a": {"base": (0.5, 0.4, 0.6), "opsd": 0.2}, "b": {"sft": 0.1}}, styles)[:4] == b"\x89PNG"
    assert figures.lengths({"base": [1, 2, 3], "sft": [4, 5]}, styles)[:4] == b"\x89PNG"
    assert len({styles.of(name)["color"] for name in ("base", "opsd", "sft")}) == 3

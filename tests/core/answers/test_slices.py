"""pytest tests/core/answers/test_slices.py — forms of answers, and slices that fall while the whole rises."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd_core.answers.forms import answer_form, form_in_question
from opsd_core.answers.sides import Side, items_of
from opsd_core.answers.slices import columns_of, slices_of, warnings_of
from opsd_core.config import DataConfig
from opsd_core.data import load_examples
from opsd_core.errors import DataError
from opsd_core.judgement.statistics import paired_interval, wilson
from opsd_core.records.examples import Example
from tests.core.answers.made import examples, outcomes


@pytest.mark.parametrize(
    ("form", "texts"),
    {
        "integer": ["7", "-12", "1,234,567", "$40", "18 %", "+3"],
        "decimal": ["7.5", "-.25", "1,234.5", "€ 3.50", "529.9589999999999"],
        "scientific": ["5.3e+02", "-1E-7", "3 x 10^8", "3.1 \\times 10^{-4}", "2*10**5"],
        "fraction": ["1/2", "-3 / 4", "1 1/2", "\\frac{3}{4}", "\\dfrac{1}{3}"],
        "choice": ["A", "(B)", "C.", "[d]"],
        "text": ["blue", "x = 3", "1, 2 and 3", "12 apples", "a dog"],
        "none": ["", "  "],
    }.items(),
)
def test_an_answer_has_one_form(form, texts):
    assert {text: answer_form(text) for text in texts} == dict.fromkeys(texts, form)


def test_the_form_in_which_the_question_shows_the_answer():
    question = "Pick the smallest of 5.299589999999999e+02, 1,522.976000 and 3"
    assert form_in_question(question, "529.959") == "scientific"
    assert form_in_question(question, "1522.976") == "decimal"
    assert form_in_question(question, "3") == "integer"
    assert (
        form_in_question(question, "4")
        == form_in_question(question, "blue")
        == form_in_question("", "3")
        == "not in it"
    )


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_text_breaks_the_forms(question, answer):
    assert answer_form(answer) and form_in_question(question, answer)


def _collapse(number=150):
    """The whole rises; of the items that the question writes in scientific notation, nearly all are lost."""
    shown = examples(number)
    scientific = set(range(0, number, 3))
    shown = [
        replace(e, question="which? 7.5e0 or 2" if i in scientific else "which? 7.500 or 2")
        for i, e in enumerate(shown)
    ]
    before = {i for i in range(number) if (i in scientific and i % 5 != 0) or i % 4 == 1}
    after = {i for i in range(number) if i not in scientific} | {0}
    return items_of(shown, [Side("before", outcomes(number, before)), Side("after", outcomes(number, after))])


def test_a_slice_that_falls_while_the_whole_rises_is_a_warning_with_its_numbers():
    items = _collapse()
    rows = slices_of(items)
    assert sum(item.answers[1].correct for item in items) > sum(item.answers[0].correct for item in items)
    (row,) = [row for row in rows if row["warns"]]
    assert (row["dimension"], row["value"], row["n"]) == ("form of the answer in the question", "scientific", 50)
    assert row["before"][0] > 0.7 and row["after"][0] == pytest.approx(0.02) and row["p_falls"] < 1e-9
    assert row["difference"][1] <= row["difference"][0] <= row["difference"][2] < 0
    (text,) = warnings_of(rows)
    assert "scientific" in text and f"{len(rows)} slices, Holm" in text


def test_a_slice_that_falls_with_the_whole_or_by_chance_warns_of_nothing():
    items = _collapse()
    fallen = [replace(item, answers=(item.answers[1], item.answers[0])) for item in items]
    assert not any(row["warns"] for row in slices_of(fallen) if row["value"] == "decimal")
    few = items_of(examples(8), [Side("a", outcomes(8, {0, 1})), Side("b", outcomes(8, {1, 2, 3, 5}))])
    assert not any(row["warns"] for row in slices_of(few))


def test_slices_of_equal_models_warn_at_most_as_often_as_promised():
    """Both sides right by the same coin: a page warns in at most 5 % of the draws (here 200 pages of some ten slices)."""
    import random

    draw, pages = random.Random(0), 0
    shown = [replace(e, metadata={f"c{k}": str((i >> k) & 1) for k in range(5)}) for i, e in enumerate(examples(64))]
    for _ in range(200):
        sides = [Side(name, outcomes(64, {i for i in range(64) if draw.random() < 0.5})) for name in ("a", "b")]
        pages += any(row["warns"] for row in slices_of(items_of(shown, sides)))
    assert pages <= 10


def test_the_same_items_make_up_each_dimension_and_every_share_lies_in_its_interval():
    items = _collapse(97)
    by = {}
    for row in slices_of(items):
        by.setdefault(row["dimension"], []).append(row)
        for name in ("before", "after", "difference"):
            mean, low, high = row[name]
            assert (-1 if name == "difference" else 0) <= low <= mean <= high <= 1
    assert {sum(row["n"] for row in rows) for rows in by.values()} == {97} and len(by) >= 3


def test_difficulty_is_the_share_of_right_samples_before():
    greedy = outcomes(40, set(range(20)))
    samples = [o for s in range(4) for o in outcomes(40, {i for i in range(40) if i % 4 < s}, "sampled", s)]
    items = items_of(examples(40), [Side("a", greedy + samples), Side("b", greedy)])
    assert [items[i].pass_rate for i in range(4)] == [0.75, 0.5, 0.25, 0.0] and items[0].answers[0].mode == "greedy"
    rows = [row for row in slices_of(items) if row["dimension"].startswith("difficulty")]
    assert {row["value"] for row in rows} == {"never", "up to half", "more than half"}


def test_columns_are_plain_values_and_not_what_a_generator_needs_for_grading():
    entry = {"answer": "9", "metadata": {"size": "large", "deep": {"n": 3}, "solution": 9, "list": [1]}}
    example = Example(
        "0", "q", "9", "", {"task": "t", "options": {"a": 1}, "entry": entry, "flag": True, "long": "x" * 99}
    )
    assert columns_of(example) == {"task": "t", "flag": "yes", "size": "large", "deep.n": 3.0}
    assert columns_of(Example("0", "q", "9", "", {"entry": "text", "columns": {"level": "5"}})) == {"level": "5"}


def test_sides_without_a_common_item_are_refused():
    with pytest.raises(DataError, match="no held-out item in common"):
        items_of(examples(3), [Side("a", outcomes(3, set())), Side("b", [])])
    with pytest.raises(DataError, match="needs two"):
        items_of(examples(3), [Side("a", outcomes(3, set()))])


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_intervals_stay_where_their_numbers_can_be(wins, losses, both, neither):
    number = wins + losses + both + neither
    low, high = wilson(wins, number)
    assert 0.0 <= low <= (wins / number if number else 0.5) <= high <= 1.0
    mean, low, high = paired_interval(wins, losses, both, number)
    assert -1.0 <= low <= mean <= high <= 1.0
    turned = paired_interval(losses, wins, both, number)
    assert turned[1] == pytest.approx(-high) and turned[2] == pytest.approx(-low)


def test_intervals_against_published_values():
    """Wilson: 81 of 263 (Newcombe 1998, Stat. Med. 17:857). Paired: 36, 12, 2, 0 of 50 (Newcombe 1998, Stat. Med. 17:2635)."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert paired_interval(12, 2, 36, 50) == pytest.approx((0.20, 0.0569, 0.3404), abs=5e-4)
    assert math.isclose(wilson(0, 20)[1], 0.1611, abs_tol=5e-5)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_other_columns_of_a_users_file_become_slices(tmp_path, ending):
    path = tmp_path / f"train.{ending}"
    parity = ("even", "odd")
    rows = [{"question": f"{i}+1?", "answer": str(i + 1), "level": i % 3, "subject": parity[i % 2]} for i in range(60)]
    if ending == "jsonl":
        more = {"score": 1.5, "text": "x" * 99, "none": None, "list": [1]}
        path.write_text("".join(json.dumps(row | more) + "\n" for row in rows))
    else:
        path.write_text("question,answer,level,subject\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows))
    data = load_examples(DataConfig(source=str(path), validation_fraction=0.5, test_fraction=0.0))
    held = data.validation
    assert {"level", "subject"} <= columns_of(held[0]).keys() and not {"question", "answer", "text"} & columns_of(held[0]).keys()
    outcome = outcomes(1, {0})[0]
    sides = [Side(name, [replace(outcome, example_id=e.id) for e in held]) for name in ("a", "b")]
    found = {(row["dimension"], row["value"]) for row in slices_of(items_of(held, sides))}
    assert {("column subject", "odd"), ("column subject", "even"), ("column level", "0"), ("column level", "2")} <= found

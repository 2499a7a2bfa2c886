"""pytest tests/core/judgement/test_budget.py — one alpha for a model's life, against sums, trees of histories and simulation."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from opsd_core.judgement.budget import Decision, Wear, next_decision, on_these_items, set_share, starts_at, wear
from opsd_core.judgement.words import ledger_table

ALPHA = 0.05


def lived(*said, items=("a", "b"), history=()):
    """A history with these answers of the gate on one set of items."""
    entries = list(history)
    for promote in said:
        entry = next_decision(entries, "c", len(entries), items, ALPHA)
        entries.append(replace(entry, promote=promote, p_value=0.5))
    return entries


def test_the_first_decision_and_refusals_after_it():
    levels = [entry.level for entry in lived(*[False] * 5)]
    expected = [0.04 * 0.7, *(0.04 * 0.3 / (m * (m + 1)) * 0.9 / (1 - 0.1 ** (m + 1)) for m in range(1, 5))]
    assert levels == pytest.approx(expected)


def test_every_tree_of_verdicts_on_one_set_spends_at_most_its_budget():
    """The union bound itself: the levels of all histories of up to ten decisions, added up."""
    spent = math.fsum(
        0.04 * Wear(m, sum(said)).share for m in range(11) for said in itertools.product((False, True), repeat=m)
    )
    assert spent == pytest.approx(0.04 * (0.7 + 0.3 * math.fsum(1 / (j * (j - 1)) for j in range(2, 12)))) and spent < 0.04


def test_sets_bring_at_most_alpha_together():
    assert math.fsum(set_share(number) for number in range(1, 60)) == pytest.approx(1.0)


def test_a_promotion_hands_its_level_to_the_next_unseen_set_and_to_one_alone():
    history = lived(False, True)
    fresh = next_decision(history, "c", 9, ("c", "d"), ALPHA)
    assert fresh.set_number == 2 and fresh.budget == pytest.approx(ALPHA * 0.1 + history[1].level)
    third = next_decision([*history, replace(fresh, promote=False)], "c", 10, ("e", "f"), ALPHA)
    assert third.budget == pytest.approx(ALPHA * 0.05)


def test_alpha_at_risk_never_passes_alpha_on_any_path():
    """Of all that a path spends, promotions excepted, as they are right until the first wrong one."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        history, block, seen = [], 0, 0
        for _ in range(30):
            items = (f"{block:03d}a", f"{block:03d}b")
            entry = next_decision(history, "c", len(history), items, ALPHA)
            history.append(replace(entry, promote=bool(generator.random() < 0.4)))
            if history[-1].promote and generator.random() < 0.7:
                seen += 1
                block = seen
        assert math.fsum(entry.level for entry in history if not entry.promote) <= ALPHA


def test_promotions_wear_a_set_out_and_refusals_hardly_do():
    refused, promoted = Wear(10, 0).share, Wear(10, 5).share
    assert refused == pytest.approx(0.3 / 110 * 0.9) and promoted < refused / 1000


def test_sets_that_share_items_are_one():
    history = [*lived(False, items=("a", "m"))]
    other = replace(history[0], first_item="p", last_item="t", set_number=2, budget=0.01)
    history.append(other)
    assert on_these_items(history, ("b", "c")) == [history[0]]
    assert on_these_items(history, ("k", "q")) == history
    joint = next_decision(history, "c", 5, ("k", "q"), ALPHA)
    assert (joint.set_number, joint.budget) == (1, 0.01) and joint.level == pytest.approx(0.01 * Wear(2, 0).share)
    assert on_these_items(history, ("n", "o")) == []


def test_a_decision_under_way_counts_as_a_refusal():
    opened = next_decision([], "c", 0, ("a", "b"), ALPHA)
    assert opened.promote is None and wear([opened]) == Wear(1, 0)


def test_a_campaign_starts_where_the_items_in_use_do_or_at_unseen_ones_and_always_has_enough():
    ids = [f"{place:02d}" for place in range(25)]
    assert starts_at([], ids, 10, refresh=True) == "" and starts_at(lived(True, items=("00", "09")), [], 10, refresh=True) == ""
    refused, promoted = lived(False, items=("05", "14")), lived(True, items=("05", "14"))
    assert starts_at(refused, ids, 10, refresh=True) == "05" == starts_at(promoted, ids, 10, refresh=False)
    assert starts_at(promoted, ids, 10, refresh=True) == "15"
    assert starts_at(promoted, ids, 11, refresh=True) == "05", "ten are unseen"
    assert starts_at(lived(False, items=("20", "24")), ids, 10, refresh=True) == "15", "five are not enough"
    assert starts_at(lived(False, items=("05", "14")), ids[:8], 10, refresh=True) == "00", "the data shrank"


def test_the_ledger_says_what_was_decided_and_what_comes_next():
    history = lived(False, True, None)
    text = ledger_table("demo", history, ALPHA)
    same, fresh = (next_decision(history, "", 0, items, ALPHA).level for items in (("a", "b"), ("x", "y")))
    assert f"tested at {same:.2g} on the same held-out items, at {fresh:.2g} on unseen ones" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [row.split(" | ")[-1].rstrip(" |") for row in rows] == ["under way", "promote", "refuse"]
    assert rows[0].startswith("| 3 | c | 2 | set 1 | 2, 1 promoted |")


def test_a_null_lifetime_promotes_with_at_most_alpha():
    """4,000 lives of 30 null decisions on one set; the p-values of a set that is used again are anything but independent."""
    generator, promoted = np.random.default_rng(1), 0
    for _ in range(4000):
        shared, history = generator.random(), []
        for _ in range(30):
            p_value = shared if generator.random() < 0.5 else generator.random()
            entry = next_decision(history, "c", len(history), ("a", "b"), ALPHA)
            history.append(replace(entry, promote=bool(p_value <= entry.level)))
        promoted += any(entry.promote for entry in history)
    assert promoted <= 4000 * ALPHA + 3 * math.sqrt(4000 * ALPHA * (1 - ALPHA))


def test_entries_are_plain_values():
    assert Decision("c", 0, "a", "b", 1, 0.04, 0.02).key == ("c", 0)

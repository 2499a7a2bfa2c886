"""pytest tests/flows/test_error_budget.py — one alpha for all campaigns of a model, through kills and twins."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from prefect import flow

from opsd_core.config import resolve
from opsd_core.errors import IntegrityError
from opsd_core.judgement.budget import next_decision
from opsd_core.records.examples import Example
from tasks.champion import ledger
from tasks.context import store, stored_verdict, tracker
from tasks.refs import Campaign, Iteration, PolicyRef, Ref
from tasks.stages.decide import decide
from tests.flows.test_approval import _version

pytestmark = pytest.mark.timeout(400)
_RULES = {"alpha_per": "model", "alpha": 0.05, "guards": []}


def _iteration(name, campaign, number, sides, run_id, **changes):
    config = resolve("tiny", {"name": name, "promotion": _RULES, "evaluation": changes})
    nowhere = Ref(uri="")
    begun = Campaign(
        id=campaign, config=config, record=nowhere, data=nowhere, initial=sides, champion=sides, run_id=run_id
    )
    return Iteration(campaign=begun, number=number, config=config, run_id=run_id, policy=sides, champion=sides)


@flow(name="opsd-test-budget")
def decided(name: str, campaign: str, number: int, right: int):
    """A candidate of this campaign's iteration with so many of 50 right, against a champion with 20."""
    registry = tracker()
    run_id = registry.campaign_run(name, campaign, {}, {})
    registry.ensure_model(name)
    champion, before = _version(name, run_id, number, "champion", 20)
    if registry.version_by_alias(name, "champion") is None:
        registry.promote(name, champion.version, "first", "test", expected_champion=None)
    candidate, after = _version(name, run_id, 10 * number + right, "candidate", right)
    return decide(_iteration(name, campaign, number, champion, run_id), candidate, before, after)


@pytest.fixture(scope="module", autouse=True)
def _bucket(stack):
    store().ensure_bucket()


def test_campaigns_of_a_name_spend_one_alpha_and_triggering_again_spends_nothing():
    first, second = decided("life", "c0", 0, 26), decided("life", "c1", 0, 26)
    entries = tracker().decisions("life")
    assert [entry.level for entry in entries] == pytest.approx([0.028, 0.04 * 0.15 * 0.09 / 0.99])
    assert [entry.p_value for entry in entries] == pytest.approx([1 / 64, 1 / 64])
    assert [entry.promote for entry in entries] == [True, False]
    assert first.promote and not second.promote
    assert "this decision's share of the model's alpha = 0.000545" in second.summary
    assert decided("life", "c0", 0, 26).promote and tracker().decisions("life") == entries
    begun = _iteration("life", "c1", 0, PolicyRef(uri="", digest="", version=1), "")
    said = "Decision 2 of the model's error budget, at level 0.000545: p = 0.0156"
    assert ledger.decision_in_words(begun, stored_verdict(second.uri)) == said


def test_a_process_that_dies_before_the_verdict_has_spent_its_level_and_finds_it_again(monkeypatch):
    with monkeypatch.context() as dies, pytest.raises(KeyboardInterrupt):
        dies.setattr("opsd_core.judgement.gate.decide", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        decided("dies", "c0", 0, 26)
    (opened,) = tracker().decisions("dies")
    assert opened.promote is None
    decided("dies", "c1", 0, 20)
    decided("dies", "c0", 0, 26)
    entries = tracker().decisions("dies")
    assert [(entry.campaign, entry.promote) for entry in entries] == [("c0", True), ("c1", False)]
    assert entries[0].level == opened.level


def test_two_writers_at_once_get_two_entries():
    tracker().ensure_model("twins")
    run_id = tracker().campaign_run("twins", "c0", {}, {})
    sides, _ = _version("twins", run_id, 0, "champion", 20)
    begun = [_iteration("twins", f"c{number}", 0, sides, run_id) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda one: ledger.open_decision(one, ["0001", "0050"]), begun))
    assert sorted(entry.campaign for entry in tracker().decisions("twins")) == ["c0", "c1", "c2", "c3"]
    assert len({entry.level for entry in made}) == 4


def test_a_ledger_with_a_missing_entry_is_refused_by_name():
    tracker().ensure_model("torn")
    for number in (0, 2):
        tracker().write_decision("torn", number, next_decision([], "c", number, ("a", "b"), 0.05))
    with pytest.raises(IntegrityError, match=r"ledger of torn.*do not follow each other"):
        tracker().decisions("torn")


@flow(name="opsd-test-items")
def chosen(examples, **changes):
    """Where a campaign that begins now takes its items."""
    return ledger.items_from(resolve("tiny", {"name": "worn", "promotion": _RULES, "evaluation": changes}), examples)


def test_unseen_items_are_taken_after_a_promotion_while_there_are_any(caplog):
    tracker().ensure_model("worn")
    examples = [Example(f"{place:02d}", "q", "a", "") for place in range(25)]
    assert chosen(examples, num_items=10) == ""
    history = []
    for items, said in ((("00", "09"), False), (("00", "09"), True)):
        history.append(replace(next_decision(history, "c", len(history), items, 0.05), promote=said, p_value=0.01))
        tracker().write_decision("worn", len(history) - 1, history[-1])
        assert chosen(examples, num_items=10) == ("10" if said else "00")
    assert chosen(examples, num_items=10, refresh="never") == "00"
    history.append(replace(next_decision(history, "c", 2, ("10", "19"), 0.05), promote=True, p_value=0.01))
    tracker().write_decision("worn", 2, history[-1])
    assert chosen(examples, num_items=10) == "10" and "fewer unseen ones than the 10" in caplog.text
    assert chosen(examples, num_items=10, refresh="never", max_decisions=1) == "10"
    assert "1 decisions were made on the same held-out items" in caplog.text

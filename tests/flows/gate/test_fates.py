"""pytest tests/flows/gate/test_fates.py — a version's tags and page never contradict each other, whoever decided when."""

import pytest
from prefect.client.orchestration import get_client

from flows.promote import promote, rollback
from infra.approve import waiting
from infra.cli.app import run as opsd
from opsd_core.answers.words import DECIDED_BY, decided_by, version_description
from opsd_core.judgement.verdict import ROLLED_BACK, WAITS
from tasks.champion.answered import record_silence
from tasks.context import store, stored_verdict, tracker
from tests.flows.test_approval import answered, ended, judged, suspended

pytestmark = pytest.mark.timeout(900)
AGREE = {
    "promoted": ("approved", None),
    "refused": ("refused", None),
    ROLLED_BACK: (ROLLED_BACK,),
    WAITS: (WAITS, None),
}


@pytest.fixture(autouse=True)
def bucket(stack):
    store().ensure_bucket()


def made(name, iteration, right, mode="manual"):
    """A version that the gate has judged, with its page as the iteration's last stage writes it."""
    version, verdict = judged(name, iteration, right, mode)
    tags = tracker().version_tags(name, version)
    text = version_description(stored_verdict(verdict.uri), verdict.outcome, [], {"run": "http://r/"}, [decided_by(tags)])
    tracker().describe_version(name, version, text)
    return version, verdict


def fate(name, version):
    """(gate.verdict, who decided), after a look at whether everything that is written down says the same."""
    entry = tracker().get_version(name, version)
    word, said = entry.tags["gate.verdict"], entry.tags.get("opsd.approval")
    assert (said.partition(" until ")[0] if said else None) in AGREE[word], entry.tags
    assert entry.description.startswith(f"**{word.capitalize()}**"), entry.description
    (line,) = [line for line in entry.description.splitlines() if line.startswith(DECIDED_BY)]
    assert line == decided_by(entry.tags)
    assert word == "promoted" or tracker().version_by_alias(name, "champion") != version
    assert len(entry.description.splitlines()) <= 10
    return word, entry.tags.get("opsd.approval_by")


def test_the_gate_decides_alone(stack):
    shipped, _ = made("fate-gate", 0, 40, "auto")
    refused, _ = made("fate-gate", 1, 30, "auto")
    assert fate("fate-gate", shipped) == ("promoted", None) and fate("fate-gate", refused) == ("refused", None)
    assert decided_by(tracker().version_tags("fate-gate", shipped)) == "- Decided by the gate"


def test_refused_by_the_gate_or_a_person_and_then_promoted_by_hand(stack):
    version, _ = made("fate-hand", 0, 10, "auto")
    assert fate("fate-hand", version) == ("refused", None)
    promote(name="fate-hand", version=version, reason="the drop is\n\n- wanted [here](x)", who="ada")
    assert fate("fate-hand", version) == ("promoted", "ada")
    assert tracker().version_tags("fate-hand", version)["opsd.gate"] == "refused", "what the gate did stays"
    page = tracker().get_version("fate-hand", version).description
    assert r"- Decided by ada, approved: the drop is - wanted \[here\](x)" in page and "The gate: Not significant" in page

    other, verdict = made("fate-hand", 1, 40)
    answered("fate-hand", other, verdict.uri, "refuse", "too wordy", "bob")
    assert fate("fate-hand", other) == ("refused", "bob")
    promote(name="fate-hand", version=other, reason="bob agrees now", who="ada")
    assert fate("fate-hand", other) == ("promoted", "ada")
    promote(name="fate-hand", version=other, reason="again", who="eve")
    assert fate("fate-hand", other) == ("promoted", "ada"), "it was champion already"


def test_promoted_then_rolled_back_then_promoted_again(stack):
    first, _ = made("fate-back", 0, 40, "auto")
    rollback(name="fate-back", reason="odd in production", who="ada")
    assert fate("fate-back", first) == (ROLLED_BACK, "ada")
    promote(name="fate-back", version=first, reason="it was the cache", who="bob")
    assert fate("fate-back", first) == ("promoted", "bob")
    judged("fate-back", 0, 40, "auto")  # the campaign triggered again writes nothing else down
    assert fate("fate-back", first) == ("promoted", "bob")


@pytest.mark.parametrize("how", ["answer", "silence"])
def test_waits_then_refused(stack, how):
    name = f"fate-{how}"
    version, verdict = made(name, 0, 40)
    assert fate(name, version) == (WAITS, None)
    assert decided_by(tracker().version_tags(name, version)) == "- Decided by nobody yet"
    if how == "answer":
        answered(name, version, verdict.uri, "refuse", "", "ada")
        assert fate(name, version) == ("refused", "ada")
    else:
        assert record_silence(tracker(), name, version, "nobody answered in time")
        assert fate(name, version) == ("refused", "nobody")


@pytest.mark.parametrize("decision", ["approve", "refuse"])
def test_promoted_by_hand_while_the_question_waits(stack, decision):
    name = f"fate-meanwhile-{decision}"
    version, verdict = made(name, 0, 40)
    promote(name=name, version=version, reason="no time", who="ada")
    said = answered(name, version, verdict.uri, decision, "", "bob")
    assert fate(name, version) == ("promoted", "bob" if decision == "approve" else "ada")
    assert ("changes nothing: it became champion" in said) is (decision == "refuse")
    rollback(name=name, reason="odd", who="eve")
    late = answered(name, version, verdict.uri, decision, "", "bob")
    assert "was rolled back by eve" in late and fate(name, version) == (ROLLED_BACK, "eve")


def test_another_version_is_promoted_while_the_question_waits(stack):
    waits, verdict = made("fate-other", 0, 40)
    other, _ = made("fate-other", 1, 45)
    promote(name="fate-other", version=other, reason="better", who="ada")
    assert fate("fate-other", waits) == (WAITS, None) and fate("fate-other", other) == ("promoted", "ada")
    assert "the champion changed underneath" in answered("fate-other", waits, verdict.uri, "approve", "", "bob")
    assert fate("fate-other", waits) == ("refused", "bob") and fate("fate-other", other) == ("promoted", "ada")


@pytest.mark.slow
def test_a_suspended_run_is_answered_after_its_version_was_promoted_elsewhere(worker, capsys):
    version, _ = made("fate-suspended", 0, 40, "approve")
    assert fate("fate-suspended", version) == (WAITS, None)
    run = suspended("fate-suspended")
    assert opsd(["promote", "fate-suspended", str(version), "--reason", "no time", "--who", "ada"]) == 0
    assert fate("fate-suspended", version) == ("promoted", "ada")
    assert opsd(["refuse", "fate-suspended", "--comment", "too wordy", "--who", "bob"]) == 0
    assert "changes nothing: it became champion while the question waited" in capsys.readouterr().out
    assert ended(run.id).state.is_completed() and fate("fate-suspended", version) == ("promoted", "ada")
    with get_client(sync_client=True) as client:
        assert not waiting(client, "fate-suspended")

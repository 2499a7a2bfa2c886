"""pytest tests/flows/test_approval.py — a person between the gate and the champion, through a real server and worker."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from flows.promote import promote, rollback
from infra import processes
from infra.approve import waiting
from infra.cli.app import run as opsd
from opsd_core.config import resolve
from opsd_core.errors import ConfigError, IntegrityError
from opsd_core.records.outcomes import ItemOutcome, write_outcomes
from tasks.champion.answered import record_silence
from tasks.champion.approval import carry_out_answer
from tasks.context import produce, store, tracker
from tasks.exclusive import champion_moves
from tasks.refs import Campaign, EvaluationRef, Iteration, PolicyRef, Ref
from tasks.stages.decide import decide
from tasks.storage.artifacts import publish

pytestmark = pytest.mark.timeout(400)
_BASE = ItemOutcome("", "greedy", 0, False, 0.0, "1", 20, False, 2.0, 0.5, "text")


@flow(name="opsd-test-judge")
def judged(
    name: str, iteration: int, right: int, mode: str = "approve", hours: float = 1.0, damage: str = "", length: int = 20
):
    """A first champion with 10 of 50 right, a candidate with `right`, `damage` done to it, and the gate's verdict.

    `length`: tokens of each of the candidate's completions; the champion's have 20.
    """
    config = resolve("tiny", {"name": name, "promotion": {"mode": mode, "approval_hours": hours, "guards": []}})
    registry = tracker()
    run_id = registry.campaign_run(name, "c0", {}, {})
    registry.ensure_model(name)
    champion, before = _version(name, run_id, iteration, "champion", 10)
    if registry.version_by_alias(name, "champion") is None:
        registry.promote(name, champion.version, "first", "test", expected_champion=None)
    candidate, after = _version(name, run_id, iteration, "candidate", right, length)
    if damage:
        do(damage, candidate.uri, "model.safetensors")
    nowhere = Ref(uri="")
    campaign = Campaign(
        id="c0", config=config, record=nowhere, data=nowhere, initial=champion, champion=champion, run_id=run_id
    )
    sides = {"policy": champion, "champion": champion}
    begun = Iteration(campaign=campaign, number=iteration, config=config, run_id=run_id, **sides)
    return candidate.version, decide(begun, candidate, before, after)


def _version(
    name: str, run_id: str, iteration: int, role: str, right: int, length: int = 20
) -> tuple[PolicyRef, EvaluationRef]:
    which = "first" if role == "champion" else f"it{iteration}"

    def weights(folder):
        (folder / "model.safetensors").write_bytes(f"weights of {which}".encode())
        (folder / "config.json").write_text("{}")
        return {}

    def outcomes(folder):
        made = replace(_BASE, num_tokens=length)
        rows = [replace(made, example_id=f"{i:04d}", correct=i < right, score=float(i < right)) for i in range(50)]
        write_outcomes(folder / "outcomes.parquet", rows)
        return {}

    model, _ = produce("models", {"test": [name, which]}, weights)
    evaluation, _ = produce("evaluations", {"test": [name, which], "conditions": "e"}, outcomes)
    tags = {"opsd.model_uri": model.uri, "opsd.role": role}
    version = tracker().register(name, model.uri, run_id, tags)
    measured = EvaluationRef(
        uri=evaluation.uri, digest=evaluation.digest, conditions_digest="e", metrics={"eval/accuracy": right / 50}, seconds=0.0
    )
    return PolicyRef(uri=model.uri, digest=model.digest, version=version), measured


def do(damage: str, uri: str, name: str) -> None:
    """Delete, truncate or flip one byte of a stored object."""
    key = f"{store().key_of(uri)}/{name}"
    data = store().get(key)
    if damage == "deleted":
        store().delete(key)
    elif damage == "truncated":
        store().put(key, data[:-1])
    else:
        store().put(key, data[:-1] + bytes([data[-1] ^ 1]))


def _wait(what, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found


def ended(run_id):
    def look():
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(run_id)
        return run if run.state.is_final() else None

    return _wait(look)


def suspended(name):
    """The run that asks about a version of this model, once its form is there: Prefect suspends it before it writes that."""

    def look():
        with get_client(sync_client=True) as client:
            return waiting(client, name)

    run = _wait(look)[0]
    _wait(lambda: _shown(run))
    return run


def _shown(run):
    """The text above the form; empty until the run has written it."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_flow_run_input(run.id, run.state.state_details.run_input_keyset["description"])
        except httpx.HTTPStatusError:
            return ""


def test_the_form_shows_the_numbers_and_an_answer_from_the_shell_moves_the_champion(worker, capsys):
    store().ensure_bucket()
    version, verdict = judged("asks", 0, 40)
    assert not verdict.promote and "waits for approval until" in verdict.reasons[-1]
    assert verdict.outcome == "waits for a person" and verdict.summary.startswith("## Waits for a person: version")
    tags = tracker().version_tags("asks", version)
    assert tags["opsd.gate"] == "awaiting approval" and tags["gate.verdict"] == "waits for a person"
    run = suspended("asks")
    assert "accuracy, 50 items | 0.200 | 0.800" in _wait(lambda: _shown(run))
    tracker().describe_version("asks", version, "**Waits for a person** against version 1: it rose")  # as the page's stage does
    form = _shown(run)
    assert "/artifacts/answers.html" in form.partition("## Waits for a person")[0] and "Promoted" not in form
    assert tracker().version_by_alias("asks", "champion") != version

    assert judged("asks", 0, 40)[0] == version  # the campaign triggered again asks nobody twice
    with get_client(sync_client=True) as client:
        assert len(waiting(client, "asks")) == 1

    assert opsd(["status"]) == 0 and f"opsd approve asks {version}" in capsys.readouterr().out
    assert opsd(["approve", f"asks/{version}", "--comment", "read ten completions", "--who", "ada"]) == 0
    assert f"asks: version {version} approved by ada: read ten completions" in capsys.readouterr().out
    assert ended(run.id).state.is_completed()
    assert tracker().version_by_alias("asks", "champion") == version
    move = tracker().moves("asks")[-1]
    assert (move.after, move.who, move.why) == (version, "ada", "approved: read ten completions")
    tags = tracker().version_tags("asks", version)
    assert tags["opsd.approval"] == "approved" and tags["gate.verdict"] == "promoted"
    assert tracker().get_version("asks", version).description == "**Promoted** against version 1: it rose"
    assert opsd(["approve", "asks"]) == 1
    assert "no promotion of 'asks' waits" in capsys.readouterr().err


@pytest.mark.slow
def test_the_question_survives_a_restart_of_the_server_and_silence_is_a_refusal(worker):
    store().ensure_bucket()
    version, _ = judged("restarted", 0, 40)
    run = suspended("restarted")
    _wait(lambda: _shown(run))
    processes.stop(worker.state.root, "prefect")
    worker.up(worker=True)
    assert "accuracy, 50 items | 0.200 | 0.800" in _shown(run)
    assert opsd(["approve", "restarted"]) == 0
    assert ended(run.id).state.is_completed()
    assert tracker().version_by_alias("restarted", "champion") == version

    version, _ = judged("silent", 0, 40, hours=5 / 3600)
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=50)
    (run,) = [run for run in runs if run.deployment_id and run.parameters.get("name") == "silent"]
    assert ended(run.id).state.is_failed() and "never resumed" in ended(run.id).state.message
    assert tracker().version_by_alias("silent", "champion") != version
    tags = _wait(lambda: (t := tracker().version_tags("silent", version)).get("gate.verdict") == "refused" and t)
    assert (tags["opsd.approval"], tags["opsd.approval_by"]) == ("refused", "nobody")


@flow(name="opsd-test-answer")
def answered(*arguments: str) -> str:
    return carry_out_answer(*arguments)


def test_a_refusal_and_stale_grounds_leave_the_champion(stack):
    store().ensure_bucket()
    first, one = judged("stale", 0, 40, "manual")
    second, two = judged("stale", 1, 45, "manual")
    before = tracker().version_by_alias("stale", "champion")
    assert "refused by ada: too wordy" in answered("stale", first, one.uri, "refuse", "too wordy", "ada")
    assert tracker().version_by_alias("stale", "champion") == before
    assert "approved" in answered("stale", second, two.uri, "approve", "", "ada")
    late = answered("stale", first, one.uri, "approve", "changed my mind", "bob")
    assert "refused by bob: the champion changed underneath" in late
    assert tracker().version_by_alias("stale", "champion") == second


def test_a_champion_whose_answer_was_not_written_down_is_not_taken_for_unanswered(stack):
    """The process that carried the answer out died between moving the alias and saying so."""
    store().ensure_bucket()
    version, _ = judged("unsaid", 0, 40, "manual")
    assert record_silence(tracker(), "unsaid", version, "nobody answered in time")
    assert tracker().version_tags("unsaid", version)["gate.verdict"] == "refused"
    version, _ = judged("unsaid", 1, 45, "manual")
    tracker().promote("unsaid", version, "approved: read ten", "ada")
    assert not record_silence(tracker(), "unsaid", version, "nobody answered in time")
    tags = tracker().version_tags("unsaid", version)
    assert (tags["gate.verdict"], tags["opsd.approval"], tags["opsd.approval_by"]) == ("promoted", "approved", "ada")


def test_an_answer_is_refused_when_the_evaluation_set_or_the_weights_are_no_longer_there(stack):
    store().ensure_bucket()
    version, verdict = judged("moved", 0, 40, "manual")
    later, _ = judged("moved", 1, 0, "manual")
    tracker().set_version_tags("moved", later, {"gate.evaluation": "another set"})
    assert "the evaluation set changed underneath" in answered("moved", version, verdict.uri, "approve", "", "ada")
    tracker().set_version_tags("moved", later, {"gate.evaluation": "e"})
    key = store().key_of(tracker().version_tags("moved", version)["opsd.model_uri"])
    store().delete("/".join(key.split("/")[:2]) + "/MANIFEST.json")
    late = answered("moved", version, verdict.uri, "approve", "", "ada")
    assert f"version {version} of moved cannot be champion, for it is not whole" in late
    assert tracker().version_by_alias("moved", "champion") != version


def test_the_gate_refuses_when_the_champion_changed_while_it_compared(stack):
    """Two verdicts against the same champion: the second one is carried out after the first has moved the alias."""
    store().ensure_bucket()
    first, _ = judged("raced", 0, 40, "auto")
    assert tracker().version_by_alias("raced", "champion") == first
    second, verdict = judged("raced", 1, 45, "auto")
    assert not verdict.promote and "the champion changed underneath" in verdict.reasons[-1]
    assert tracker().version_tags("raced", second)["opsd.gate"] == "refused"
    assert tracker().version_by_alias("raced", "champion") == first


@pytest.mark.parametrize("damage", ["deleted", "truncated", "flipped"])
def test_a_version_that_is_not_whole_becomes_champion_by_no_way(stack, damage):
    """By hand, by an answer, by the gate, by going back; triggered again, what is damaged is made again and may stand."""
    store().ensure_bucket()
    name, object_name = f"torn-{damage}", "config.json" if damage == "deleted" else "model.safetensors"
    version, verdict = judged(name, 0, 40, "manual")
    first, uri = tracker().version_by_alias(name, "champion"), tracker().version_tags(name, version)["opsd.model_uri"]
    refused = rf"version {version} of {name} cannot be champion, .*{object_name}.*The champion stays as it is"
    do(damage, uri, object_name)
    with pytest.raises(IntegrityError, match=refused):
        promote(name=name, version=version, reason="reviewed")
    tracker().set_alias(name, "candidate", version)
    with pytest.raises(IntegrityError, match=rf"version {version} of {name} cannot be champion"):
        promote(name=name, reason="the candidate")
    assert "refused by ada: version" in (said := answered(name, version, verdict.uri, "approve", "", "ada"))
    assert "not whole" in said and tracker().version_by_alias(name, "champion") == first

    assert judged(name, 0, 40, "manual")[0] == version
    promote(name=name, version=version, reason="it is whole again")
    do(damage, tracker().version_tags(name, first)["opsd.model_uri"], object_name)
    with pytest.raises(IntegrityError, match=rf"version {first} of {name} cannot be champion, .*{object_name}"):
        rollback(name=name, reason="odd")
    assert tracker().version_by_alias(name, "champion") == version

    with pytest.raises(IntegrityError, match=rf"of {name} cannot be champion, .*model\.safetensors"):
        judged(name, 1, 45, "auto", damage=damage)
    assert tracker().version_by_alias(name, "champion") == version and len(tracker().moves(name)) == 2
    judged(name, 1, 40, "manual")  # what was damaged is whole again for the tests that look at every version


def test_a_version_whose_trainer_state_is_damaged_or_that_opsd_does_not_know_is_refused(stack):
    store().ensure_bucket()
    version, _ = judged("stateless", 0, 40, "manual")
    made = publish(store(), "states", {"test": "stateless"}, _file(stack, "trainer.safetensors"), {})
    tracker().set_version_tags("stateless", version, {"opsd.state_uri": made.uri})
    do("flipped", made.uri, "trainer.safetensors")
    with pytest.raises(IntegrityError, match=rf"version {version} of stateless cannot be champion, .*trainer\.safetensors"):
        promote(name="stateless", version=version, reason="reviewed")
    foreign = tracker().register("stateless", "s3://elsewhere/model", tracker().campaign_run("stateless", "c0", {}, {}))
    with pytest.raises(ConfigError, match=rf"version {foreign} of stateless was not registered by opsd"):
        promote(name="stateless", version=foreign, reason="reviewed")


def _file(stack, name: str):
    folder = stack.state.root / "a-state"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"optimiser")
    return folder


@pytest.mark.parametrize("move", [promote, rollback])
def test_an_alias_is_moved_by_one_at_a_time(stack, move):
    """A person's move waits for the gate of a campaign, or another person, to finish theirs."""
    store().ensure_bucket()
    name = f"held-{move.__name__}"
    version, _ = judged(name, 0, 40, "auto")
    other = version - 1
    target = {"version": other} if move is promote else {}
    with ThreadPoolExecutor(1) as pool:
        with champion_moves(name):
            done = pool.submit(move, name=name, reason="odd", **target)
            with pytest.raises(TimeoutError):
                done.result(timeout=4)
            assert tracker().version_by_alias(name, "champion") == version
        assert f"version {other} is champion" in done.result(timeout=60)
    assert tracker().version_by_alias(name, "champion") == other

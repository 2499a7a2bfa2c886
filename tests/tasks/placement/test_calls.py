"""pytest tests/tasks/placement/test_calls.py — calls travel as they were made, are answered once, and end with their campaign."""

import gc
import json
import time
import weakref

import pytest
from prefect.logging import disable_run_logger

from opsd_core.config import resolve
from opsd_core.errors import AlarmError, ConfigError, IntegrityError, OpsdError
from tasks import loaded
from tasks.refs import Campaign, Iteration, PolicyRef, PromptSet, Ref, ShardRef
from tasks.stages.evaluate import evaluate
from tasks.stages.placement import pulling
from tasks.stages.placement.calls import Desk, decoded, encoded, failed, result_of, returned
from tasks.stages.rollout import rollout
from tasks.storage.artifacts import publish
from tasks.storage.lease import Lease


@pytest.fixture
def iteration():
    """The first of a tiny campaign, of nothing that is stored."""
    config, nowhere = resolve("tiny"), Ref(uri="x/y/z")
    policy = PolicyRef(uri="x/models/a/b", digest="d", state=nowhere, version=3, acceptance='{"a": [1]}')
    campaign = Campaign(id="c", config=config, record=nowhere, data=nowhere, initial=policy, champion=policy, run_id="r")
    return Iteration(campaign=campaign, number=2, config=config, run_id="i", champion=policy, policy=policy)


def test_what_arrives_is_what_was_sent(iteration):
    prompts = PromptSet(uri="x/prompts/0/p", num_prompts=1, num_shards=1)
    stage, arguments = decoded(json.loads(json.dumps(encoded(rollout, (iteration, prompts, 5)))))
    assert stage is rollout and arguments == {"iteration": iteration, "prompts": prompts, "shard": 5}
    call = (iteration.config, iteration.campaign.data, iteration.policy, "it2-candidate", "item-7", (1, 2))
    assert tuple(decoded(json.loads(json.dumps(encoded(evaluate, call))))[1].values()) == call
    made = ShardRef(uri="x/rollouts/a/b", iteration=2, shard=5, digest="d", num_rollouts=1, num_tokens=1, seconds=0.1)
    assert result_of(rollout, json.loads(json.dumps(returned(rollout, made)))) == made


@pytest.mark.parametrize("stage", ["os:system", "tasks.context:store", "tasks.stages.rollout:nothing", "tasks.context"])
def test_only_stages_can_be_called(stage):
    with pytest.raises(IntegrityError, match="is no stage of this code"):
        decoded({"stage": stage, "arguments": {}})


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (AlarmError("too far", ("kl_p99",)), AlarmError, "too far"),
        (ConfigError("model.source=x"), ConfigError, "model.source=x"),
        (ZeroDivisionError("by zero"), OpsdError, "rollout failed in a runner: ZeroDivisionError: by zero"),
    ],
)
def test_an_error_is_raised_again_by_its_kind_and_words(error, kind, said):
    with pytest.raises(kind) as raised:
        result_of(rollout, json.loads(json.dumps(failed(error))))
    assert str(raised.value) == said and getattr(raised.value, "names", ()) == getattr(error, "names", ())


def test_one_answer_wins_and_a_runner_that_lost_its_call_is_refused(own_store, iteration):
    """The first one stood still for longer than its lease; when it wakes, another has the call."""
    desk = Desk(own_store, "mine/0123456789abcdef")
    key = desk.post(rollout, (iteration, PromptSet(uri="x/p/0/p", num_prompts=1, num_shards=1), 0))
    asleep, awake = desk.lease(key, "asleep"), desk.lease(key, "awake")
    assert asleep.try_take() is None and awake.try_take()["holder"] == "asleep"
    record = json.loads(own_store.read(asleep.key)[0]) | {"expires_at": time.time() - 3}
    own_store.put(asleep.key, json.dumps(record).encode())
    asleep.expires_at = record["expires_at"]
    assert awake.try_take() is None
    with disable_run_logger():
        assert pulling._answer(desk, key, asleep, {"value": 1}) is False
        assert pulling._answer(desk, key, awake, {"value": 2}) is True
        assert pulling._answer(desk, key, awake, {"value": 3}) is False
    assert desk.read("results", key) == {"value": 2, "runner": "awake"}
    desk.withdraw([key])
    assert desk.keys("calls") == desk.keys("results") == desk.keys("leases") == []


def test_a_runner_ends_when_its_campaign_has_ended_and_waits_while_it_is_missed(own_store, monkeypatch):
    desk = Desk(own_store, "mine/0123456789abcdef")
    assert desk.parent() == "ended", "there is none"
    parent = Lease(own_store, desk.parent_key, 60.0, "campaign mine")
    assert parent.try_take() is None and desk.parent() == "lives"
    campaign = pulling._Campaign(desk)
    assert campaign.goes_on()
    record = json.loads(own_store.read(desk.parent_key)[0])
    own_store.put(desk.parent_key, json.dumps(record | {"expires_at": time.time() - 5, "process": None}).encode())
    assert desk.parent() == "missing" and campaign.goes_on()
    campaign.heard -= pulling.PATIENCE_S
    assert not campaign.goes_on(), "gone for good"
    again = Lease(own_store, desk.parent_key, 60.0, "campaign mine")
    assert again.try_take() is None and campaign.goes_on()
    again.release()
    assert desk.parent() == "ended" and not campaign.goes_on()


def test_no_policy_stays_in_memory_when_the_next_call_needs_another(own_store, tiny_model, iteration):
    made = publish(own_store, "models", {"test": "memory"}, tiny_model, {})
    policy = PolicyRef(uri=made.uri, digest=made.digest)
    config, keeper = resolve("tiny"), pulling._Keeper()
    first, second = ({"iteration": iteration.model_copy(update={"policy": p})} for p in (policy, iteration.policy))
    keeper.prepare("rollout", first)
    seen = weakref.ref(loaded.shared_policy(policy, config.model).model)
    keeper.prepare("rollout", first)
    gc.collect()
    assert seen() is not None, "another shard of the same policy finds it loaded"
    keeper.prepare("rollout", second)
    assert seen() is None
    again = weakref.ref(loaded.shared_policy(policy, config.model).model)
    keeper.prepare("score-targets", second)
    assert again() is None

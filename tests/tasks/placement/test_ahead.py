"""pytest tests/tasks/placement/test_ahead.py — calls beside others: a few at a time, in order, and what came of each of them."""

import pytest

from opsd_core.config import resolve
from opsd_core.errors import ModelError
from tasks.refs import Campaign, Iteration, PolicyRef, PromptSet, Ref, ShardRef
from tasks.stages.placement.ahead import Ahead
from tasks.stages.placement.calls import Desk, failed, returned
from tasks.stages.rollout import rollout


@pytest.fixture
def desk(own_store):
    return Desk(own_store, "mine/0123456789abcdef")


def calls(number):
    config, nowhere = resolve("tiny"), Ref(uri="x/y/z")
    policy = PolicyRef(uri="x/models/a/b", digest="d")
    campaign = Campaign(id="c", config=config, record=nowhere, data=nowhere, initial=policy, champion=policy, run_id="r")
    iteration = Iteration(campaign=campaign, number=1, config=config, run_id="i", champion=policy, policy=policy)
    return [(iteration, PromptSet(uri="x/prompts/0/p", num_prompts=9, num_shards=number), shard) for shard in range(number)]


def made(shard):
    return ShardRef(uri=f"x/rollouts/{shard}/b", iteration=1, shard=shard, digest="d", num_rollouts=1, num_tokens=1, seconds=0.1)


def answer(desk, key, error=None):
    """What a runner does with a call."""
    shard = desk.read("calls", key)["arguments"]["shard"]
    assert desk.answer(key, failed(error) if error else returned(rollout, made(shard)) | {"runner": "r", "seconds": 0.1})
    return shard


def never():
    raise AssertionError("nobody has to wait")
    yield


@pytest.mark.parametrize("width", [1, 2, 9])
def test_at_most_so_many_are_handed_out_and_all_come_back_in_order(desk, width):
    ahead, seen = Ahead(desk, rollout, calls(5), width, never), []
    ahead.feed()
    while not ahead.done:
        waiting = desk.keys("calls")
        assert 1 <= len(waiting) <= width
        seen.append(answer(desk, waiting[-1]))
        ahead.feed()
    ahead.looks = lambda: iter([None])
    assert sorted(seen) == list(range(5)) and [shard.shard for shard in ahead.results()] == list(range(5))
    assert desk.keys("calls") == desk.keys("results") == []


def test_who_waits_for_the_results_keeps_them_moving(desk):
    ahead = Ahead(desk, rollout, calls(4), 1, never)

    def looks():
        while True:
            ahead.feed()
            for key in desk.keys("calls"):
                answer(desk, key)
            yield

    ahead.looks = looks
    assert [shard.shard for shard in ahead.results()] == list(range(4))


def test_an_error_is_raised_when_the_results_are_asked_for_and_not_before(desk):
    ahead = Ahead(desk, rollout, calls(2), 2, lambda: iter([None]))
    ahead.feed()
    first, second = desk.keys("calls")
    answer(desk, first, ModelError("model.source=x is gone"))
    ahead.feed()
    answer(desk, second)
    ahead.feed()
    with pytest.raises(ModelError, match=r"model.source=x is gone"):
        ahead.results()


def test_dropped_calls_are_not_begun_and_others_calls_are_left_alone(desk):
    mine, ahead = desk.post(rollout, calls(1)[0]), Ahead(desk, rollout, calls(5), 2, never)
    ahead.feed()
    ahead.drop()
    for key in set(desk.keys("calls")) - {mine}:
        answer(desk, key)
        ahead.feed()
    assert desk.keys("calls") == [mine] and ahead.done
    answer(desk, mine)
    ahead.feed()
    assert desk.keys("results") == [mine]

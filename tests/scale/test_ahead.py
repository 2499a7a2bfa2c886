"""pytest -m slow tests/scale/test_ahead.py — completions sampled beside training: the same bytes as one after another."""

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

from flows.iterate import iterate
from opsd_core.config import deep_merge
from tests.scale.campaigns import made, manifests, sessions, store_at, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SHARDS = 4
AHEAD = {"iterations": 3, "num_steps": 40, "overrides": {"execution": {"overlap": True}}}


def test_beside_training_it_makes_what_it_makes_one_after_another(worker, tiny_model):
    here = deep_merge(tiny(str(tiny_model), SHARDS), AHEAD)
    with store_at("s3://opsd/ahead-inline") as store:
        iterate(name="ahead-inline", **here)
        inline = made(store)
    spread = deep_merge(tiny(str(tiny_model), SHARDS, placement="workers", pools={"opsd": 2}), AHEAD)
    with store_at("s3://opsd") as store:
        before = manifests(store)
        iterate(name="ahead-spread", **spread)
        assert made(store, known=before) == inline
        assert sessions(store, "ahead-spread") == []
    assert len(inline["rollouts"]) == 3 * SHARDS and len(inline["states"]) == 3
    done = times_of("ahead-spread")
    beside = [
        (sampled, learned)
        for sampled in done
        for learned in done
        if sampled[0].startswith("rollout-it1") and learned[0].startswith(("score-targets-it0", "distil-it0", "evaluate-it0"))
        if sampled[3] != learned[3] and sampled[1] < learned[2] and learned[1] < sampled[2]
    ]
    assert beside, f"no completion of iteration 1 was sampled while iteration 0 learned: {done}"


def times_of(name):
    """Name, start, end and flow run of every stage that the campaign's runners did."""
    with get_client(sync_client=True) as client:
        named = FlowRunFilter(tags=FlowRunFilterTags(all_=["runner", name]))
        tasks = client.read_task_runs(flow_run_filter=named, limit=200)
    return [(task.name, task.start_time, task.end_time, task.flow_run_id) for task in tasks if task.end_time]

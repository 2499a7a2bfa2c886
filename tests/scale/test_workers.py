"""pytest tests/scale/test_workers.py — two runners do what one process does, byte for byte, also when one of them is killed."""

import json
import os
import signal
import threading

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

from flows.iterate import iterate
from tests.scale.campaigns import eventually, made, manifests, sessions, store_at, tiny

pytestmark = pytest.mark.timeout(1200)
SHARDS = 8


def leases_of(store, name):
    """(key, record) of every lease that a runner of the campaign holds."""
    found = [(key, store.read(key)) for key in sessions(store, name) if "/leases/" in key]
    records = [(key, json.loads(record[0])) for key, record in found if record]
    return [(key, record) for key, record in records if record["expires_at"] > 0 and record["process"]]


@pytest.fixture(scope="module")
def inline(worker, tiny_model, tmp_path_factory):
    """What the campaign makes in one process, in a store of its own."""
    with store_at("s3://opsd/scale-inline") as store:
        iterate(name="inline", **tiny(str(tiny_model), SHARDS))
        return made(store)


def test_runners_make_the_same_bytes_though_one_is_killed(worker, inline, tiny_model):
    killed = []
    with store_at("s3://opsd") as store:

        def kill_one():
            key, record = eventually(lambda: leases_of(store, "spread"), 900)[0]
            os.kill(record["process"]["pid"], signal.SIGKILL)
            killed.append((key, record["holder"]))

        thread = threading.Thread(target=kill_one)
        thread.start()
        before = manifests(store)  # other tests leave damaged artifacts in this store
        iterate(name="spread", **tiny(str(tiny_model), SHARDS, placement="workers", pools={"opsd": 2}))
        thread.join()
        after = made(store, known=before)
        assert killed
        for kind, keys in inline.items():
            assert after[kind] == keys, kind
        assert len(inline["rollouts"]) == len(inline["targets"]) == SHARDS and len(inline["states"]) == 1
        assert sessions(store, "spread") == []
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["runner", "spread"])))
        assert len(runs) == 2 and {run.work_pool_name for run in runs} == {"opsd"}
        numbers = [run.id for run in runs]
        eventually(lambda: all(client.read_flow_run(number).state.is_final() for number in numbers))

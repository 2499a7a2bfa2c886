"""pytest tests/faults/test_outages.py — servers that go away during a campaign, and a bad network: the same outcome."""

import re
import threading
import time
from collections import Counter

import mlflow
import pytest

from infra import processes
from tasks.context import tracker
from tasks.storage.artifacts import describe
from tests.faults.attempt import Arm
from tests.faults.proxy import FAULTS, FaultProxy

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]
_OWN = ("campaigns/", "verdicts/", "lineage/", "answers/", "probe/", "leases/")
"""Kinds whose identity holds the campaign's name or id."""


@pytest.fixture(scope="module")
def campaign(stack, tiny_model, tmp_path_factory):
    """`campaign(name)`: one short iteration, the same for every name."""
    parameters = {
        "recipe": "tiny",
        "iterations": 1,
        "num_prompts": 32,
        "num_steps": 6,
        "overrides": {
            "model": {"source": str(tiny_model)},
            "data": {"size": 400, "validation_fraction": 0.2},
            "optimizer": {"batch_size": 16},
            "execution": {"num_shards": 2, "checkpoint_every": 2},
            "evaluation": {"num_items": 30},
            "promotion": {"alpha": 0.49},
        },
    }
    return lambda name, **environ: Arm(name, tmp_path_factory.mktemp(name), parameters, environ)


@pytest.fixture(scope="module")
def expected(campaign):
    arm = campaign("no-outage")
    assert arm.attempt() == 0, log(arm)
    return outcome(arm)


def outcome(arm):
    """Aliases and weights of every version, every metric step once, every artifact, of those that hold the name how many."""
    versions, client, metrics = tracker().versions(arm.name), mlflow.MlflowClient(), {}
    for run in client.search_runs([client.get_experiment_by_name(arm.name).experiment_id]):
        for name in run.data.metrics:
            points = sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, name))
            if not name.startswith(("system/", "time/", "memory/")):
                assert len(points) == len({step for step, _ in points}), f"{name} has a step twice"
                metrics[run.data.tags.get("opsd.iteration", "campaign"), name] = points
    keys = {"/".join(info.key.split("/")[:2]) for info in arm.store().list("")}
    return {
        "versions": [(v.version, v.aliases, v.tags.get("opsd.gate"), v.tags.get("opsd.model_digest")) for v in versions],
        "weights": [describe(arm.store(), v.source).manifest["files"] for v in versions],
        "metrics": metrics,
        "stored": sorted(key for key in keys if not key.startswith(_OWN)),
        "own": Counter(key.partition("/")[0] for key in keys if key.startswith(_OWN[:4])),
    }


def log(arm):
    return (arm.folder / "log").read_text()[-6000:]


def test_a_campaign_through_a_bad_network(stack, campaign, expected):
    rates = dict.fromkeys(FAULTS, 0.02)
    with FaultProxy(stack.env["AWS_ENDPOINT_URL_S3"], rates, seed=7, stall_s=3.0) as proxy:
        arm = campaign("noisy", AWS_ENDPOINT_URL_S3=proxy.url, OPSD_S3_TIMEOUT_S="2")
        assert arm.attempt() == 0, log(arm)
        print(proxy.num_requests, dict(proxy.injected))
        assert len(proxy.injected) >= 5 and proxy.injected.total() >= 10
    assert outcome(arm) == expected


@pytest.mark.parametrize(("server", "away_s"), [("s3", 20), ("mlflow", 60), ("prefect", 0)])
def test_a_server_goes_away_in_the_middle(stack, campaign, expected, server, away_s):
    arm, restarted = campaign(f"without-{server}"), threading.Event()

    def outage():
        processes.stop(stack.state.root, server)
        time.sleep(away_s)
        stack.up()
        restarted.set()

    away = threading.Thread(target=outage)

    def middle():
        if away.ident is None and arm.manifests() >= 6:  # model, data, campaign, prompts, two shards
            away.start()
        return False

    started = time.monotonic()
    status = arm.attempt(middle)
    away.join()
    print(f"{server} away for {away_s} s and its start; the attempt took {time.monotonic() - started:.0f} s: {status}")
    if status != 0:  # it stopped with a named error: trigger again
        assert re.search(r"ServiceError|ConnectError|Crashed|RuntimeError", log(arm)), log(arm)
        print(log(arm)[-1500:])
        assert arm.attempt() == 0, log(arm)
    assert restarted.is_set()
    assert outcome(arm) == expected

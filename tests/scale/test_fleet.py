"""pytest -m slow tests/scale/test_fleet.py — PostgreSQL, four workers, 64 shards; killed, stopped, cancelled, left alone."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tasks.stages.placement.calls import TTL_S
from tests.scale.campaigns import eventually, made, sessions, tiny
from tests.scale.fleet import POOL, ROOT, fleet
from tests.stack import make_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SHARDS, WORKERS = 64, 4
NOTICED_S = TTL_S + 5.0
"""What docs/operations.md promises of a runner that died or stands still."""
PLACED = {"placement": "workers", "pools": {POOL: WORKERS}}


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    environ = dict(os.environ)
    stack = make_stack()
    try:
        with fleet(stack, tmp_path_factory.mktemp("fleet"), WORKERS) as found:
            yield found
    finally:
        os.environ.clear()
        os.environ.update(environ)


def say(capsys, text):
    """A line for benchmarks/scale.md."""
    with capsys.disabled():
        print(text, flush=True)


def stopped(services, name):
    """The (key, lease) of a call whose runner stands still from now on, with the call unfinished."""
    while True:
        key, record = eventually(lambda: services.held(name))[-1]
        pid = record["process"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        now = services.store().read(key)
        if now and json.loads(now[0])["token"] == record["token"] and json.loads(now[0])["expires_at"] > 0:
            return key, json.loads(now[0])
        os.kill(pid, signal.SIGCONT)


def stage_seconds(log, stage):
    """(calls, seconds, runners) of a stage as the campaign's log says it."""
    calls, seconds, runners = re.search(rf"{stage}: (\d+) calls in ([\d.]+) s, .* by each of (\d+) runners", log).groups()
    return int(calls), float(seconds), int(runners)


def test_64_shards_over_4_runners_are_those_of_one_process_though_one_is_killed_and_one_stopped(services, tiny_model, capsys):
    parameters = tiny(str(tiny_model), SHARDS)
    one = services.campaign("s3://opsd/inline", name="inline", **parameters)
    services.finished(one, "inline")
    began = time.monotonic()
    spread = services.campaign(name="spread", **tiny(str(tiny_model), SHARDS, **PLACED))
    store = services.store()
    up = lambda: [key for key in sessions(store, "spread") if "/offers/" in key]  # noqa: E731
    eventually(lambda: len(up()) == WORKERS, 600)
    say(capsys, f"{WORKERS} runners up {time.monotonic() - began:.1f} s after the campaign's process was started")
    eventually(lambda: len([key for key in sessions(store, "spread") if "/calls/" in key]) == SHARDS, 600)
    key, asleep = stopped(services, "spread")
    since = time.monotonic()
    others = eventually(lambda: [r for _, r in services.held("spread") if r["holder"] != asleep["holder"]])
    os.kill(others[0]["process"]["pid"], signal.SIGKILL)
    result = key.replace("/leases/", "/results/")

    def taken_over():
        now = store.read(key)
        return store.exists(result) or (now is not None and json.loads(now[0])["holder"] != asleep["holder"])

    eventually(taken_over)
    noticed = time.monotonic() - since
    eventually(lambda: store.exists(result) or spread.poll() is not None)
    os.kill(asleep["process"]["pid"], signal.SIGCONT)
    services.finished(spread, "spread")
    assert noticed <= NOTICED_S
    assert made(store) == made(services.store("s3://opsd/inline"))
    assert len(made(store)["rollouts"]) == len(made(store)["targets"]) == SHARDS
    assert sessions(store, "spread") == []
    log = services.log("spread").read_text()
    say(capsys, f"stopped runner noticed after {noticed:.1f} s; " + "; ".join(re.findall(r"(?:rollout|score-targets): .*", log)))


def test_what_is_made_is_found_by_runners_within_a_tenth_of_a_second_each(services, tiny_model, capsys):
    """Another campaign of the same work: what is left of a shard's time is what handing it out costs."""
    services.finished(services.campaign(name="again", **tiny(str(tiny_model), SHARDS, **PLACED)), "again")
    log = services.log("again").read_text()
    for stage in ("rollout", "score-targets"):
        calls, seconds, runners = stage_seconds(log, stage)
        assert calls == SHARDS
        say(capsys, f"{stage}: {seconds / calls:.3f} s a call over {runners} runners, nothing to compute")


def test_a_campaign_whose_process_is_killed_goes_on_and_leaves_nothing(services, tiny_model):
    parameters = tiny(str(tiny_model), 16, **PLACED) | {"seed": 99}
    first = services.campaign(name="killed", **parameters)
    eventually(lambda: len([k for k in sessions(services.store(), "killed") if "/calls/" in k]) == 16, 600)
    eventually(lambda: services.held("killed"))
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    services.finished(services.campaign(name="killed", **parameters), "killed")
    rollouts = [key for key in made(services.store(), ("rollouts",))["rollouts"]]
    assert len(rollouts) == SHARDS + 16 and sessions(services.store(), "killed") == []
    eventually(lambda: not runners_of(services, "killed"))


def test_cancelling_a_campaign_stops_its_runners(services, tiny_model):
    parameters = tiny(str(tiny_model), 16, **PLACED) | {"seed": 100, "name": "cancelled"}
    run = asked(services, f"print(run_deployment('opsd/iterate', parameters={parameters!r}, timeout=0).id)")
    eventually(lambda: services.held("cancelled"), 600)
    asked(services, f"print(get_client(sync_client=True).set_flow_run_state('{run}', Cancelling()).status)")
    eventually(lambda: not runners_of(services, "cancelled"))
    states = asked(services, _STATES.format(name="cancelled")).split()
    assert len(states) == WORKERS and set(states) <= {"Cancelled", "Completed", "Crashed"}
    eventually(lambda: sessions(services.store(), "cancelled") == [])


_STATES = (
    "[print(run.state.name) for run in get_client(sync_client=True).read_flow_runs("
    "flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=['runner', '{name}'])))]"
)
_PROGRAM = (
    "from prefect.client.orchestration import get_client\nfrom prefect.deployments import run_deployment\n"
    "from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags\nfrom prefect.states import Cancelling\n"
)


def asked(services, code):
    """What Prefect's client of the fleet answers, in a process of its own."""
    command = [sys.executable, "-c", _PROGRAM + code]
    return subprocess.run(command, env=services.environ, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def runners_of(services, name):
    """States of the campaign's runners that have not ended."""
    return set(asked(services, _STATES.format(name=name)).split()) - {"Cancelled", "Completed", "Crashed", "Failed"}

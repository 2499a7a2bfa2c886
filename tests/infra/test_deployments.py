"""Pool, queues, deployments and worker on a real Prefect server: `pytest tests/infra/test_deployments.py`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from prefect.automations import AutomationCore, DoNothing, EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Scheduled

from infra import bootstrap, recovery
from infra.cli.app import run as opsd
from infra.cli.server import find_run
from infra.lifecycle import down, up
from infra.state import MODEL_QUEUE, POOL, open_state
from infra.telling import name_waiting
from opsd_core.config import RECIPES
from opsd_core.errors import ServiceError
from tests.own_stack import OwnStack
from tests.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
KILLS_ITSELF = """
import os, signal, time
from prefect import flow
from prefect.runtime import flow_run

def hook(flow, flow_run, state):
    time.sleep(40)

@flow(name="opsd", on_crashed=[hook])
def iterate():
    time.sleep(3)
    if flow_run.run_count == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""


@pytest.fixture
def client(stack: Stack) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        assert str(client.api_url).rstrip("/") == stack.env["PREFECT_API_URL"]
        yield client


def test_pool_and_queue_exist_once_however_often_they_are_prepared(client: SyncPrefectClient) -> None:
    for jobs in (3, 1):
        bootstrap.prepare(client, model_jobs=jobs)
        assert client.read_work_queue_by_name(MODEL_QUEUE, work_pool_name=POOL).concurrency_limit == jobs
    assert client.read_work_pool(POOL).type == "process"
    declared = {deployment["name"] for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    assert set(recovery.WATCHED) == declared


def test_automations_of_earlier_versions_are_deleted(client: SyncPrefectClient) -> None:
    trigger = EventTrigger(expect={"prefect.flow-run.Crashed"}, posture=Posture.Reactive, threshold=1)
    for name in (*bootstrap.RETIRED, "mine"):
        client.create_automation(AutomationCore(name=name, trigger=trigger, actions=[DoNothing()]))
    bootstrap.prepare(client, model_jobs=1)
    left = [len(client.read_automations_by_name(name)) for name in (*bootstrap.RETIRED, "mine")]
    assert left == [0, 0, 1], "somebody else's automation stays"


def test_each_deployment_has_its_own_form_and_leaves_the_folder_to_the_worker(
    worker: Stack, client: SyncPrefectClient
) -> None:
    found = {name: client.read_deployment_by_name(f"opsd/{name}") for name in ("iterate", "promote", "rollback")}
    forms = {name: deployment.parameter_openapi_schema for name, deployment in found.items()}
    assert set(forms["iterate"]["properties"]) >= {"recipe", "name", "iterations", "seed", "overrides"}
    assert set(forms["promote"]["properties"]) == {"name", "reason", "version", "who", "verdict_uri", "hours"}
    assert forms["promote"]["required"] == ["name", "reason"]
    assert set(forms["rollback"]["properties"]) == {"name", "reason", "who"}
    assert forms["rollback"]["required"] == ["name", "reason"]
    assert forms["iterate"]["properties"]["recipe"]["enum"] == sorted(RECIPES)
    pretrain = client.read_deployment_by_name("opsd/pretrain")
    assert set(pretrain.parameter_openapi_schema["properties"]) >= {"recipe", "name", "iterations", "seed", "overrides"}
    assert pretrain.work_queue_name == MODEL_QUEUE
    assert found["iterate"].work_queue_name == MODEL_QUEUE
    assert {found[name].work_queue_name for name in ("promote", "rollback")} == {"default"}
    steps = [deployment.pull_steps for deployment in found.values()]
    assert steps == 3 * [[{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $OPSD_HOME }}"}}]]


def test_runs_can_be_told_apart_from_the_moment_of_submission(worker: Stack, client: SyncPrefectClient) -> None:
    """As the form and `prefect deployment run` submit them: no name, or one of two words by chance."""
    asked = {
        "iterate": [
            ({"recipe": "tiny"}, "tiny-seed0", "tiny"),
            ({"name": "mine", "seed": 3, "overrides": {"rollout": {"top_p": 0.5}}}, "mine-seed3", "mine"),
            ({"overrides": {"name": "inner", "seed": 1}, "dry_run": True}, "inner-dry-run", "inner"),
            ({}, "demo-seed0", "demo"),
        ],
        "pretrain": [({"name": "mine"}, "pretrain-mine-seed0", "mine")],
        "study": [({}, "study-tiny", "study-tiny")],
        "promote": [({"name": "mine", "version": 3, "reason": "x"}, "promote mine v3", "mine")],
        "gc": [({}, "gc", None)],
    }
    tomorrow = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
    made = []
    for deployment, cases in asked.items():
        found = client.read_deployment_by_name(f"opsd/{deployment}")
        for parameters, name, campaign in cases:
            run = client.create_flow_run_from_deployment(found.id, parameters=parameters, state=tomorrow, tags=["own"])
            assert run.name == name and set(run.tags) == {deployment, "own", *([campaign] if campaign else [])}
            made.append(run)
    for body in ({"parameters": []}, {"tags": 3}):
        with pytest.raises(httpx.HTTPStatusError, match="422"):
            client.request("POST", f"/deployments/{found.id}/create_flow_run", json=body)
    client.update_flow_run(made[0].id, name="lucky-otter", tags=["own"])  # as on a server that names nothing
    name_waiting(client, "opsd")
    now = client.read_flow_run(made[0].id)
    assert now.name == "tiny-seed0" and set(now.tags) == {"own", "tiny"}
    for run in made:
        client.delete_flow_run(run.id)


def test_what_cannot_be_is_refused_before_it_waits(worker: Stack, client: SyncPrefectClient) -> None:
    found = client.read_deployment_by_name("opsd/iterate")
    for overrides, why in (({"optimiser": {}}, "optimiser"), ({"optimizer": {"schedule": "cosin"}}, "cosin")):
        with pytest.raises(httpx.HTTPStatusError) as refused:
            client.create_flow_run_from_deployment(found.id, parameters={"overrides": overrides})
        assert why in refused.value.response.json()["detail"]


def test_every_entrypoint_exists() -> None:
    for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        path, _, function = deployment["entrypoint"].partition(":")
        assert f"def {function}(" in (ROOT / path).read_text()
        assert deployment["work_pool"]["name"] == POOL


def test_a_failing_run_ends_with_its_reason_and_the_exit_status_says_so(
    worker: Stack, client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "prefect", "deployment", "run", "opsd/rollback", "--watch"]
    given = ["--param", "name=no-such-model", "--param", "reason=try"]
    result = subprocess.run([*command, *given], capture_output=True, text=True, timeout=180, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    assert opsd(["rollback", "no-such-model"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("opsd: ") and "no-such-model" in said
    run = find_run(client, "no-such-model", active=False)
    assert run.name == "rollback-no-such-model" and run.state.is_failed()


def test_wrong_parameters_are_refused_before_a_run_exists(worker: Stack) -> None:
    command = [sys.executable, "-m", "prefect", "deployment", "run", "opsd/iterate", "--param", "iterations=0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "iterations" in result.stdout + result.stderr


@pytest.mark.slow
def test_a_killed_run_has_one_more_start_however_long_its_crash_hooks_take(tmp_path: Path) -> None:
    """Prefect's own worker reports the dead process again after the hooks, when the second start is running."""
    own = OwnStack(tmp_path, KILLS_ITSELF)
    try:
        assert own.wait_for("Completed", own.trigger(), 300) == 2
    finally:
        down(own.state)


def test_up_with_a_broken_flow_file_says_what_failed(worker: Stack, tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text("deployments:\n  - name: x\n    entrypoint: flows/none.py:none\n")
    environ = {**os.environ, "OPSD_HOME": str(tmp_path), "OPSD_STATE": str(tmp_path / "state")}
    state = open_state(tmp_path / "state", home=tmp_path)
    with pytest.raises(ServiceError, match=r"deploy --all` failed"):
        up(state, environ, worker=True)
    assert down(state) == []

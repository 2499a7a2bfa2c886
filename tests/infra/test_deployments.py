"""Pool, automation, deployments and worker on a real Prefect server: `pytest tests/infra/test_deployments.py`."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client

from infra import bootstrap, processes, summary
from infra.lifecycle import down, up
from infra.state import MODEL_QUEUE, POOL, open_state
from opsd_core.config import RECIPES
from opsd_core.errors import ServiceError
from tests.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = """
import time
from prefect import flow

@flow(name="opsd")
def iterate(seconds: float = 600):
    time.sleep(seconds)
"""

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


def test_pool_queue_and_automation_exist_once_however_often_they_are_prepared(client: SyncPrefectClient) -> None:
    for jobs in (3, 1):
        bootstrap.prepare(client, model_jobs=jobs)
        assert client.read_work_queue_by_name(MODEL_QUEUE, work_pool_name=POOL).concurrency_limit == jobs
    assert client.read_work_pool(POOL).type == "process"
    (automation,) = client.read_automations_by_name(bootstrap.DEAD_RUNS)
    assert automation.enabled
    assert automation.trigger.within.total_seconds() > 3 * 60, "shorter than three heartbeats would end healthy runs"
    queue = automation.trigger.match_related.model_dump()["prefect.resource.name"]
    assert queue == MODEL_QUEUE, "a promotion that waits for a person has no heartbeats"
    (automation,) = client.read_automations_by_name(bootstrap.CONTINUE)
    declared = {deployment["name"] for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    assert automation.enabled and set(bootstrap.CONTINUED) <= declared


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
    assert summary.main(["opsd/rollback"]) == 1
    shown = capsys.readouterr().out
    assert "Failed" in shown
    assert "no-such-model" in shown
    assert summary.newest_run(client, "opsd/rollback").name == "rollback-no-such-model"


def test_wrong_parameters_are_refused_before_a_run_exists(worker: Stack) -> None:
    command = [sys.executable, "-m", "prefect", "deployment", "run", "opsd/iterate", "--param", "iterations=0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "iterations" in result.stdout + result.stderr


def test_summary_of_a_deployment_without_runs_or_unknown(worker: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert summary.main(["opsd/gc"]) == 1
    assert "has not run yet" in capsys.readouterr().err
    assert summary.main(["opsd/none"]) == 1
    assert "not registered" in capsys.readouterr().err


class OwnStack:
    """A project of its own whose opsd/iterate is `flow`: servers, deployment and worker, and one run of it."""

    def __init__(self, folder: Path, flow: str) -> None:
        (folder / "flows").mkdir()
        (folder / "flows" / "iterate.py").write_text(flow)
        declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())
        declared["deployments"] = [d for d in declared["deployments"] if d["name"] == "iterate"]
        (folder / "prefect.yaml").write_text(yaml.safe_dump(declared))
        self.environ = {"PATH": os.environ["PATH"], "OPSD_HOME": str(folder), "OPSD_STATE": str(folder / "state")}
        subprocess.run([sys.executable, "-m", "infra.stack", "up", "--worker"], env=self.environ, check=True)
        self.state = open_state(folder / "state")

    def trigger(self) -> str:
        return self._python(
            "from prefect.deployments import run_deployment; print(run_deployment('opsd/iterate', timeout=0).id)"
        )

    def wait_for(self, state: str, run_id: str, patience_s: float) -> int:
        """The run's number of starts, once it has been in this state."""
        program = (
            "import sys; from prefect.client.orchestration import get_client\n"
            "with get_client(sync_client=True) as c:\n"
            "    print(c.read_flow_run(sys.argv[1]).run_count, *(s.name for s in c.read_flow_run_states(sys.argv[1])))"
        )
        deadline = time.monotonic() + patience_s
        while state not in (found := self._python(program, run_id).split()):
            assert time.monotonic() < deadline, f"still {found}"
            time.sleep(5)
        return int(found[0])

    def _python(self, text: str, *arguments: str) -> str:
        command = [sys.executable, "-m", "infra.stack", "run", sys.executable, "-c", text, *arguments]
        return subprocess.run(command, env=self.environ, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_a_run_whose_processes_all_died_is_set_to_crashed(tmp_path: Path) -> None:
    own = OwnStack(tmp_path, SLEEPER)
    try:
        run_id = own.trigger()
        own.wait_for("Running", run_id, 180)
        for process in processes.family(own.state.root, "worker"):
            process.kill()
        own.wait_for("Crashed", run_id, 400)
    finally:
        down(own.state)


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

"""The embedded stack really starts, stays single, and stops, also after a crash: `pytest tests/infra/test_stack.py`."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra import processes
from infra.lifecycle import down, status, up
from infra.services import SERVERS, describe, leftovers
from infra.state import open_state, port_is_free
from opsd_core.errors import ServiceError
from tasks.runtime.settings import load_settings
from tasks.storage.s3 import open_store
from tests.stack import Stack

SECRETS = ("S3_ACCESS_KEY", "S3_SECRET_KEY", "WEED_JWT_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_KEY")


def _command(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **stack.env}
    command = [sys.executable, "-m", "infra.stack", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)


def _pids(stack: Stack) -> dict[str, int]:
    return {name: processes.find(stack.state.root, name).pid for name in SERVERS}


def _secrets(root: Path) -> list[str]:
    lines = dict(line.split("=", 1) for line in (root / "server.env").read_text().splitlines())
    assert set(SECRETS) <= set(lines)
    return list(lines.values())


def test_servers_serve(stack: Stack) -> None:
    reports = status(stack.state, os.environ)
    assert [report.state for report in reports if report.name in SERVERS] == ["running"] * 3


def test_second_up_changes_nothing(stack: Stack) -> None:
    before = _pids(stack)
    result = _command(stack, "up")
    assert result.returncode == 0, result.stderr
    assert "nothing was started" in result.stdout
    assert _pids(stack) == before


def test_credentials_are_private_and_never_shown(stack: Stack) -> None:
    root = stack.state.root
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    for name in ("env", "server.env", "ports.json"):
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o600, name
    outputs = [_command(stack, *words) for words in (["up"], ["status"], ["env"])]
    shown = repr(stack) + "".join(result.stdout + result.stderr for result in outputs)
    shown += "".join(path.read_text(errors="replace") for path in (root / "logs").iterdir())
    shown += " ".join(" ".join(process.cmdline()) for name in SERVERS for process in processes.family(root, name))
    assert "s3" in shown
    assert not [value for value in _secrets(root) if value in shown]


def test_env_line_gives_a_shell_every_client_variable(stack: Stack) -> None:
    line = _command(stack, "env").stdout
    script = f"{line}\n{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    clean = {"PATH": os.environ["PATH"]}
    result = subprocess.run(["sh", "-c", script], env=clean, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(result.stdout).items() >= stack.env.items()


def test_run_gives_a_command_the_variables_and_the_programs(stack: Stack) -> None:
    result = _command(stack, "run", "sh", "-c", "echo $PREFECT_API_URL; command -v prefect")
    assert result.stdout.splitlines()[0] == stack.env["PREFECT_API_URL"]
    assert Path(result.stdout.splitlines()[1]).parent == Path(sys.executable).parent
    assert _command(stack, "run", "no-such-program").returncode == 127


def test_every_listener_is_on_loopback(stack: Stack) -> None:
    pids = {process.pid for name in SERVERS for process in processes.family(stack.state.root, name)}
    listeners = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in pids]
    assert {c.laddr.ip for c in listeners} == {"127.0.0.1"}
    known = {port for name in SERVERS for port in describe(name, stack.state, os.environ).ports}
    assert {c.laddr.port for c in listeners} == known


def test_acknowledged_objects_survive_a_kill_of_the_object_server(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state")
    service = describe("s3", state, {"PATH": os.environ["PATH"]})
    store = open_store(settings=load_settings(dict(service.environ)))

    def start() -> psutil.Process:
        processes.spawn(state.root, "s3", service.command, service.environ, service.cwd)
        while not service.is_ready():
            assert processes.find(state.root, "s3"), processes.last_lines(state.root, "s3")
            time.sleep(0.1)
        return processes.find(state.root, "s3")

    try:
        process = start()
        store.put("survives/kill", b"acknowledged")
        process.kill()
        process.wait(10)
        start()
        assert store.get("survives/kill") == b"acknowledged"
    finally:
        assert down(state) == ["s3"]
    assert [port for port in service.ports if not port_is_free(port)] == []
    assert leftovers(state) == []


def test_a_reused_process_id_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        started = psutil.Process(stranger.pid).create_time()
        record = processes.record_path(tmp_path, "mlflow")
        record.write_text(json.dumps({"pid": stranger.pid, "started": started - 100}))
        assert processes.find(tmp_path, "mlflow") is None
        assert not record.exists()
        record.write_text(json.dumps({"pid": stranger.pid, "started": started - 100}))
        assert processes.stop(tmp_path, "mlflow") is False
        assert stranger.poll() is None
        stranger.kill()


def test_damaged_record_counts_as_stopped(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    processes.record_path(tmp_path, "s3").write_text("{")
    assert processes.find(tmp_path, "s3") is None


def test_stop_ends_a_process_that_ignores_the_request_and_its_detached_child(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state")
    program = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen(['sleep', '60'], start_new_session=True); print('up', flush=True); time.sleep(60)"
    )
    processes.spawn(state.root, "worker", [sys.executable, "-c", program], os.environ, tmp_path)
    while "up" not in processes.last_lines(state.root, "worker"):
        time.sleep(0.05)
    assert len(processes.family(state.root, "worker")) == 2
    assert processes.stop(state.root, "worker", patience_s=0.5)
    assert processes.family(state.root, "worker") == []


def test_stop_ends_the_threads_that_outlive_their_leader_and_frees_their_port(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state")
    program = (
        "import ctypes, signal, socket, threading, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "server = socket.create_server(('127.0.0.1', 0)); threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print('port', server.getsockname()[1], flush=True); ctypes.CDLL(None).pthread_exit(None)"
    )
    pid = processes.spawn(state.root, "worker", [sys.executable, "-c", program], os.environ, tmp_path)
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    port = int(processes.last_lines(state.root, "worker", 1).split()[1])
    assert not port_is_free(port)
    assert processes.stop(state.root, "worker", patience_s=0.5)
    assert port_is_free(port)


def test_taken_port_is_named_and_what_was_started_is_stopped(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state")
    with socket.create_server(("127.0.0.1", state.ports["mlflow"])):
        environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        with pytest.raises(ServiceError, match=rf"mlflow cannot start: another program.*{state.ports['mlflow']}"):
            up(state, environ, worker=False)
    assert down(state) == []


def test_a_service_that_ends_while_starting_shows_the_end_of_its_log(stack: Stack, tmp_path: Path) -> None:
    state = open_state(tmp_path / "state")
    (state.root / "s3" / "filerldb2").write_text("a file where a folder belongs")
    environ = {name: os.environ[name] for name in ("PATH", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_URI")}
    with pytest.raises(ServiceError, match=r"s3 ended while starting(?s:.*)filerldb2"):
        up(state, environ, worker=False)
    assert down(state) == []

"""pytest tests/core/rollout/engines/test_server.py — an engine's process: started, told of, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from opsd_core.errors import ConfigError, ServiceError
from opsd_core.rollout.engines import server as module
from opsd_core.rollout.engines.server import Server, stop_servers

SERVES = """
import http.server, json, os, subprocess, sys, time
port, mode = int(sys.argv[1]), sys.argv[2]
if mode == "dies":
    print("loading", os.environ["THE_KEY"], "from http://user:hunter2@host/x", flush=True)
    raise ValueError("Model architectures ['Odd'] are not supported for now")
if mode == "stubborn":
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body):
        self.send_response(status); self.end_headers(); self.wfile.write(json.dumps(body).encode())
    def do_GET(self):
        known = self.headers["Authorization"] == "Bearer " + os.environ["THE_KEY"]
        self.answer(200 if known else 401, {"worker": worker.pid, "env": dict(os.environ)})
    def do_POST(self):
        if self.path == "/die":
            print("RuntimeError: the kernel does not know this shape", flush=True)
            os._exit(3)
        self.answer(400, {"message": "max is 20"})
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
"""A server of the shape of an engine's: a process with a worker that no polite signal ends."""


def start(mode="serves", folder=None):
    def command(port):
        return [sys.executable, "-c", SERVES, str(port), mode]

    return Server.start("execution.engine=test", Path(sys.executable), command, {"PATH": os.environ["PATH"]}, "THE_KEY")


def family(server):
    leader = psutil.Process(server.process.pid)
    return [leader, *leader.children(recursive=True)]


def gone(processes, seconds=20.0):
    """None of them runs any more; what was reparented to nobody who waits is a zombie."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("mode", ["serves", "stubborn"])
def test_closing_ends_everything_that_it_started(mode):
    server = start(mode)
    members, folder = family(server), server.folder
    assert len(members) == 3 and server.alive and folder.is_dir()
    began = time.monotonic()
    server.close()
    assert gone(members, 1.0) and not folder.exists() and not server.alive
    assert mode == "stubborn" or time.monotonic() - began < 10
    server.close()
    with pytest.raises(ServiceError, match=r"execution\.engine=test: its process was ended"):
        server.ask("/v1/completions", {})


def test_its_environment_holds_no_secret_of_this_process_and_its_port_asks_for_the_key(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    server = start()
    try:
        answer = server.client.get("/v1/models")
        assert answer.status_code == 200 and "very-secret" not in answer.text
        assert server.client.get("/v1/models", headers={"Authorization": "Bearer other"}).status_code == 401
        command = " ".join(" ".join(process.cmdline()) for process in family(server))
        assert answer.json()["env"]["THE_KEY"] not in command, "ps would show it"
    finally:
        server.close()


def test_a_process_that_dies_in_starting_is_told_with_its_last_words_and_no_secret():
    with pytest.raises(ConfigError) as caught:
        start("dies")
    text = str(caught.value)
    assert text.startswith("execution.engine=test: its process ended with status 1 before it was ready.")
    assert "ValueError: Model architectures ['Odd'] are not supported for now" in text and "execution.engine=transformers" in text
    assert "loading ***" in text and "hunter2" not in text
    assert not module._running


def test_a_process_that_ends_while_it_is_asked_is_told_with_the_cause():
    server = start()
    members = family(server)
    with pytest.raises(ServiceError, match=r"answers 400: .*max is 20"):
        server.ask("/v1/completions", {})
    with pytest.raises(ServiceError, match=r"ended with status 3(.|\n)*RuntimeError: the kernel does not know this shape"):
        server.ask("/die", {})
    assert gone(members), "its worker too"
    server.close()


def test_a_port_that_another_process_takes_first_is_left_to_it():
    other = start()
    taken = int(str(other.client.base_url).rsplit(":", 1)[1].strip("/"))
    ports = iter([taken, taken, 0])

    def command(port):
        return [sys.executable, "-c", SERVES, str(next(ports) or port), "serves"]

    server = None
    try:
        server = Server.start("execution.engine=test", Path(sys.executable), command, {"PATH": os.environ["PATH"]}, "THE_KEY")
        assert server.alive and str(taken) not in str(server.client.base_url)
    finally:
        other.close()
        if server:
            server.close()


PARENT = """
import sys
from tests.core.rollout.engines.test_server import start, family
server = start(sys.argv[1])
print("STARTED", server.folder, *[process.pid for process in family(server)], flush=True)
sys.stdin.readline()
raise RuntimeError("of the stage")
"""
ROOT = Path(__file__).resolve().parents[4]


ENDS = [("serves", "SIGKILL"), ("stubborn", "SIGKILL"), ("serves", "SIGTERM"), ("serves", "raises")]


@pytest.mark.parametrize(("mode", "end"), ENDS)
def test_it_ends_with_its_parent_however_that_ends(mode, end):
    environ, command = os.environ | {"PYTHONPATH": str(ROOT)}, [sys.executable, "-c", PARENT, mode]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    parent = subprocess.Popen(command, cwd=ROOT, env=environ, text=True, **pipes)
    word, folder, *pids = parent.stdout.readline().split()
    assert word == "STARTED"
    members = [psutil.Process(int(pid)) for pid in pids]
    assert len(members) == 3
    if end == "raises":
        parent.stdin.close()
    else:
        parent.send_signal(getattr(signal, end))
    parent.wait(60)
    assert gone(members, 30.0)
    deadline = time.monotonic() + 10
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(folder).exists()


def test_stop_servers_ends_all_that_stand():
    one, two = start(), start()
    members = family(one) + family(two)
    stop_servers()
    assert gone(members, 1.0)

"""A stack whose processes were killed during a run is cleaned up: `pytest tests/infra/test_end_of_stack.py`.

It takes the session's servers away, so it stands in a file of its own, which runs last.
"""

import os
import time

import pytest
from prefect.deployments import run_deployment

from infra import processes
from infra.lifecycle import status
from infra.services import SERVERS, SERVICES, describe
from infra.state import port_is_free
from tests.stack import Stack


@pytest.mark.ends_stack
def test_down_after_a_kill_with_a_run_in_flight_leaves_no_process_and_no_port(worker: Stack) -> None:
    stack = worker
    run_deployment("opsd/iterate", parameters={"recipe": "tiny"}, timeout=0)
    deadline = time.monotonic() + 60
    while len(processes.family(stack.state.root, "worker")) < 2:
        assert time.monotonic() < deadline, processes.last_lines(stack.state.root, "worker")
        time.sleep(0.2)
    ports = [port for name in SERVERS for port in describe(name, stack.state, os.environ).ports]
    for name in SERVICES:
        processes.find(stack.state.root, name).kill()
    time.sleep(0.5)
    for name in ("mlflow", "worker"):
        assert processes.family(stack.state.root, name), "children outlive their parent: the case to clean up"
    stack.down()
    assert [process for name in SERVICES for process in processes.family(stack.state.root, name)] == []
    assert [port for port in ports if not port_is_free(port)] == []
    assert list((stack.state.root / "run").glob("*.json")) == []
    assert [report.state for report in status(stack.state, os.environ) if report.name in SERVERS] == ["stopped"] * 3

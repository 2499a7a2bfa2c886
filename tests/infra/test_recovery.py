"""pytest tests/infra/test_recovery.py — what is decided about a run, for every state, process and number of starts."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType

from infra import reconcile
from infra.lossy import Lossy
from infra.recovery import (
    CANCEL_PATIENCE_S,
    CONTINUED,
    LAUNCH_PATIENCE_S,
    MAX_STARTS,
    WATCHED,
    Action,
    Life,
    Seen,
    confirm_s,
    decide,
    life,
)
from tasks.storage.presence import TTL_S, Record
from tasks.storage.process_mark import process_mark

NOW = time.time()
ELSEWHERE = {"boot": "another", "namespace": "pid:[1]", "pid": 7, "start": "5"}
WORKING = {StateType.PENDING, StateType.RUNNING, StateType.CRASHED, StateType.CANCELLING}


def seen(state=StateType.RUNNING, age_s=1.0, deployment="iterate", starts=1, record=None, **others):
    return Seen(state, age_s, deployment, starts, record, **others)


@pytest.fixture(scope="module")
def dead():
    """The mark of a process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = process_mark(process.pid)
    process.communicate()
    return mark


def test_a_run_whose_process_lives_is_never_started_again_nor_set_to_another_state():
    for state, deployment, starts in product(StateType, WATCHED, range(1, MAX_STARTS + 2)):
        for alive in (Life.ALIVE, Life.UNKNOWN):
            assert decide(seen(state, 1e6, deployment, starts), alive) == Action.LEAVE


def test_what_ended_waits_or_is_suspended_is_left_alone_whatever_became_of_its_process():
    for state, alive, deployment in product(set(StateType) - WORKING, Life, WATCHED):
        assert decide(seen(state, 1e6, deployment), alive) == Action.LEAVE


def test_a_start_that_its_own_worker_saw_end_is_gone_at_once_though_nobody_recorded_it(dead):
    """A full disk: no record, or only that of the launch. A start that another one made is nothing that this worker saw."""
    launching = Record(dead, NOW + TTL_S, launching=True)
    for record in (None, launching):
        pending = {"state": StateType.PENDING, "age_s": 2.0, "record": record}
        assert life(seen(**pending, ended_here=True), NOW) == Life.GONE
        assert life(seen(**pending, ended_here=True, runs_here=True), NOW) == Life.ALIVE
    assert life(seen(StateType.PENDING, 2.0), NOW) == Life.UNKNOWN
    elsewhere = Record(ELSEWHERE, NOW + TTL_S, launching=True)
    assert life(seen(StateType.PENDING, 2.0, record=elsewhere, ended_here=True), NOW) == Life.ALIVE
    assert life(seen(StateType.RUNNING, 2.0, ended_here=True), NOW) == Life.UNKNOWN


def test_a_run_without_a_process_goes_on_when_its_work_can_be_found_again():
    for deployment in WATCHED:
        goes_on = deployment in CONTINUED
        assert (decide(seen(StateType.RUNNING, deployment=deployment), Life.GONE) == Action.START_AGAIN) is goes_on
        assert (decide(seen(StateType.CRASHED, deployment=deployment), Life.GONE) == Action.START_AGAIN) is goes_on
        assert decide(seen(StateType.PENDING, deployment=deployment), Life.GONE) == Action.START_AGAIN, "it never began"
        assert decide(seen(StateType.CANCELLING, deployment=deployment), Life.GONE) == Action.CANCEL
    assert decide(seen(StateType.RUNNING, deployment="promote"), Life.GONE) == Action.CRASH
    assert decide(seen(StateType.CRASHED, deployment="promote"), Life.GONE) == Action.LEAVE


def test_the_last_start_is_the_fifth():
    for state in (StateType.PENDING, StateType.RUNNING, StateType.CRASHED):
        assert decide(seen(state, starts=MAX_STARTS - 1), Life.GONE) == Action.START_AGAIN
        assert decide(seen(state, starts=MAX_STARTS), Life.GONE) in (Action.CRASH, Action.LEAVE)


def test_on_this_machine_the_process_itself_is_asked(dead):
    assert life(seen(record=Record(process_mark(), NOW - 1000)), NOW) == Life.ALIVE, "frozen or cut off from the store"
    assert life(seen(record=Record(dead, NOW + 1000)), NOW) == Life.GONE, "at once, before the record runs out"
    assert life(seen(record=Record(dead, NOW + 1000), runs_here=True), NOW) == Life.ALIVE, "a child goes on"
    reused = {**process_mark(), "start": "1"}
    assert life(seen(record=Record(reused, NOW + 1000)), NOW) == Life.GONE, "another process has its number"


def test_elsewhere_the_lifetime_of_the_record_tells():
    assert life(seen(record=Record(ELSEWHERE, NOW + 1)), NOW) == Life.ALIVE
    assert life(seen(record=Record(ELSEWHERE, NOW - 1)), NOW) == Life.GONE
    assert TTL_S + confirm_s(seen(record=Record(ELSEWHERE, NOW - 1))) + 2 * 5 <= 90 + 30, "the documented time"


def test_without_a_record_only_time_tells():
    for state in (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING):
        for record in (None, Record(None, 0.0, 3)):
            assert life(seen(state, TTL_S - 1, record=record), NOW) == Life.UNKNOWN
            assert life(seen(state, TTL_S + 1, record=record), NOW) == Life.GONE
    assert life(seen(StateType.CRASHED, 0.0), NOW) == Life.GONE, "reported by who knew its process"


def test_a_run_whose_node_has_to_boot_first_is_given_time():
    expired = Record(ELSEWHERE, NOW - 1000)
    for record in (None, expired):
        waits = seen(StateType.PENDING, LAUNCH_PATIENCE_S - 1, record=record, starts_processes=False)
        assert life(waits, NOW) == Life.UNKNOWN
        over = seen(StateType.PENDING, LAUNCH_PATIENCE_S + 1, record=record, starts_processes=False)
        assert life(over, NOW) == Life.GONE


def test_a_run_that_its_worker_has_taken_is_alive_until_the_worker_ends_or_reports_it(dead):
    mine, ended = Record(process_mark(), NOW + 60, launching=True), Record(dead, NOW + 60, launching=True)
    assert life(seen(StateType.PENDING, record=mine), NOW) == Life.ALIVE
    assert life(seen(StateType.PENDING, record=ended), NOW) == Life.GONE, "a stack that was stopped in this moment"
    assert life(seen(StateType.CRASHED, record=mine), NOW) == Life.GONE, "the worker could not start it and lives on"


def test_a_cancelled_process_that_nobody_ends_is_ended_on_its_own_machine():
    assert decide(seen(StateType.CANCELLING, CANCEL_PATIENCE_S - 1, runs_here=True), Life.ALIVE) == Action.LEAVE
    assert decide(seen(StateType.CANCELLING, CANCEL_PATIENCE_S + 1, runs_here=True), Life.ALIVE) == Action.END_PROCESS
    assert decide(seen(StateType.CANCELLING, CANCEL_PATIENCE_S + 1), Life.ALIVE) == Action.LEAVE, "elsewhere"


def test_the_command_refuses_a_wrong_interval_and_says_what_does_not_answer(tmp_path, capsys):
    assert reconcile.main(["--every", "0"]) == 1 and "between 1 and 3600" in capsys.readouterr().err
    environ = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "OPSD_STORE": f"file://{tmp_path}", "OPSD_STATE": str(tmp_path)}
    command = [sys.executable, "-m", "infra.reconcile"]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "cannot be asked: ConnectError" in done.stderr and "Traceback" not in done.stderr


def test_a_full_disk_costs_lines_and_raises_nothing():
    """/dev/full refuses every byte, as a full disk does."""
    with Path("/dev/full").open("w") as full:
        stream = Lossy(full)
        print("a line\n" * 10_000, file=stream, flush=True)
        assert stream.write("abc") == 3 and stream.fileno() == full.fileno()
        with suppress(OSError):
            full.close()

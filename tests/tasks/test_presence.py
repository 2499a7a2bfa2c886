"""pytest tests/tasks/test_presence.py — who works on a run: recorded, renewed, missed when it dies, removed when it ends."""

import json
import subprocess
import sys
import time
from dataclasses import asdict

from tasks.storage.presence import (
    Presence,
    Record,
    announce_launch,
    announce_process,
    key_of,
    read_record,
    recorded_runs,
    vacate,
)
from tasks.storage.process_mark import process_mark

RUN = "0f6a3c1e-0000-4000-8000-000000000001"
HOLD = """
import sys, time
from tasks.storage.presence import Presence
from tasks.storage.s3 import open_store
Presence(open_store(sys.argv[1]), sys.argv[2], ttl_s=0.6).begin()
time.sleep(60)
"""


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_from_launch_to_end(store):
    assert read_record(store, RUN) is None
    attempt = announce_launch(store, RUN)
    assert attempt == 1 and read_record(store, RUN).launching and not read_record(store, RUN).is_over(time.time())
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    announce_process(store, RUN, process.pid, attempt)
    record = read_record(store, RUN)
    assert record.process["pid"] == process.pid and not record.launching and not record.is_over(time.time() + 1e6)
    process.kill()
    wait_for(lambda: read_record(store, RUN).is_over(time.time()))  # though nobody has waited for the process yet
    process.communicate()
    assert read_record(store, RUN).is_over(time.time())
    vacate(store, RUN, attempt)
    assert read_record(store, RUN).is_vacant and announce_launch(store, RUN) == 2
    present = Presence(store, RUN)
    present.begin()
    wait_for(lambda: not read_record(store, RUN).launching)
    assert read_record(store, RUN).attempt == 2 and recorded_runs(store) == [RUN]
    present.end()
    assert recorded_runs(store) == []


def test_a_damaged_record_is_none(store):
    for text in (b"", b"{", b"[]", b"{}", b'{"process": 1, "expires_at": "x", "attempt": 1, "launching": false}'):
        store.put(key_of(RUN), text)
        assert read_record(store, RUN) is None
    marked = Record({"boot": 1, "pid": "x"}, 1.0)
    store.put(key_of(RUN), json.dumps(asdict(marked)).encode())
    assert read_record(store, RUN).is_over(time.time())


def test_a_process_that_was_given_up_for_dead_ends_itself_without_a_report(tmp_path):
    from tasks.storage.s3 import open_store

    store = open_store(f"file://{tmp_path}")
    process = subprocess.Popen([sys.executable, "-c", HOLD, f"file://{tmp_path}", RUN], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: read_record(store, RUN) is not None)
    first = read_record(store, RUN)
    assert (first.process["pid"], first.attempt) == (process.pid, 1)
    later = Record(process_mark(), time.time() + 1000, attempt=2)
    store.put(key_of(RUN), json.dumps(asdict(later)).encode())
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0 and "given up for dead" in said
    assert read_record(store, RUN).attempt == 2

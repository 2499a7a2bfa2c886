"""pytest tests/faults/test_walk.py — whatever happens to campaigns in whatever order, they end as an undisturbed one.

The events of a walk come from its seed: OPSD_WALK_SEED=N repeats the walk of a failure, OPSD_WALK_EVENTS=N is its length.
"""

import os
import time
from collections import Counter

import psutil
import pytest

from tests.faults.kills import Arm
from tests.faults.outcome import differences
from tests.faults.test_kill import small
from tests.faults.walk import KINDS, SPENT, Walk, draw

pytestmark = pytest.mark.timeout(6 * 3600)
EACH = 10
"""Events per campaign."""
SHORT = {"kill": 2, "pause": 1, "twin": 1, "damage": 2, "delete": 2, "gc": 1, "move": 1}
"""Without restarts and bad networks, which take long."""


@pytest.fixture(scope="module")
def calm(stack, tiny_model, tmp_path_factory):
    """What the campaign makes when nobody touches it: its stages and its result."""
    arm = Arm("walk-calm", tmp_path_factory.mktemp("walk-calm"), small(tiny_model, 1)).finish()
    return Walk(arm, stack, arm.stages())


def walk(events, calm, tmp_path_factory, name):
    """One campaign through these events; what it met."""
    arm = Arm(name, tmp_path_factory.mktemp(name), calm.arm.parameters)
    one = Walk(arm, calm.stack, calm.stages)
    children = {process.pid for process in psutil.Process().children(recursive=True)}
    for event in events:
        one.meet(event)
    one.finish()
    assert differences(one.result(), calm.result()) == [], one.story
    assert one.leaks() == [], one.story
    stray = {process.pid for process in psutil.Process().children(recursive=True)} - children
    assert {pid for pid in stray if not _is_server(pid, calm.stack)} == set()
    return one


def _is_server(pid, stack):
    try:
        return psutil.Process(pid).environ().get("OPSD_STACK") == str(stack.state.root)
    except psutil.Error:
        return True


def test_a_seed_names_its_events():
    assert draw(3, 50) == draw(3, 60)[:50] != draw(4, 50)
    assert set(KINDS) == {event.kind for event in draw(1, 300)}


def test_a_short_walk(calm, tmp_path_factory):
    walk(draw(1, 5, SHORT), calm, tmp_path_factory, "walk-short")


@pytest.mark.slow
def test_every_loss_is_mended_by_the_next_trigger(calm, tmp_path_factory):
    """First of the artifacts that no finished stage reads again, then one object of every artifact at once."""
    arm = Arm("walk-losses", tmp_path_factory.mktemp("walk-losses"), calm.arm.parameters)
    one = Walk(arm, calm.stack, calm.stages)
    one.finish()
    lost = {key.rpartition("/")[0]: key for key in one.stored() if not key.startswith(SPENT)}
    unread = [key for key in lost.values() if key.startswith(("models/", "lineage/"))]
    assert len(unread) >= 4
    for keys in (unread, list(lost.values())):
        one.lose(keys)
        one.finish()
    assert differences(one.result(), calm.result()) == [], one.story


@pytest.mark.slow
def test_a_long_walk(calm, tmp_path_factory, capsys):
    """At least 200 events in campaigns of ten."""
    seed, count = int(os.environ.get("OPSD_WALK_SEED", "1")), int(os.environ.get("OPSD_WALK_EVENTS", "200"))
    events, met, attempts, failed, began = draw(seed, count), Counter(), 0, 0, time.monotonic()
    for number in range(0, count, EACH):
        part = events[number : number + EACH]
        try:
            one = walk(part, calm, tmp_path_factory, f"walk-{seed}-{number // EACH}")
        except AssertionError:
            say(capsys, f"OPSD_WALK_SEED={seed}: campaign {number // EACH}, events {part}")
            raise
        met, attempts, failed = met + one.met, attempts + one.attempts, failed + one.failed
        passed = time.monotonic() - began
        say(capsys, f"{met.total()} events, {attempts} attempts, {failed} ended with a named error, {passed:.0f} s: equal")
    say(capsys, f"seed {seed}: {dict(met)}")


def say(capsys, text):
    """A line for benchmarks/resume.md."""
    with capsys.disabled():
        print(text, flush=True)

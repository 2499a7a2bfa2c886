"""Versions, aliases, promotion and rollback in a real MLflow registry; every step may be repeated."""

import re
import threading
import uuid

import pytest

from opsd_core.errors import ConfigError, ServiceError
from tasks.tracking import Tracker


@pytest.fixture
def tracker(settings) -> Tracker:
    return Tracker(settings)


@pytest.fixture
def run_id(tracker) -> str:
    return tracker.campaign_run("tests", uuid.uuid4().hex, {})


@pytest.fixture
def name(tracker) -> str:
    name = f"model-{uuid.uuid4().hex[:12]}"
    tracker.ensure_model(name)
    return name


def test_the_same_source_and_run_are_one_version(tracker, name, run_id):
    tracker.ensure_model(name)
    first = tracker.register(name, "s3://opsd/models/a/1", run_id, {"opsd.parent": 0}, "first")
    assert tracker.register(name, "s3://opsd/models/a/1", run_id, {"opsd.parent": 9}) == first == 1
    assert tracker.register(name, "s3://opsd/models/b/2", run_id) == 2
    version = tracker.get_version(name, 1)
    assert (version.source, version.run_id, version.description) == ("s3://opsd/models/a/1", run_id, "first")
    assert version.tags == tracker.version_tags(name, 1) == {"opsd.parent": "0"}
    assert [entry.version for entry in tracker.versions(name)] == [1, 2]


def test_racing_registrations_leave_one_version(tracker, name, run_id):
    numbers, barrier = [], threading.Barrier(4)

    def register() -> None:
        barrier.wait()
        numbers.append(tracker.register(name, "s3://opsd/models/a/1", run_id))

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers == [1, 1, 1, 1] and len(tracker.versions(name)) == 1


def test_aliases_and_tags_are_read_back(tracker, name, run_id):
    for number in (1, 2):
        tracker.register(name, f"s3://opsd/models/a/{number}", run_id)
    assert tracker.version_by_alias(name, "candidate") is None
    assert tracker.version_by_alias("absent-model", "candidate") is None
    tracker.set_alias(name, "candidate", 2)
    assert tracker.version_by_alias(name, "candidate") == 2
    tracker.set_version_tags(name, 2, {"gate.verdict": "promoted", "gate.p_value": 0.01})
    assert tracker.aliased(name, "candidate").tags == {"gate.verdict": "promoted", "gate.p_value": "0.01"}
    assert tracker.source_of(f"models:/{name}@candidate") == "s3://opsd/models/a/2"
    assert tracker.resolve(f"models:/{name}/1").version == 1
    assert tracker.model_url(name, 2).endswith(f"/models/{name}/versions/2")
    for uri in (f"models:/{name}", f"models:/{name}@x@y", "models:/a/b/c", f"models:/{name}@absent"):
        with pytest.raises(ConfigError):
            tracker.resolve(uri)
    with pytest.raises(ServiceError, match="refused to read"):
        tracker.get_version(name, 9)


def test_promotions_and_rollbacks_are_kept_with_their_reasons(tracker, name, run_id):
    for number in (1, 2, 3):
        tracker.register(name, f"s3://opsd/models/a/{number}", run_id)
    assert tracker.promote(name, 1, "starting weights", "opsd") is None
    assert tracker.promote(name, 2, "better by 3 points", "gate") == 1
    assert tracker.promote(name, 2, "better by 3 points", "gate") == 1  # repeated after a crash
    assert tracker.promote(name, 3, "better still", "gate", expected_champion=2) == 2
    aliases = {version.version: version.aliases for version in tracker.versions(name)}
    assert aliases == {1: (), 2: ("previous",), 3: ("champion",)}
    with pytest.raises(ServiceError, match="champion of .* is version 3, the decision was taken against 2"):  # noqa: RUF043
        tracker.promote(name, 1, "stale", "gate", expected_champion=2)
    assert tracker.rollback(name, "complaints", "ana", expected_champion=3) == 2
    assert tracker.version_by_alias(name, "champion") == 2 and tracker.version_by_alias(name, "previous") == 1
    with pytest.raises(ServiceError, match="changed underneath"):
        tracker.rollback(name, "complaints", "ana", expected_champion=3)
    assert tracker.rollback(name, "again", "ana") == 1 and tracker.version_by_alias(name, "previous") is None
    with pytest.raises(ConfigError, match="no earlier champion"):
        tracker.rollback(name, "too far", "ana")
    kept = [(move.action, move.before, move.after, move.who) for move in tracker.moves(name)]
    assert kept == [
        ("promote", None, 1, "opsd"),
        ("promote", 1, 2, "gate"),
        ("promote", 2, 3, "gate"),
        ("rollback", 3, 2, "ana"),
        ("rollback", 2, 1, "ana"),
    ]
    assert tracker.moves(name)[3].why == "complaints" and tracker.moves(name)[3].at.endswith("+00:00")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "x' or name like '%", "-a", "a\n"])
def test_malformed_names_are_refused(tracker, name):
    with pytest.raises(ConfigError, match="cannot name a registered model"):
        tracker.ensure_model(name)


def test_an_address_of_no_version_is_a_wrong_setting_not_an_outage(tracker, name):
    absent = f"models:/absent-{uuid.uuid4().hex[:8]}"
    for uri in (f"models:/{name}/7", f"models:/{name}@nobody", f"{absent}/1", f"{absent}@champion"):
        with pytest.raises(ConfigError, match=re.escape(uri)):
            tracker.source_of(uri)
    for uri in (f"models:/{name}", "models:/", f"models:/{name}@a@b", f"models:/{name}/latest", "models:/a b/c/1"):
        with pytest.raises(ConfigError, match=r"is not models:/name@alias.*model\.source"):
            tracker.source_of(uri)

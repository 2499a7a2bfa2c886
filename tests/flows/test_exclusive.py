"""pytest tests/flows/test_exclusive.py — one campaign per registered model and one study per name, others beside them."""

import uuid

import mlflow
import pytest

from flows.iterate import iterate
from flows.study import study
from opsd_core.errors import BusyError, ConfigError, DataError
from tasks import context
from tasks.context import store, tracker
from tasks.exclusive import champion_moves, one_campaign, running_campaigns, wait_seconds


@pytest.fixture(autouse=True)
def bucket(stack):
    store().ensure_bucket()


def test_a_second_campaign_of_a_model_is_told_who_runs_and_does_nothing(monkeypatch):
    monkeypatch.setenv("OPSD_LEASE_WAIT_S", "1")
    with one_campaign("taken"):
        with pytest.raises(BusyError, match=r"leases/campaign/taken is held by campaign taken, pid \d+ until"):
            iterate(recipe="tiny", name="taken")
        assert tracker().version_by_alias("taken", "champion") is None
        assert running_campaigns() == ["taken"]
    assert running_campaigns() == []


def test_a_second_study_of_a_name_is_told_who_runs_and_does_nothing(monkeypatch):
    monkeypatch.setenv("OPSD_LEASE_WAIT_S", "1")
    with one_campaign("compared"), pytest.raises(BusyError, match=r"leases/campaign/compared is held by campaign compared"):
        study(recipe="tiny", name="compared", arms=["base"])
    assert mlflow.MlflowClient().get_experiment_by_name("compared") is None


@pytest.fixture
def no_bucket(monkeypatch):
    """Services as they are, with a bucket that nobody has made yet."""
    monkeypatch.setenv("OPSD_STORE", f"s3://new-{uuid.uuid4().hex[:12]}")
    for cached in (context.settings, context.store):
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in (context.settings, context.store):
        cached.cache_clear()


@pytest.mark.parametrize("flow", [iterate, pytest.param(study, marks=pytest.mark.slow)], ids=["iterate", "study"])
def test_a_bucket_that_does_not_exist_is_made_before_the_lease_is_taken(no_bucket, flow):
    with pytest.raises(DataError, match="leave a split empty"):  # known when the data set is split
        flow(recipe="tiny", name="first", overrides={"data": {"size": 10}})
    assert [info.key for info in store().list("leases/")] == ["leases/campaign/first"]


def test_other_models_run_beside_it_and_the_champion_can_be_moved_meanwhile():
    with one_campaign("one"), one_campaign("two"), champion_moves("one") as move:
        assert running_campaigns() == ["one", "two"]
        move.check()


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "1e9"])
def test_a_waiting_time_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("OPSD_LEASE_WAIT_S", text)
    with pytest.raises(ConfigError, match="OPSD_LEASE_WAIT_S"):
        wait_seconds()

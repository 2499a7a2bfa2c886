"""pytest tests/infra/cli/test_schedules.py — campaigns that nobody starts: at a time, and when rows arrive, on real servers."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

from flows.watch_data import watch_data
from infra.cli.app import run as opsd
from opsd_core.config import resolve
from opsd_core.data import load_examples
from opsd_core.errors import DataError
from tasks.context import store, tracker

pytestmark = pytest.mark.timeout(900)

SETTINGS = {
    "iterations": 1,
    "rollout": {"num_prompts": 16},
    "optimizer": {"num_steps": 2, "batch_size": 8},
    "evaluation": {"num_items": 20},
}
SMALL = ["rollout.num_prompts=16", "optimizer.num_steps=2", "optimizer.batch_size=8", "evaluation.num_items=20"]


def upload(number):
    """The first rows of the tiny model's own task, as an object."""
    examples = load_examples(resolve("tiny").data).train[:number]
    rows = "".join(json.dumps({"question": example.question, "answer": example.answer}) + "\n" for example in examples)
    store().put("incoming/sums.jsonl", rows.encode())
    return store().uri("incoming/sums.jsonl")


def runs_of(name, state=None):
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[name])))
    return [run for run in found if state is None or run.state.name == state]


def campaigns_of(name):
    return [run for run in runs_of(name) if "iterate" in run.tags]


def waited(what, seconds=600):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found


def test_rows_that_arrive_start_one_campaign_and_only_then(worker, tiny_model):
    overrides = SETTINGS | {"data": {"source": upload(160), "grader": "exact", "validation_fraction": 0.2}}
    asked = {"recipe": "tiny", "name": "arrivals", "overrides": overrides | {"model": {"source": str(tiny_model)}}}

    assert "arrivals-seed0 is started" in watch_data(**asked)
    (first,) = campaigns_of("arrivals")
    assert first.parameters["overrides"]["promotion"]["alpha_per"] == "model"
    assert "nothing new, arrivals-seed0 is of these data" in watch_data(**asked)
    waited(lambda: campaigns_of("arrivals")[0].state.is_final())  # it reads the rows that are there when it begins
    upload(180)
    assert "arrivals-seed0 is started" in watch_data(**asked) and "nothing new" in watch_data(**asked)
    assert len(campaigns_of("arrivals")) == 2
    waited(lambda: all(run.state.is_final() for run in campaigns_of("arrivals")))
    assert all(run.state.is_completed() for run in campaigns_of("arrivals"))
    ids = {entry.tags["opsd.campaign"] for entry in tracker().versions("arrivals") if "opsd.campaign" in entry.tags}
    assert len(ids) == 2, "the rows of the second upload are another campaign's"


def test_a_cron_line_is_a_schedule_with_the_settings_and_saying_it_again_changes_nothing(worker, tiny_model, capsys):
    soon = datetime.now(UTC) + timedelta(days=60)
    line = f"{soon.minute} {soon.hour} {soon.day} {soon.month} *"
    asked = ["schedule", "tiny", *SMALL, "name=nightly", f"model.source={tiny_model}", "--cron", line]

    def kept():
        with get_client(sync_client=True) as client:
            number = client.read_deployment_by_name("opsd/iterate").id
            return [entry for entry in client.read_deployment_schedules(number) if entry.slug == "opsd-nightly"]

    assert opsd(asked) == 0
    (before,) = kept()
    assert before.parameters["name"] == "nightly" and before.parameters["overrides"]["optimizer"]["num_steps"] == 2
    assert opsd(asked) == 0 and [entry.id for entry in kept()] == [before.id]
    assert opsd([*asked, "optimizer.num_steps=3"]) == 0
    (after,) = kept()
    assert after.parameters["overrides"]["optimizer"]["num_steps"] == 3 and after.id != before.id
    waited(lambda: [run for run in runs_of("nightly") if run.auto_scheduled])  # the server's scheduler does its part
    worker.up(worker=True)
    assert [entry.id for entry in kept()] == [after.id], "the deployments registered again keep their schedules"
    assert opsd(["schedule", "--off", "nightly"]) == 0 and not kept()
    assert "1 schedule(s) of nightly deleted" in capsys.readouterr().out


def test_an_address_that_leads_nowhere_is_refused_by_the_look(worker):
    absent = store().uri("incoming/absent.jsonl")
    with pytest.raises(DataError, match=r"data\.source=.*absent\.jsonl"):
        watch_data(recipe="tiny", name="nowhere", overrides={"data": {"source": absent}})


@pytest.mark.slow
def test_a_schedule_looks_by_itself(worker, tiny_model, capsys):
    source = upload(160)
    mine = [*SMALL, "name=looked", "iterations=1", f"data.source={source}", f"model.source={tiny_model}", "data.grader=exact"]
    assert opsd(["schedule", "tiny", *mine, "data.validation_fraction=0.2", "--new-data", "--every", "1"]) == 0
    assert capsys.readouterr().out.split() == ["looked", "new-data", "looks", "every", "1", "minutes"]
    waited(lambda: [run for run in campaigns_of("looked") if run.state.is_completed()])
    waited(lambda: [run for run in runs_of("looked", "Completed") if "watch_data" in run.tags][2:])
    assert len(campaigns_of("looked")) == 1, "nothing new, nothing started"
    assert opsd(["schedule", "--off", "looked"]) == 0 and "1 schedule(s) of looked deleted" in capsys.readouterr().out

"""pytest tests/infra/test_run_names.py — which campaign a run is said to work on, and submissions that no server could name."""

import asyncio
import uuid

import pytest
from prefect.client.schemas.objects import FlowRun

from infra.access.named_runs import _named
from infra.cli.server import campaign_of


def run_of(*tags, **parameters):
    return FlowRun(flow_id=uuid.uuid4(), name="brave-fox", tags=list(tags), parameters=parameters)


@pytest.mark.parametrize(
    ("run", "campaign"),
    [
        (run_of("iterate", name="mine"), "mine"),
        (run_of("auto-scheduled", "iterate", "nightly", recipe="tiny"), "tiny"),
        (run_of("nightly", "study", recipe="tiny"), "study-tiny"),
        (run_of("iterate", overrides={"name": "inner"}), "inner"),
        (run_of("iterate"), "demo"),
        (run_of("gc", "nightly"), "brave-fox"),
        (run_of(), "brave-fox"),
    ],
)
def test_tags_of_others_are_no_campaign(run, campaign):
    assert campaign_of(run) == campaign


@pytest.mark.parametrize("body", [b"[" * 100_000, b"{", b"\xff"])
def test_a_submission_that_cannot_be_read_is_left_to_prefect(body):
    assert asyncio.run(_named(str(uuid.uuid4()), body)) == body

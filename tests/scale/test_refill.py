"""pytest -m slow tests/scale/test_refill.py — rounds of asking again sampled by runners: the same bytes as in one process."""

import pytest

from flows.iterate import iterate
from opsd_core.config import deep_merge
from tests.scale.campaigns import KINDS, made, manifests, sessions, store_at, tiny
from tests.tasks.refilling.test_rounds import TOLD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ALL = (*KINDS, "refills")
ASKED_AGAIN = {"rollout": {"group_size": 2, "temperature": 2.0, "refill": {"share": 1.0, "group_size": 3, "max_rounds": 2}}}


def test_runners_ask_again_what_one_process_does(worker, tiny_model):
    with store_at("s3://opsd/refill-inline") as store:
        iterate(name="refill-inline", **deep_merge(tiny(str(tiny_model), 2), {"overrides": TOLD | ASKED_AGAIN}))
        inline = made(store, ALL)
    spread = tiny(str(tiny_model), 2, placement="workers", pools={"opsd": 2})
    with store_at("s3://opsd") as store:
        before = manifests(store, ALL)
        iterate(name="refill-spread", **deep_merge(spread, {"overrides": TOLD | ASKED_AGAIN}))
        assert made(store, ALL, before) == inline and sessions(store, "refill-spread") == []
    assert len(inline["refills"]) >= 2 and len(inline["rollouts"]) > 2

"""pytest -m slow tests/scale/test_ahead.py — completions sampled beside training: the same bytes as one after another."""

import pytest

from flows.iterate import iterate
from opsd_core.config import deep_merge
from tests.scale.campaigns import made, manifests, sessions, store_at, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SHARDS = 4
AHEAD = {"iterations": 3, "overrides": {"execution": {"overlap": True}}}


def test_beside_training_it_makes_what_it_makes_one_after_another(worker, tiny_model):
    here = deep_merge(tiny(str(tiny_model), SHARDS), AHEAD)
    with store_at("s3://opsd/ahead-inline") as store:
        iterate(name="ahead-inline", **here)
        inline = made(store)
    spread = deep_merge(tiny(str(tiny_model), SHARDS, placement="workers", pools={"opsd": 2}), AHEAD)
    with store_at("s3://opsd") as store:
        before = manifests(store)
        iterate(name="ahead-spread", **spread)
        assert made(store, known=before) == inline
        assert sessions(store, "ahead-spread") == []
    assert len(inline["rollouts"]) == 3 * SHARDS and len(inline["states"]) == 3

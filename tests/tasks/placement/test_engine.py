"""pytest tests/tasks/placement/test_engine.py — a shard has one identity, whatever the machine offers that computes it."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from opsd_core.config import resolve
from opsd_core.errors import ConfigError
from opsd_core.models.devices import Offer, offer_here, settled
from tasks.context import store
from tasks.identities import IDENTITIES
from tasks.refs import Campaign, GradedRef, Iteration, PolicyRef, PromptSet, Ref, Sampled, ShardRef
from tasks.stages.distil import distil_identity
from tasks.stages.evaluate import evaluation_identity
from tasks.stages.grade import probe_identity
from tasks.stages.placement.engine import engine_identity, settle_engine
from tasks.stages.rollout import rollout_identity
from tasks.stages.score import score_identity
from tasks.storage.artifacts import artifact_key, publish

ROOT = Path(__file__).resolve().parents[3]
PLAIN, NATIVE = Offer(cuda=False), Offer(cuda=False, bfloat16=("cpu",))
GPU, OLD_GPU = Offer(cuda=True, bfloat16=("cpu", "cuda")), Offer(cuda=True, bfloat16=("cpu",))
AUTO = {"model": {"dtype": "auto", "device": "auto"}}


@pytest.mark.parametrize(
    ("offers", "device", "dtype"),
    [
        ([PLAIN], "cpu", "float32"),
        ([NATIVE], "cpu", "bfloat16"),
        ([GPU], "cuda", "bfloat16"),
        ([OLD_GPU], "cuda", "float32"),
        ([GPU, NATIVE], "cpu", "bfloat16"),
        ([GPU, PLAIN], "cpu", "float32"),
        ([GPU, OLD_GPU], "cuda", "float32"),
    ],
)
def test_auto_is_the_best_that_every_machine_has(offers, device, dtype):
    model = settled(resolve("tiny", AUTO).model, {str(number): offer for number, offer in enumerate(offers)})
    assert (model.device, model.dtype) == (device, dtype)
    assert settled(model, {"later": GPU}) == model, "what is settled is not settled again"


def test_a_gpu_that_only_some_machines_have_is_refused_by_field_and_name():
    with pytest.raises(ConfigError, match=r"model\.device=cuda, but torch sees no CUDA device in work pool 'b'\. Set model\."):
        settled(resolve("tiny", {"model": {"device": "cuda"}}).model, {"in work pool 'a'": GPU, "in work pool 'b'": PLAIN})


def identities(model, folder):
    """Kind -> key of one iteration's work with this section `model`."""
    config = resolve("tiny").model_copy(update={"model": model})
    made = publish(store(), "models", {"test": "engine"}, folder, {})
    policy, nowhere = PolicyRef(uri=made.uri, digest=made.digest), Ref(uri="x/y/z")
    campaign = Campaign(id="c", config=config, record=nowhere, data=nowhere, initial=policy, champion=policy, run_id="")
    begun = Iteration(campaign=campaign, number=0, config=config, run_id="", champion=policy, policy=policy)
    prompts = PromptSet(uri="x/prompts/0/p", num_prompts=1, num_shards=1)
    shard = ShardRef(uri="x/rollouts/a/b", iteration=0, shard=0, digest="d", num_rollouts=1, num_tokens=1, seconds=0)
    graded = GradedRef(uri="x/grades/a/b", digest="g", num_kept=1, num_dropped=0, reasons={}, seconds=0)
    sampled = Sampled(prompts=prompts, shards=[shard], graded=graded)
    found = {
        "rollouts": rollout_identity(begun, prompts, 0),
        "targets": score_identity(begun, shard, graded),
        "grades": probe_identity(begun, graded),
        "states": distil_identity(begun, sampled),
        "evaluations": evaluation_identity(config, policy, []),
    }
    return {kind: artifact_key(kind, identity) for kind, identity in found.items()}


def test_machines_that_offer_different_things_compute_the_same_keys_once_the_start_has_settled(own_store, tiny_model):
    """A parent without bfloat16 and this process, which may have it, and the other way round: the parent's word counts."""
    for parent in (PLAIN, NATIVE):
        model = settled(resolve("tiny", AUTO).model, {"here": parent})
        there = identities(model, tiny_model)  # by what this machine offers, were it asked
        named = resolve("tiny", {"model": {"device": "cpu", "dtype": "bfloat16" if parent is NATIVE else "float32"}}).model
        assert there == identities(named, tiny_model)
    unsettled = identities(resolve("tiny", AUTO).model, tiny_model)
    here = settled(resolve("tiny", AUTO).model, {"here": offer_here()})
    assert unsettled == identities(here, tiny_model), "outside of a campaign auto is what this machine offers"
    other = settled(resolve("tiny", AUTO).model, {"here": PLAIN if "cpu" in offer_here().bfloat16 else NATIVE})
    differing = {kind for kind, key in identities(other, tiny_model).items() if key != unsettled[kind]}
    assert differing == {"rollouts", "grades", "states", "evaluations"}, "so that asking again elsewhere would do all anew"


def settle(config, offers):
    with disable_run_logger():
        return settle_engine.fn(config, offers)


def test_a_campaign_that_is_started_again_elsewhere_keeps_what_its_first_start_settled(own_store):
    """Also in another process, and when the execution settings change; other settings are another campaign."""
    config = resolve("tiny", AUTO | {"name": f"kept-{uuid.uuid4().hex[:6]}"})
    first = settle(config, {"here": PLAIN})
    assert (first.model.device, first.model.dtype) == ("cpu", "float32")
    later = config.model_copy(update={"execution": config.execution.model_copy(update={"num_shards": 7})})
    assert settle(later, {"here": GPU, "there": NATIVE}).model == first.model
    assert settle(config.model_copy(update={"seed": 5}), {"here": NATIVE}).model.dtype == "bfloat16"
    assert engine_identity(config).keys() <= IDENTITIES["engines"].keys()
    code = (
        "import sys\nfrom prefect.logging import disable_run_logger\nfrom opsd_core.config import CampaignConfig\n"
        "from opsd_core.models.devices import offer_here\nfrom tasks.stages.placement.engine import settle_engine\n"
        "config = CampaignConfig.model_validate_json(sys.argv[1])\n"
        "with disable_run_logger():\n"
        "    print('MODEL', settle_engine.fn(config, {'here': offer_here()}).model.model_dump_json())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, config.model_dump_json()], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("MODEL ")), done.stderr[-2000:])
    assert json.loads(line.removeprefix("MODEL ")) == first.model.model_dump(mode="json")


def test_a_campaign_that_began_on_a_gpu_says_so_where_there_is_none(own_store):
    config = resolve("tiny", AUTO | {"name": f"gpu-{uuid.uuid4().hex[:6]}"})
    assert settle(config, {"here": GPU}).model.device == "cuda"
    with pytest.raises(ConfigError, match=r"began with model\.device=cuda and model\.dtype=bfloat16 .* set model\.device=cpu"):
        settle(config, {"here": PLAIN})

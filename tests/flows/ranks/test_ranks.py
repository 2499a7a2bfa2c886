"""pytest tests/flows/ranks/test_ranks.py — a campaign that distils in two processes makes what one process makes."""

import json

import pytest
from safetensors.torch import load_file

from flows.iterate import iterate
from tasks.context import local, store, tracker
from tasks.storage.artifacts import describe

pytestmark = pytest.mark.timeout(900)

_SMALL = {"iterations": 1, "evaluation": {"num_items": 20}}
_EPS = 1e-7


def candidate(name, eps, **execution):
    """Folder of the trainer state, and what is stored about it. The optimiser's epsilon tells the two states apart."""
    settings = {"optimizer": {"num_steps": 6, "batch_size": 8, "eps": eps}, "execution": {"checkpoint_every": 4} | execution}
    iterate(recipe="tiny", name=name, num_prompts=48, overrides=_SMALL | settings)
    uri = tracker().aliased(name, "candidate").tags["opsd.state_uri"]
    return local(uri), describe(store(), uri).summary


def steps_of(state):
    return [json.loads(line) for line in (state / "steps.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_make_the_candidate_that_one_makes(stack):
    one, alone = candidate("alone", _EPS)
    two, together = candidate("together", _EPS * (1 + 1e-9), ranks=2, parallel="fsdp", microbatch_tokens=128)
    assert one != two and together["computed"]["ranks"] == 2 and together["computed"]["parallel"] == "fsdp"
    assert together["computed"]["peak_bytes_of_a_rank"] > 1e7 and "ranks" not in alone["computed"]
    for wanted, found in zip(steps_of(one), steps_of(two), strict=True):
        assert wanted.keys() == found.keys() and wanted["step"] == found["step"]
        assert found["distillation/loss"] == pytest.approx(wanted["distillation/loss"], rel=1e-5, abs=1e-6)
    first, second = (load_file(state / "trainable.safetensors") for state in (one, two))
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) <= 1e-5
    probes = [json.loads((state / "probes.json").read_text()) for state in (one, two)]
    assert probes[0] == pytest.approx(probes[1], rel=1e-3, abs=1e-4)
    assert any(info.key.startswith("checkpoints/") for info in store().list("checkpoints/"))

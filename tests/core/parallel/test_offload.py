"""pytest tests/core/parallel/test_offload.py — what lives in the host's memory is trained as what does not, bit for bit."""

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from opsd_core.config import ModelConfig, resolve
from opsd_core.errors import ConfigError
from opsd_core.models import memory
from opsd_core.models.memory import Shape, plan_training, wants_offload
from opsd_core.training.parallel.launcher import check_ranks
from opsd_core.training.parallel.together import FullySharded
from opsd_core.training.ranks import Ranks
from tests.core.parallel.cases import CASES, run
from tests.core.small import small_policy


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A process group of this process."""
    made = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{made}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def end_of(case, ranks, folder):
    """The tensors of the trainer's state after all steps, and the losses."""
    save, log = run(case, ranks)
    save(folder)
    found = {f"{path.stem}/{name}": value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
    return found, [metrics["distillation/loss"] for metrics in log]


@pytest.mark.parametrize("name", ["full-tied", "ema", "adapters-ema"])
def test_offloading_changes_no_bit(alone, name, tmp_path):
    near, losses = end_of(CASES[name], FullySharded(), tmp_path / "near")
    far, others = end_of(CASES[name], FullySharded(offload=True), tmp_path / "far")
    assert losses == others and near.keys() == far.keys()
    assert all(torch.equal(near[key], far[key]) for key in near)
    one, _ = end_of(CASES[name], Ranks(), tmp_path / "one")
    trained = [key for key in one if key.startswith("trainable/")]
    assert max(float((one[key] - far[key]).abs().max()) for key in trained) <= 1e-5


def test_a_state_that_was_offloaded_goes_on(alone, tmp_path):
    case = CASES["ema"]
    kept = []
    _, log = run(case, FullySharded(offload=True), lambda done, save: kept.append(save(tmp_path / str(done))))
    for ranks in (Ranks(), FullySharded(offload=True)):
        _, rest = run(case, ranks, None, tmp_path / "8")
        for wanted, found in zip(log[8:], rest, strict=True):
            assert found["distillation/loss"] == pytest.approx(wanted["distillation/loss"], rel=1e-5, abs=1e-6)


def test_it_is_refused_where_there_is_nothing_to_offload_from():
    with pytest.raises(ConfigError, match=r"execution\.offload=true .* model\.device=cpu"):
        check_ranks(1, ModelConfig(source="x", device="cpu"), offload=True)
    with pytest.raises(ConfigError, match=r"execution\.offload=true needs weights in parts.*execution\.parallel=ddp"):
        resolve("tiny", {"execution": {"offload": True, "parallel": "ddp", "ranks": 2}})


def test_the_estimate_asks_for_it_on_a_gpu_that_has_no_room_otherwise(monkeypatch):
    policy, config = small_policy(), resolve("tiny", {"model": {"device": "cpu"}})
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1)
    assert not wants_offload(policy, config), "a CPU has nowhere to take it"
    monkeypatch.setattr(memory, "resolve_device", lambda _: torch.device("cuda"))
    assert wants_offload(policy, config)
    for execution in ({"offload": False}, {"parallel": "ddp"}):
        assert not wants_offload(policy, resolve("tiny", {"execution": execution}))
    monkeypatch.setattr(memory, "free_bytes", lambda _: 2**50)
    assert not wants_offload(policy, config) and wants_offload(policy, resolve("tiny", {"execution": {"offload": True}}))


def test_the_plan_holds_nothing_and_moves_layers():
    shape = Shape.of(small_policy(hidden_size=64, intermediate_size=256, num_hidden_layers=24))
    config = resolve("tiny", {"model": {"dtype": "float32", "device": "cpu"}})
    near, far = (plan_training(shape, config, tokens=64, parallel=how) for how in ("ddp", "offload"))
    assert (far.student, far.learning, far.teachers) == (0, 0, 0) and near.moving == 0
    assert 0 < far.moving < 4 * (shape.parameters + shape.ends) and far.tensors < near.tensors / 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_holds_less_and_learns_the_same():
    from benchmarks.gpu.sharded import trained

    near, far = (trained("cuda", where) for where in ("near", "far"))
    assert far.peak < near.peak / 2
    assert far.losses == pytest.approx(near.losses, rel=1e-4)

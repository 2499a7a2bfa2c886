"""pytest tests/core/test_attention.py — attention in float32 on a CPU: torch's own result, closer than in bfloat16."""

import pytest
import torch
from torch import Tensor

from opsd_core.attention import NAME, use_float32_attention
from opsd_core.config import ModelConfig
from opsd_core.models import load_policy, save_policy
from tests.core.small import small_policy

IDS = torch.arange(2, 38).view(3, 12)
MASK = torch.ones_like(IDS).index_put_((torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])), torch.tensor(0))


def hidden(dtype: torch.dtype, *, wide: bool, mask: Tensor | None) -> Tensor:
    model = small_policy(scale=2.0).model.to(dtype)
    if wide:
        use_float32_attention(model)
        assert model.config._attn_implementation == NAME
    return model.model(input_ids=IDS, attention_mask=mask).last_hidden_state[:, 2:].double()


@pytest.mark.parametrize("mask", [None, MASK])
def test_float32_models_give_the_same_bits_and_bfloat16_ones_come_closer_to_float64(mask):
    assert torch.equal(hidden(torch.float32, wide=True, mask=mask), hidden(torch.float32, wide=False, mask=mask))
    exact = hidden(torch.float64, wide=False, mask=mask)
    errors = [(hidden(torch.bfloat16, wide=wide, mask=mask) - exact).abs().mean() for wide in (True, False)]
    assert errors[0] < errors[1]


def test_gradients_within_autocast_come_closer_to_float64():
    def gradients(dtype: torch.dtype, *, wide: bool) -> Tensor:
        model = small_policy(scale=2.0).model.to(dtype)
        if wide:
            use_float32_attention(model)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
            out = model.model(input_ids=IDS).last_hidden_state
        out.float().square().sum().backward()
        return torch.cat([p.grad.flatten().double() for p in model.model.layers[0].self_attn.parameters()])

    exact = gradients(torch.float64, wide=False)
    errors = [(gradients(torch.float32, wide=wide) - exact).norm() for wide in (True, False)]
    assert errors[0] < errors[1] < 0.2 * exact.norm()


def test_loaded_models_use_it_on_a_cpu_and_stored_ones_do_not_name_it(tmp_path):
    save_policy(small_policy(), tmp_path / "a")
    loaded = load_policy(tmp_path / "a", ModelConfig(source="a", device="cpu"))
    assert loaded.model.config._attn_implementation == NAME
    save_policy(loaded, tmp_path / "b")
    assert NAME not in (tmp_path / "b" / "config.json").read_text()

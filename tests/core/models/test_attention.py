"""pytest tests/core/models/test_attention.py — CPU attention: torch's own result, closer than in bfloat16; packed weights."""

import pytest
import torch
from torch import Tensor

from opsd_core.acceptance.families import tiny_policy
from opsd_core.config import ModelConfig
from opsd_core.models.attention import NAME, _roomy, cpu_attention, modeling_sources, use_cpu_attention
from opsd_core.models.packing import PackedLinear, packed
from opsd_core.models.policy import load_policy, save_policy
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling
from tests.core.small import small_policy

IDS = torch.arange(2, 38).view(3, 12)
MASK = torch.ones_like(IDS).index_put_((torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])), torch.tensor(0))


def hidden(dtype: torch.dtype, *, wide: bool, mask: Tensor | None) -> Tensor:
    model = small_policy(scale=2.0).model.to(dtype)
    if wide:
        use_cpu_attention(model)
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
            use_cpu_attention(model)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
            out = model.model(input_ids=IDS).last_hidden_state
        out.float().square().sum().backward()
        return torch.cat([p.grad.flatten().double() for p in model.model.layers[0].self_attn.parameters()])

    exact = gradients(torch.float64, wide=False)
    errors = [(gradients(torch.float32, wide=wide) - exact).norm() for wide in (True, False)]
    assert errors[0] < errors[1] < 0.2 * exact.norm()


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_a_decoding_step_reads_a_bfloat16_cache_as_it_is(kind):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, heads, n, 16, generator=generator).bfloat16() for heads, n in ((6, 1), (2, 9), (2, 9)))
    hidden_B11P = torch.zeros(3, 1, 1, 9, dtype=torch.bool)
    hidden_B11P[0, ..., :2] = hidden_B11P[2, ..., 8] = True
    bias = torch.zeros(3, 1, 1, 9).masked_fill(hidden_B11P, -torch.inf)
    mask = {"none": None, "bool": ~hidden_B11P, "float": bias.bfloat16()}[kind]
    found, _ = cpu_attention(torch.nn.Module(), query, key, value, mask, scaling=0.25)
    scores = torch.einsum("bagd,bapd->bagp", query.double().view(3, 2, 3, 16), key.double()) / 4
    scores = scores if kind == "none" else scores + bias.double()
    exact = torch.einsum("bagp,bapd->bagd", scores.softmax(-1), value.double()).reshape(3, 1, 6, 16)
    assert found.dtype == torch.bfloat16 and found.shape == exact.shape
    torch.testing.assert_close(found.double(), exact, atol=0.03, rtol=0)


def test_packed_weights_give_the_same_bits():
    policy = small_policy()
    policy.model.bfloat16()
    plain = policy.model(input_ids=IDS, attention_mask=MASK).logits
    assert packed(policy) is policy
    layers = [type(module) for module in policy.model.modules() if hasattr(module, "out_features")]
    if PackedLinear in layers:
        assert layers.count(torch.nn.Linear) == 1, "the head alone is read by the objective"
    with torch.inference_mode():
        assert torch.equal(policy.model(input_ids=IDS, attention_mask=MASK).logits, plain)
    assert not any(isinstance(module, PackedLinear) for module in packed(small_policy()).model.modules())  # float32


def test_loaded_models_use_it_on_a_cpu_and_stored_ones_do_not_name_it(tmp_path):
    save_policy(small_policy(), tmp_path / "a")
    loaded = load_policy(tmp_path / "a", ModelConfig(source="a", device="cpu"))
    assert loaded.model.config._attn_implementation == NAME
    save_policy(loaded, tmp_path / "b")
    assert NAME not in (tmp_path / "b" / "config.json").read_text()


def test_a_bfloat16_step_reads_few_lengths_of_a_roomy_cache_and_gives_the_same_bits():
    """A product of every new length would cost a kernel that stays."""
    generator = torch.Generator().manual_seed(0)
    room = [torch.randn(3, 2, 256, 16, generator=generator).bfloat16() for _ in range(2)]
    query = torch.randn(3, 6, 1, 16, generator=generator).bfloat16()
    for length in (1, 63, 64, 65, 130, 255, 256):
        views = [states[:, :, :length] for states in room]
        assert all(_roomy(view) == -(-length // 64) * 64 for view in views)
        mask = torch.ones(3, 1, 1, length, dtype=torch.bool)
        mask[0, ..., : length // 3] = False
        exact = [view.clone() for view in views]
        assert all(_roomy(copy) == length for copy in exact), "no memory behind its last position"
        found, wanted = (
            cpu_attention(torch.nn.Module(), query, *pair, mask, scaling=0.25)[0] for pair in (views, exact)
        )
        assert torch.equal(found, wanted)


def test_values_may_be_narrower_than_keys():
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 4, n, 12, generator=generator).bfloat16() for n in (1, 9))
    value = torch.randn(2, 4, 9, 8, generator=generator).bfloat16()
    found, _ = cpu_attention(torch.nn.Module(), query, key, value, None, scaling=0.3)
    scores = torch.einsum("bhqd,bhpd->bhqp", query.double(), key.double()) * 0.3
    exact = torch.einsum("bhqp,bhpe->bqhe", scores.softmax(-1), value.double())
    torch.testing.assert_close(found.double(), exact, atol=0.03, rtol=0)


def test_a_model_that_asks_for_the_attention_by_name_keeps_torchs():
    """Sparse attention masks what it has not chosen only under names that it knows."""
    assert tiny_policy("deepseek_v32").model.config._attn_implementation == "sdpa"
    assert tiny_policy("llama").model.config._attn_implementation == NAME


def test_a_layer_whose_weight_the_models_code_reads_itself_is_not_packed():
    policy = tiny_policy("mamba", torch.bfloat16)
    generate(packed(policy), [[5, 6, 7], [8, 9]], [0, 1], Sampling(max_completion_length=3, record_top_k=2), 2)
    code = "".join(modeling_sources(policy.model))
    for name, module in policy.model.named_modules():
        if isinstance(module, PackedLinear):
            assert f"self.{name.rpartition('.')[2]}.weight" not in code

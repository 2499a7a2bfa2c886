"""pytest tests/core/rollout/test_kv_cache.py — caches prefilled in groups, joined, and grown without a copy."""

import torch
from transformers import DynamicCache, Qwen2Config

from opsd_core.rollout.generation import generate
from opsd_core.rollout.kv_cache import can_join, join, like_lengths
from opsd_core.rollout.sampling import Sampling
from tests.core.small import small_policy


def filled(rows: int, length: int, seed: int, num_layers: int = 2) -> DynamicCache:
    draw = torch.Generator().manual_seed(seed)
    cache = DynamicCache()
    for index in range(num_layers):
        states = torch.randn(2, rows, 3, length, 4, generator=draw)
        cache.update(states[0], states[1], index)
    return cache


def test_joined_parts_are_padded_on_the_left_and_keep_their_values():
    parts = [filled(2, 3, seed=0), filled(1, 5, seed=1)]
    wanted = [[(layer.keys.clone(), layer.values.clone()) for layer in part.layers] for part in parts]
    whole = join(parts, room=4)
    for index, layer in enumerate(whole.layers):
        assert layer.keys.shape == layer.values.shape == (3, 3, 5, 4)
        assert torch.equal(layer.keys[:2, :, 2:], wanted[0][index][0])
        assert torch.equal(layer.values[2:], wanted[1][index][1])
        assert not layer.keys[:2, :, :2].any()


def test_steps_append_like_a_concatenation_within_the_room_and_beyond_it():
    plain, roomy = filled(2, 3, seed=2, num_layers=1), join([filled(2, 3, seed=2, num_layers=1)], room=2)
    for step in range(5):
        states = torch.randn(2, 2, 3, 1, 4, generator=torch.Generator().manual_seed(step))
        before = roomy.layers[0].keys.data_ptr()
        keys, values = roomy.update(states[0], states[1], 0)
        wanted_keys, wanted_values = plain.update(states[0], states[1], 0)
        assert torch.equal(keys, wanted_keys) and torch.equal(values, wanted_values)
        assert (keys.data_ptr() == before) == (step not in (2, 4)), "a copy only where the room is used up"
    for cache in (plain, roomy):
        cache.batch_select_indices(torch.tensor([1]))
    assert torch.equal(roomy.layers[0].keys, plain.layers[0].keys)
    assert roomy.get_seq_length() == plain.get_seq_length() == 8


def test_a_sliding_window_is_not_joined():
    assert can_join(filled(1, 2, seed=0))
    config = Qwen2Config(num_hidden_layers=2, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    assert not can_join(DynamicCache(config=config))


def test_groups_are_of_like_length_and_large_enough():
    assert like_lengths([10] * 20) == [slice(0, 20)]
    assert like_lengths([10] * 20 + [100] * 3) == [slice(0, 20), slice(20, 23)]
    assert like_lengths([1, 50, 60]) == [slice(0, 3)], "too few tokens for a pass of their own"
    lengths = sorted(int(n) for n in torch.randint(5, 400, (300,), generator=torch.Generator().manual_seed(0)))
    groups = like_lengths(lengths)
    assert [n for group in groups for n in lengths[group]] == lengths
    padded = sum(lengths[group][-1] * len(lengths[group]) for group in groups)
    assert padded <= 1.15 * sum(lengths) < 0.7 * lengths[-1] * len(lengths)


def test_a_completion_is_the_same_alone_and_among_prompts_of_other_lengths():
    policy = small_policy()
    prompts = [[5, 6, 7, 8, *([9 + row] * length)] for row, length in enumerate([1, 2, 60, 61, 62, 63, 100])]
    sampling = Sampling(temperature=0.0, max_completion_length=12, record_top_k=4)
    seeds = list(range(len(prompts)))
    together = generate(policy, prompts, seeds, sampling, batch_size=16)
    alone = [generate(policy, [p], [s], sampling, 1)[0] for p, s in zip(prompts, seeds, strict=True)]
    assert [c.ids_T for c in together] == [c.ids_T for c in alone]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs_T), torch.tensor(other.logprobs_T), rtol=0, atol=1e-4)


def test_positions_that_no_row_uses_any_more_are_left_out_of_a_join():
    first, second = filled(2, 6, seed=3, num_layers=1), filled(1, 3, seed=4, num_layers=1)
    wanted = [first.layers[0].keys.clone(), second.layers[0].keys.clone()]
    whole = join([first, second], room=1, unused=2).layers[0].keys
    assert whole.shape == (3, 3, 4, 4)
    assert torch.equal(whole[:2], wanted[0][:, :, 2:]) and torch.equal(whole[2:, :, 1:], wanted[1])


def shapes_of_calls(policy, monkeypatch) -> list[tuple[int, int]]:
    """(rows, tokens) of every forward pass from now on."""
    shapes, forward = [], type(policy.causal_lm).forward

    def noting(*arguments, **named):
        shapes.append(tuple(named["input_ids"].shape))
        return forward(*arguments, **named)

    monkeypatch.setattr(type(policy.causal_lm), "forward", noting)
    return shapes


def test_prompts_that_take_the_places_of_ended_ones_get_their_own_completions(monkeypatch):
    """More prompts than places, of many lengths, ended at many lengths: refilled again and again, each as if alone."""
    policy = small_policy()
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 40, (40,), generator=draw).tolist()
    prompts = [[5, 6, 7, 8, *torch.randint(9, 30, (length,), generator=draw).tolist()] for length in lengths]
    sampling, seeds = Sampling(max_completion_length=20, record_top_k=4), list(range(len(prompts)))
    shapes = shapes_of_calls(policy, monkeypatch)
    together = generate(policy, prompts, seeds, sampling, batch_size=8)
    assert max(rows for rows, _ in shapes) <= 8
    started, joined = 0, 0
    for rows, length in shapes:
        joined += length == 1 and 0 < started < rows
        started = started + rows if length > 1 else 0
    assert joined >= 3, "prompts start while other completions continue"
    alone = [generate(policy, [p], [s], sampling, 1)[0] for p, s in zip(prompts, seeds, strict=True)]
    assert len({len(c.ids_T) for c in alone}) > 3, "some end early"
    assert [c.ids_T for c in together] == [c.ids_T for c in alone]
    assert [c.finish_reason for c in together] == [c.finish_reason for c in alone]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs_T), torch.tensor(other.logprobs_T), rtol=0, atol=1e-4)


def test_a_prompt_of_which_several_completions_are_sampled_is_computed_once(monkeypatch):
    policy, sampling = small_policy(), Sampling(max_completion_length=6, record_top_k=4)
    prompts = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 10, 11, 12], [5, 6, 7, 8, 9]] * 3
    shapes = shapes_of_calls(policy, monkeypatch)
    together = generate(policy, prompts, list(range(9)), sampling, batch_size=16)
    assert [shape for shape in shapes if shape[1] > 1][1:] == [(2, 3)], "after the shared prefix, two different prompts"
    alone = [generate(policy, [p], [s], sampling, 1)[0] for s, p in enumerate(prompts)]
    assert [c.ids_T for c in together] == [c.ids_T for c in alone]
    assert len({tuple(c.ids_T) for c in together}) > 2, "each completion has draws of its own"


def test_what_many_prompts_begin_with_is_computed_once_for_them(monkeypatch):
    """Two families of prompts under one system message, and one prompt of its own."""
    policy, sampling = small_policy(), Sampling(max_completion_length=6, record_top_k=4)
    system, one, other = [5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15], [20, 21, 22, 23, 24]
    prompts = [[*system, *(one if n % 2 else other), 26 + n % 7, *[30] * (n % 3)] for n in range(40)] + [[*system, 40, 41]]
    shapes = shapes_of_calls(policy, monkeypatch)
    together = generate(policy, prompts, list(range(41)), sampling, batch_size=16)
    assert shapes[0] == (1, 5) and sorted(shapes[1:3]) == [(1, 5), (1, 6)]
    assert max(length for _, length in shapes[3:]) == 3, "what is left of a prompt after its family's beginning"
    alone = [generate(policy, [p], [s], sampling, 1)[0] for s, p in enumerate(prompts)]
    assert [c.ids_T for c in together] == [c.ids_T for c in alone]
    for mine, others in zip(together, alone, strict=True):
        torch.testing.assert_close(torch.tensor(mine.logprobs_T), torch.tensor(others.logprobs_T), rtol=0, atol=1e-4)

"""Rollouts: new tokens per second and peak memory, ours with the top 32 recorded beside transformers' own loop."""

from collections.abc import Callable

import torch

from benchmarks.gpu.model import random_policy, random_prompts
from benchmarks.gpu.parts import Rows
from benchmarks.gpu.sizes import Size, best_of
from opsd_core.models.packing import packed
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling

TOP_K = 32


def rows(size: Size) -> Rows:
    """A row for each side: the same prompts, as many new tokens at most, temperature 1."""
    policy = packed(random_policy(size, size.dtype))
    plain = random_policy(size, size.dtype)
    prompts = random_prompts(size, policy)
    sampling = Sampling(temperature=1.0, max_completion_length=size.length, record_top_k=TOP_K)

    def ours() -> int:
        made = generate(policy, prompts, list(range(len(prompts))), sampling, size.batch)
        return sum(len(completion.ids_T) for completion in made)

    @torch.inference_mode()
    def theirs() -> int:
        ids = torch.tensor(prompts, device=size.device)
        mask, pad = torch.ones_like(ids), plain.tokenizer.pad_token_id
        made = plain.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=size.length, do_sample=True, pad_token_id=pad, top_k=0
        )
        ends = torch.isin(made[:, size.length :], torch.tensor(plain.eos_ids, device=size.device)).long()
        return int(((ends.cumsum(1) - ends) == 0).sum())

    return [_timed(size, name, run) for name, run in {"opsd, top 32 recorded": ours, "transformers generate": theirs}.items()]


def _timed(size: Size, name: str, run: Callable[[], int]) -> dict[str, float | str]:
    best = best_of(size, run)
    if best is None:
        return {"loop": name, "tokens/s": "out of memory", "peak GiB": "", "busy": ""}
    speed, busy = round(best.result / best.seconds), "" if best.busy is None else f"{best.busy:.0%}"
    return {"loop": name, "tokens/s": speed, "peak GiB": round(best.peak / 2**30, 2), "busy": busy}

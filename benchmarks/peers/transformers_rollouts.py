"""Rollouts of transformers alone: `generate` over batches sorted by length, and its continuous batching; nothing recorded."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from benchmarks.peers.arm import Spec, inputs, main
from benchmarks.peers.clock import Cost, cost_of
from benchmarks.rollouts import plain_loop

Made = list[list[int]]


def plain(model: PreTrainedModel, prompts: Made, spec: Spec, ends: list[int]) -> Made:
    """`generate`, batch after batch."""
    return plain_loop(model, ends, spec["batch"], spec["length"], prompts, sample=True)


def continuous(model: PreTrainedModel, prompts: Made, spec: Spec, ends: list[int]) -> Made:
    """transformers' own scheduler with a paged cache."""
    options = GenerationConfig(max_new_tokens=spec["length"], do_sample=True, top_k=0, eos_token_id=ends, pad_token_id=ends[0])
    made = model.generate_batch(inputs=prompts, generation_config=options, progress_bar=False)
    return [list(one.generated_tokens) for one in made.values()]


LOOPS = {"generate": plain, "continuous": continuous}


def measured(spec: Spec) -> tuple[Cost, int, float]:
    """The cost of all prompts, and the tokens made; they record no log-probabilities, so the value is nan."""
    given = inputs(spec)
    prompts, ends = sorted(given["rollouts"], key=len), given["ends"]
    model = AutoModelForCausalLM.from_pretrained(Path(spec["folder"]) / "model", dtype=getattr(torch, spec["dtype"])).eval()
    torch.manual_seed(0)
    loop = LOOPS[spec["arm"]]
    with torch.no_grad():  # continuous batching does not work in inference mode
        plain(model, prompts[:2], spec | {"length": 2, "batch": 2}, ends)
        cost = cost_of(lambda: loop(model, prompts, spec, ends))
    if any(not row for row in cost.result):
        raise SystemExit(f"{spec['arm']} answered {sum(map(bool, cost.result))} of {len(prompts)} prompts")
    return cost, sum(map(len, cost.result)), float("nan")


if __name__ == "__main__":
    main(measured)

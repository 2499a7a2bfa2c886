"""Rollouts of opsd's own engine, the largest log-probabilities recorded at every position."""

from pathlib import Path

from benchmarks.peers.arm import Spec, inputs, main
from benchmarks.peers.clock import Cost, cost_of
from opsd_core.config import ModelConfig
from opsd_core.models.packing import packed
from opsd_core.models.policy import load_policy
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling


def measured(spec: Spec) -> tuple[Cost, int, float]:
    """The cost of all prompts, the tokens made, and the mean log-probability of what was sampled."""
    config = ModelConfig(source="smollm2", dtype=spec["dtype"], device="cpu")
    policy, prompts = packed(load_policy(Path(spec["folder"]) / "model", config)), inputs(spec)["rollouts"][: spec.get("rows")]
    sampling = Sampling(temperature=1.0, max_completion_length=spec["length"], record_top_k=spec["top_k"])
    seeds = list(range(len(prompts)))
    generate(policy, prompts[:2], seeds[:2], sampling, 2)
    cost = cost_of(lambda: generate(policy, prompts, seeds, sampling, 128))
    logprobs = [value for completion in cost.result for value in completion.logprobs_T]
    return cost, len(logprobs), sum(logprobs) / len(logprobs)


if __name__ == "__main__":
    main(measured)

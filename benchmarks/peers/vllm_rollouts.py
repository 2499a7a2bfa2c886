"""Rollouts of vLLM in its environment, with the largest log-probabilities at every position; its start is not counted."""

import os
from pathlib import Path

from benchmarks.peers.arm import Spec, inputs, main
from benchmarks.peers.clock import Cost, cost_of


def measured(spec: Spec) -> tuple[Cost, int, float]:
    """The cost of all prompts, the tokens made, and the mean log-probability of what was sampled."""
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(spec["threads"]),
        "KMP_BLOCKTIME": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    from vllm import LLM, SamplingParams

    given = inputs(spec)
    most = max(map(len, given["rollouts"])) + spec["length"]
    llm = LLM(
        model=str(Path(spec["folder"]) / "model"),
        dtype=spec["dtype"],
        enforce_eager=True,
        max_model_len=most,
        max_num_seqs=128,
        generation_config="vllm",
        disable_log_stats=True,
        enable_prefix_caching=True,
    )
    ends, top = given["ends"], spec["top_k"] or None
    sampling = [
        SamplingParams(temperature=1.0, max_tokens=spec["length"], stop_token_ids=ends, logprobs=top, detokenize=False)
        for _ in given["rollouts"]
    ]
    prompts = [{"prompt_token_ids": ids} for ids in given["rollouts"]]
    llm.generate(prompts[:2], sampling[:2], use_tqdm=False)
    cost = cost_of(lambda: llm.generate(prompts, sampling, use_tqdm=False))
    made = [one.outputs[0] for one in cost.result]
    tokens = sum(len(one.token_ids) for one in made)
    total = sum(row[token].logprob for one in made for token, row in zip(one.token_ids, one.logprobs or [], strict=False))
    return cost, tokens, total / tokens if top else float("nan")


if __name__ == "__main__":
    main(measured)

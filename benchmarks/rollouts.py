"""Rollout throughput against a plain padded `model.generate` loop over the same prompts in dataset order.

    python benchmarks/rollouts.py [--model FOLDER_OR_HUB_ID] [--items 96] [--length 32] [--repeats 2]

Both sides decode greedily, so they produce the same tokens (bfloat16 rounds differently in other batches); ours also records
the distribution at every position. The plain loop has transformers' own model and is measured with several batch sizes, of which
the fastest is its result. The prompts are of mixed lengths: three reasoning-gym tasks under one system message, in random order.
Without --model, SmolLM2-135M-Instruct is taken from its wheel. Prints a Markdown table; times are the best of the repeats.
"""

import argparse
import random
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from opsd_core.config import DataConfig, ModelConfig, PromptConfig, TeacherConfig
from opsd_core.data import load_examples
from opsd_core.models.packing import packed
from opsd_core.models.policy import Policy, load_gguf, load_policy, save_policy
from opsd_core.models.storage.smollm2 import smollm2_gguf
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling

TASKS = {"chain_sum": 0.4, "letter_counting": 0.3, "family_relationships": 0.3}
PLAIN_BATCHES, BATCH, TOP_K = (32, 64, 128), 128, 32


def load(source: str | None) -> tuple[Policy, dict[str, PreTrainedModel]]:
    """The policy to measure, as rollouts load it, and the same weights as transformers has them, by number format.

    The formats: the policy's own, and float32, which is what a script that asks for none gets from this GGUF.
    """
    config = ModelConfig(source=source or "smollm2")
    with TemporaryDirectory() as folder:
        if not source:
            save_policy(load_gguf(smollm2_gguf(Path(".opsd/cache/downloads"))), Path(folder))
        policy = packed(load_policy(source or folder, config))
        plain = {
            str(dtype).removeprefix("torch."): AutoModelForCausalLM.from_pretrained(source or folder, dtype=dtype)
            for dtype in dict.fromkeys((policy.causal_lm.dtype, torch.float32))
        }
        return policy, {name: model.to(policy.device).eval() for name, model in plain.items()}


def mixed_prompts(policy: Policy, items: int) -> list[list[int]]:
    """Prompts of three tasks in random order."""
    builder = PromptBuilder(policy.tokenizer, PromptConfig(), TeacherConfig())
    prompts = []
    for task, share in TASKS.items():
        count = round(items * share)
        data = load_examples(DataConfig(source=f"reasoning_gym:{task}", size=max(10, 2 * count)))
        prompts += [builder.student_ids(example) for example in data.train[:count]]
    random.Random(0).shuffle(prompts)
    return prompts


@torch.no_grad()
def plain_loop(
    model: PreTrainedModel, ends: Collection[int], batch: int, length: int, prompts: list[list[int]], *, sample: bool = False
) -> list[list[int]]:
    """What most scripts do: pad left, generate, greedily or at temperature 1, cut at the first end token."""
    outputs, options = [], {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=length, pad_token_id=0, **options)
        for row in made[:, width:].tolist():
            end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
            outputs.append(row[:end])
    return outputs


def ours(policy: Policy, length: int, prompts: list[list[int]]) -> list[list[int]]:
    """Sorted by length, shared prefix once, finished rows leave; top-k, tail and entropy recorded."""
    sampling = Sampling(temperature=0.0, max_completion_length=length, record_top_k=TOP_K)
    return [completion.ids_T for completion in generate(policy, prompts, [0] * len(prompts), sampling, BATCH)]


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--items", type=int, default=96)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    policy, models = load(options.model)
    own_dtype = next(iter(models))
    prompts = mixed_prompts(policy, options.items)
    runs = {
        f"plain, {name}, batches of {batch}": partial(plain_loop, model, policy.eos_ids, batch, options.length)
        for name, model in models.items()
        for batch in PLAIN_BATCHES
    }
    runs |= {f"opsd, batches of {BATCH}": partial(ours, policy, options.length)}
    results: dict[str, tuple[float, list[list[int]]]] = {}
    for _ in range(options.repeats):  # in turns, so that a busy moment meets all of them
        for name, run in runs.items():
            started = time.perf_counter()
            outputs = run(prompts)
            seconds = time.perf_counter() - started
            results[name] = min(results.get(name, (seconds, outputs)), (seconds, outputs), key=lambda result: result[0])
    speed = {name: sum(map(len, outputs)) / seconds for name, (seconds, outputs) in results.items()}
    *plain, own = runs
    best = max((name for name in plain if own_dtype in name), key=speed.__getitem__)
    made = results[own][1]
    cut = sum(len(row) == options.length and row[-1] not in policy.eos_ids for row in made)
    same = sum(x == y for x, y in zip(results[best][1], made, strict=True))
    lengths = sorted(map(len, prompts))
    of = f"{lengths[0]} to {lengths[-1]} tokens, at most {options.length} new ones ({cut} cut)"
    print(f"\n{len(prompts)} prompts of {of}, greedy,")
    print(
        f"{torch.get_num_threads()} threads, {policy.causal_lm.dtype}; {same} of {len(prompts)} completions identical\n"
    )
    print("| | seconds | completion tokens | tokens/s | ratio |\n|---|---|---|---|---|")
    for name, (seconds, outputs) in results.items():
        ratio = speed[name] / speed[best]
        print(f"| {name} | {seconds:.1f} | {sum(map(len, outputs))} | {speed[name]:.0f} | {ratio:.2f} |")
    if len(models) > 1:
        fastest = max(speed[name] for name in plain if "float32" in name)
        print(f"\n{speed[own] / fastest:.2f} times the fastest plain loop in float32.")


if __name__ == "__main__":
    main()

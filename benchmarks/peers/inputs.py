"""What every arm is given: a folder with the model, and the same prompts and completions as token ids."""

import json
import random
from pathlib import Path
from typing import Any

import torch

from benchmarks.rollouts import mixed_prompts
from opsd_core.config import DataConfig, PromptConfig, TeacherConfig
from opsd_core.data import load_examples
from opsd_core.models.policy import Policy, load_gguf, save_policy
from opsd_core.models.storage.smollm2 import smollm2_gguf
from opsd_core.prompts.builder import PromptBuilder

TASKS = ("chain_sum", "letter_counting", "family_relationships")


def write_inputs(folder: Path, downloads: Path, *, rows: int, tokens: int, items: int) -> None:
    """`model/` (SmolLM2-135M-Instruct, float32), and inputs.json: `rows` rows of a step, `items` prompts of rollouts."""
    policy = load_gguf(smollm2_gguf(downloads))
    save_policy(policy, folder / "model")
    prompts, shown = _step_prompts(policy, rows)
    found = {"prompts": prompts, "teacher_prompts": shown, "completions": _completions(policy, prompts, tokens)}
    found["rollouts"] = mixed_prompts(policy, items)
    found["ends"] = list(policy.eos_ids)
    (folder / "inputs.json").write_text(json.dumps(found))


def _step_prompts(policy: Policy, rows: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts of the student, and of the teacher, who sees the answer as well; of three tasks in random order."""
    builder = PromptBuilder(policy.tokenizer, PromptConfig(), TeacherConfig(context="reference"))
    sources = (DataConfig(source=f"reasoning_gym:{task}", size=max(40, 4 * rows)) for task in TASKS)
    examples = [example for source in sources for example in load_examples(source).train]
    chosen = random.Random(0).sample(examples, rows)
    return [builder.student_ids(e) for e in chosen], [builder.teacher_ids(e, {"privileged_context": e.answer}) for e in chosen]


@torch.inference_mode()
def _completions(policy: Policy, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """What the policy itself writes, of `tokens` tokens each."""
    if not prompts:
        return []
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    torch.manual_seed(0)
    options: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": True, "top_k": 0}
    model = policy.causal_lm.to(torch.bfloat16)
    return model.generate(input_ids=ids, attention_mask=mask, pad_token_id=0, **options)[:, width:].tolist()

"""What a tool is worth, and whether self-distillation teaches its use: the calculator, on the tiny and on a small real model.

python -m benchmarks.environments.calculator tiny       # a minute on one core: taught the format, then OPSD
python -m benchmarks.environments.calculator smollm2    # a look: how often SmolLM2-135M-Instruct calls, and what that changes
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import cross_entropy

import opsd_core as opsd
from opsd_core.config import CampaignConfig
from opsd_core.data.examples import make_example
from opsd_core.models.policy import Policy, load_gguf, load_policy, save_policy
from opsd_core.models.storage.smollm2 import smollm2_gguf
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome
from opsd_core.rollout.environments.calculator import calculator

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token if m['role'] == 'assistant' else '' }}{% endfor %}"
)
"""The tiny model's own, with the end token behind each of its turns."""
BASE = {
    "model": {"source": "smollm2"},
    "data": {"source": "reasoning_gym:products", "grader": "numeric"},
    "rollout": {"environment": "calculator", "max_turns": 3, "max_completion_length": 96},
    "evaluation": {"max_completion_length": 96, "num_samples": 0},
}
ROOT = Path(__file__).resolve().parent.parent.parent
TOLD = "c"
"""To the tiny model: use the calculator."""


def tiny_config(**sections: dict) -> CampaignConfig:
    """OPSD of a tool: the teacher is told to use the calculator, the student has to find out."""
    method = {
        "model": {"chat_template": TEMPLATE},
        "data": {"grader": "numeric"},
        "rollout": {"environment": "calculator", "max_turns": 2, "max_completion_length": 48, "num_prompts": 48},
        "evaluation": {"max_completion_length": 48, "num_samples": 0},
        "teacher": {"context": "instruction", "instruction": TOLD, "template": "{{ privileged_context }}|{{ student_prompt }}"},
        "optimizer": {"num_steps": 12, "batch_size": 24, "learning_rate": 3e-4},
    }
    return opsd.resolve("tiny", method, sections)


def sums(count: int, seed: int) -> list[Example]:
    """Sums of two numbers of two digits, which the tiny model cannot add."""
    draw = torch.Generator().manual_seed(seed)
    pairs = dict.fromkeys(tuple(pair) for pair in torch.randint(10, 100, (4 * count, 2), generator=draw).tolist())
    return [make_example(f"{a}+{b}=", str(a + b)) for a, b in list(pairs)[:count]]


def caller(folder: Path, start: Path, steps: int = 220, guesses: float = 0.7) -> Path:
    """The tiny model of `start`, taught the format: told so it calls and repeats the result, else it mostly guesses."""
    torch.manual_seed(0)
    policy = load_policy(start, tiny_config().model, torch.float32)
    model, optimizer = policy.causal_lm.train(), torch.optim.AdamW(policy.model.parameters(), lr=2e-3)
    draw = torch.Generator().manual_seed(1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 20, 2 * (1 - step / steps))
        rows = [_dialogue(policy, draw, guesses) for _ in range(32)]
        width = max(len(ids) for ids, _ in rows)
        pad = policy.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row, _ in rows])
        asked = [[t if own else -100 for t, own in zip(*row, strict=True)] for row in rows]
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in asked])
        loss = cross_entropy(model(input_ids=ids[:, :-1]).logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
    save_policy(Policy(model.eval(), policy.tokenizer), folder)
    return folder


def _dialogue(policy: Policy, draw: torch.Generator, guesses: float) -> tuple[list[int], list[bool]]:
    """Token ids of one conversation, and which of them the policy has to write."""
    a, b = torch.randint(10, 100, (2,), generator=draw).tolist()
    told, guess = torch.rand(2, generator=draw).tolist()
    call, end = f"<calc>{a}+{b}</calc>", [policy.tokenizer.eos_token_id]
    encode = partial(policy.tokenizer.encode, add_special_tokens=False)
    prompt = [policy.tokenizer.bos_token_id, *encode(f"{TOLD}|{a}+{b}=" if told < 0.5 else f"{a}+{b}=")]
    if told >= 0.5 and guess < guesses:
        guessed = str(int(torch.randint(20, 199, (1,), generator=draw)))
        parts = [(prompt, False), (encode(guessed) + end, True)]
    else:
        reply = calculator([{"role": "assistant", "content": call}]).message["content"]
        parts = [(prompt, False), (encode(call) + end, True), (encode(reply), False), (encode(str(a + b)) + end, True)]
    return [t for ids, _ in parts for t in ids], [own for ids, own in parts for _ in ids]


def learn(folder: Path, start: Path, config: CampaignConfig, train: Sequence[Example]) -> Policy:
    """One iteration of OPSD on conversations; the student."""
    initial, student = (load_policy(start, config.model) for _ in range(2))
    by_id, builder = {example.id: example for example in train}, opsd.PromptBuilder.of(initial.tokenizer, config)
    rollouts = opsd.sample_rollouts(initial, train, 0, config)
    graded = opsd.grade_rollouts(rollouts, by_id, config)
    teacher, seen = opsd.FixedTeacher(initial), opsd.teacher_prompts(builder, rollouts, {}, train).ids
    targets = opsd.score_rollouts(teacher, rollouts, seen, config)
    items = opsd.training_items(rollouts, graded.rows, targets, seen, by_id, student, config)
    opsd.distil(student, teacher, items, config, opsd.Schedule(0, config.optimizer.num_steps), seed=config.seed)
    return student


def measured(policy: Policy, items: Sequence[Example], config: CampaignConfig) -> list[ItemOutcome]:
    """Greedy answers, with the environment of `config`."""
    builder = opsd.PromptBuilder.of(policy.tokenizer, config)
    return opsd.evaluate_policy(policy, items, builder, opsd.get_grader("numeric"), config)


def line(name: str, outcomes: Sequence[ItemOutcome]) -> str:
    """A row of the table."""
    rows = [(o.correct, "<calc>" in o.text, o.truncated) for o in outcomes]
    right, calls, cut = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return f"| {name} | {right:.3f} | {calls:.3f} | {cut:.3f} | {len(rows)} |"


def alone(config: CampaignConfig) -> CampaignConfig:
    """The same, where nobody answers."""
    return config.model_copy(update={"rollout": config.rollout.model_copy(update={"environment": "none"})})


def tiny(folder: Path) -> None:
    """Before and after, with the calculator and without."""
    config, held_out = tiny_config(), sums(100, seed=9)
    start = caller(folder / "caller", opsd.build_tiny(folder / "tiny"))
    before = load_policy(start, config.model)
    after = learn(folder, start, config, sums(48, seed=2))
    print("| tiny | right | calls | cut | items |\n|---|---|---|---|---|")
    for name, policy, settings in (
        ("before", before, config), ("after", after, config), ("after, nobody answers", after, alone(config)),
    ):  # fmt: skip
        print(line(name, measured(policy, held_out, settings)))


EXPLAINED = (
    "You have a calculator. To use it, write only the expression between <calc> and </calc>, and the user tells you the result. "
    "Then repeat the result as: The answer is NUMBER."
)
PATTERN = (
    "What is 31 * 24?\n<calc>31 * 24</calc>\n\nWhat is 18 * 52?\n<calc>18 * 52</calc>\n\nWhat is 67 * 45?\n"
    "<calc>67 * 45</calc>\n\n{{ question }}\nWrite the next line, which begins with <calc>."
)


def chatml(*shown: tuple[int, int]) -> str:
    """ChatML behind conversations in which the calculator was used for these products."""
    text = "<|im_start|>system\nYou answer with the help of a calculator.<|im_end|>\n"
    for a, b in shown:
        turns = (f"What is {a} * {b}?", f"<calc>{a} * {b}</calc>", f"<result>{a * b}</result>", f"The answer is {a * b}.")
        for role, said in zip(("user", "assistant") * 2, turns, strict=True):
            text += f"<|im_start|>{role}\n{said}<|im_end|>\n"
    each = "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"
    begin = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    return text + "{% for m in messages %}" + each + "{% endfor %}" + begin


def smollm2(folder: Path) -> None:
    """Products of two numbers: asked plainly, with the calculator explained, as a pattern, behind conversations that used it."""
    save_policy(load_gguf(smollm2_gguf(ROOT / ".opsd/cache/downloads")), folder / "model")
    items, talked = products(40), {"model": {"chat_template": chatml((31, 24), (18, 52), (67, 45))}}
    print("| SmolLM2-135M-Instruct | right | calls | cut | items |\n|---|---|---|---|---|")
    rows = {
        "asked plainly, nobody answers": ({}, False),
        "the calculator explained in the system message": ({"prompts": {"system": EXPLAINED}}, True),
        "three calls shown in the question": ({"prompts": {"student": PATTERN}}, True),
        "three conversations before the question": (talked, True),
        "the same, nobody answers": (talked, False),
    }
    for name, (settings, answered) in rows.items():
        config = opsd.resolve("base", BASE, settings)
        policy = load_policy(folder / "model", config.model)
        outcomes = measured(policy, items, config if answered else alone(config))
        print(line(name, outcomes), repr(outcomes[0].text)[:120], flush=True)


def products(count: int) -> list[Example]:
    """Products of two numbers of two digits."""
    pairs = [(11 + 7 * n % 88, 12 + 37 * n % 87) for n in range(count)]
    return [make_example(f"What is {a} * {b}?", str(a * b)) for a, b in pairs]


def main() -> None:
    """The part that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["tiny", "smollm2"])
    with TemporaryDirectory() as folder:
        getattr(sys.modules[__name__], parser.parse_args().part)(Path(folder))


if __name__ == "__main__":
    main()

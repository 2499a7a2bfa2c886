"""Which model and task can show what self-distillation does to reasoning? Nothing is trained.

python -m benchmarks.claim.probe --data FOLDER --model FILE --tasks svamp_line gsm8k_lines --items 48

Greedy accuracy of the model alone, shown the answer and shown the solution; what the two add to the likelihood of the
reference solution; lengths and the share that ends by itself. Wanted: an accuracy neither near 0 nor near 1, and more of it
when the solution is shown.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import opsd_core as opsd
from benchmarks.claim.tasks import SPLITS, TASKS, write
from opsd_core.config import ModelConfig
from opsd_core.judgement.statistics import wilson
from opsd_core.models.policy import Policy, load_gguf, save_policy
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling
from opsd_core.selection.teacher_probe import probe_answers
from opsd_core.teacher.teachers import FixedTeacher


def measured(policy: Policy, name: str, file: Path, items: int) -> list[str]:
    """The table's row of a task."""
    task, cells = TASKS[name], [name]
    begin = {"data": {"source": str(file), "columns": {"solution": "solution"}} | SPLITS, "prompts": {"student": task.student}}
    config = opsd.resolve("base", {"model": {"source": "tiny"}}, begin)
    examples = opsd.load_examples(config.data).train[:items]
    grade = opsd.get_grader(config.data)
    sampling = Sampling(temperature=0.0, max_completion_length=task.length)
    students = opsd.PromptBuilder.of(policy.tokenizer, config).all_student_ids(examples)
    solutions = [policy.tokenizer.encode(example.solution, add_special_tokens=False) for example in examples]
    for shown in ("", "answer", "solution"):
        prompts = students
        if shown:
            seen = opsd.resolve("base", {"model": {"source": "tiny"}}, begin, _teacher(task.teacher, shown))
            builder = opsd.PromptBuilder.of(policy.tokenizer, seen)
            prompts = [builder.teacher_ids(example, {"privileged_context": getattr(example, shown)}) for example in examples]
            probed = probe_answers(FixedTeacher(policy), policy, prompts, students, solutions, 4096)
        began = time.process_time()
        found = generate(policy, prompts, list(range(len(prompts))), sampling, batch_size=32)
        spent, tokens = time.process_time() - began, sum(len(each.ids_T) for each in found)
        texts = [policy.tokenizer.decode(each.ids_T, skip_special_tokens=True) for each in found]
        right = sum(bool(grade(example, text).correct) for example, text in zip(examples, texts, strict=True))
        low, high = wilson(right, len(examples))
        ended = sum(each.finish_reason != "length" for each in found) / len(found)
        gain = f", {sum(each.gain for each in probed) / len(examples):+.2f} nats" if shown else ""
        cells.append(
            f"{right / len(examples):.2f} [{low:.2f}, {high:.2f}], {tokens / len(found):.0f} tokens, {ended:.2f} end"
            f"{gain}, {tokens / spent:.0f} tokens/CPU s"
        )
        print(f"\n--- {name}, shown {shown or 'nothing'}: {cells[-1]}\n{texts[0]}\n---\n{texts[1]}", flush=True)
    return cells


def loaded(source: str, scratch: Path) -> Policy:
    """The model of a GGUF file, a folder or a hub id, in the precision that campaigns sample with."""
    if source.endswith(".gguf"):
        save_policy(load_gguf(Path(source)), scratch)
        source = str(scratch)
    return opsd.load_policy(source, ModelConfig(source=source))


def _teacher(template: str, shown: str) -> dict:
    return {"teacher": {"template": template, "reference": shown}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with gsm8k/ and svamp/, as their authors publish them")
    parser.add_argument("--model", required=True, help="as model.source")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--items", type=int, default=48)
    asked = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        policy = loaded(asked.model, Path(folder) / "model")
        for name in asked.tasks:
            file = write(TASKS[name].data, asked.data, Path(folder))
            rows.append(measured(policy, name, file, asked.items))
    print("\n| task | alone | shown the answer | shown the solution |\n|---|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main()

"""Word problems whose answers are written with their reasoning: files that opsd reads, and the words of each side.

The data sets' own files are read (GSM8K `train.jsonl`, SVAMP `SVAMP.json`); nothing of them is kept here.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Task(NamedTuple):
    """One data set asked in one way."""

    data: str
    student: str
    """The user message, a template of `question`."""
    length: int
    """Most tokens of a completion."""
    teacher: str = (
        "{{ student_prompt }}\n\nHere is a reference solution:\n{{ privileged_context }}\n\n"
        "Write your own answer in the form that was asked for."
    )


_LINE = "{{ question }}\n\nAnswer in one line: the equation that solves the problem with its result, such as 12 - 5 = 7."
_LINES = (
    "{{ question }}\n\nWrite only the calculations, one a line, such as 12 - 5 = 7. The last line is: The answer is 7."
)
_STEPS = "{{ question }}\n\nThink step by step in a few short sentences. The last line is: The answer is 7."

SPLITS = {"validation_fraction": 0.1, "test_fraction": 0.3}
"""Of a study (svamp.yaml): what is probed stands in its training split."""

TASKS = {
    "svamp_line": Task("svamp", _LINE, 40),
    "svamp_steps": Task("svamp", _STEPS, 200),
    "gsm8k_lines": Task("gsm8k", _LINES, 128),
    "gsm8k_steps": Task("gsm8k", _STEPS, 256),
}


def svamp(file: Path) -> Iterator[dict[str, str]]:
    """Question, equation with its result, result. The problems whose equation gives another result are left out."""
    for row in json.loads(file.read_text()):
        body, question = row["Body"].strip(), row["Question"].strip()
        joint = " " if body.endswith((".", "?", "!")) else ". " if question[:1].isupper() and not body.startswith("If") else ", "
        equation, answer = re.sub(r"\b(\d+)\.0\b", r"\1", row["Equation"]).strip(), _number(row["Answer"])
        if abs(_value(equation) - float(answer)) < 1e-6:
            shown = equation[2:-2] if equation.startswith("( ") and equation.count("(") == 1 else equation
            yield {"question": body + joint + question, "solution": f"{shown} = {answer}", "answer": answer}


def gsm8k(file: Path) -> Iterator[dict[str, str]]:
    """Question, solution without the calculator's marks, result."""
    for line in file.read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        solution, answer = re.sub(r"<<[^>]*>>", "", row["answer"]).split("#### ")
        yield {"question": row["question"], "solution": solution.strip(), "answer": answer.strip().replace(",", "")}


def write(name: str, folder: Path, out: Path) -> Path:
    """The data set `name` below `folder` as a file for `data.source`, with the columns question, solution and answer."""
    rows = svamp(folder / "svamp/SVAMP.json") if name == "svamp" else gsm8k(folder / "gsm8k/train.jsonl")
    file = out / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _value(equation: str) -> float:
    """Of a binary equation in brackets, as SVAMP writes them: `( ( 4 - 2 ) + 3 )`."""
    stack: list[Any] = []
    for part in equation.split():
        if part != ")":
            stack.append(part if part in "(+-*/" else float(part))
            continue
        right, sign, left = stack.pop(), stack.pop(), stack.pop()
        stack.pop()
        made = {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else float("nan")}
        stack.append(made[sign])
    return stack[0]

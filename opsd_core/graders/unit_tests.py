"""`unit_tests`: a Python program that passes the tests which the item's answer holds, run alone (`code_worker`)."""

import ast
import json
import re
import secrets
import sys
import warnings
from functools import lru_cache
from pathlib import Path

from opsd_core.bounded.process import Child, EndedError
from opsd_core.graders.code_worker import PREPARES
from opsd_core.graders.thoughts import spoken_text
from opsd_core.graders.types import Grade
from opsd_core.records.examples import Example

CPU_SECONDS, WALL_SECONDS = 5, 15.0
MEMORY_BYTES = 1 << 30
_FENCE = re.compile(r"```[ \t]*(\w*)[^\n]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_WORKER = Path(__file__).with_name("code_worker.py")
_MOST_BYTES = 1 << 16


def refuses(example: Example) -> str:
    """Why this grader cannot judge the example, or ""."""
    try:
        with warnings.catch_warnings(action="ignore"):
            statements = ast.parse(example.answer).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"its answer is no Python ({type(error).__name__}: {error}), where the tests of the program belong"
    checks = any(not isinstance(statement, PREPARES) for statement in statements)
    return "" if checks else "its answer holds no assertion, where the tests of the program belong"


def program_of(text: str) -> str | None:
    """The last fenced block of Python, else the last one of no named language, else a text without fences; None without any."""
    text = spoken_text(text)
    blocks = _FENCE.findall(text)
    named = [code for language, code in blocks if language.lower() in ("python", "py", "python3")]
    plain = [code for language, code in blocks if not language]
    chosen = (named or plain or ([] if blocks else [text]))[-1:]
    return chosen[0] if chosen and chosen[0].strip() else None


def grade(example: Example, text: str) -> Grade:
    """Right when every check passes; the score is the share that does. What is extracted says how many, and the first failure.

    Programs that pass and fail alike have equal extracted answers, so they agree.
    """
    program = program_of(text)
    return Grade(False, None, 0.0) if program is None else _judged(program, example.answer)


@lru_cache(maxsize=4096)
def _judged(program: str, tests: str) -> Grade:
    """Kept, because contexts ask again for what was graded: a program is run once in a process, and has one outcome."""
    try:
        found = _run(program, tests)
    except EndedError as error:
        why = "it takes too long or too much memory, or ends the process" if error.status is not None else str(error)
        return Grade(False, f"(no test passed: {why})", 0.0, f"unit tests: {error}")
    passed, total = found["passed"], found["total"]
    if passed == total and not found["failure"]:
        return Grade(True, f"({total} of {total} tests passed)", 1.0)
    return Grade(False, f"({passed} of {total} tests passed; first failure: {found['failure']})", passed / total)


def _run(program: str, tests: str) -> dict:
    """What the worker found. EndedError when it ended before, or when the answer is not its own."""
    token = secrets.token_hex(16)
    request = {"program": program, "tests": tests, "seconds": CPU_SECONDS, "memory": MEMORY_BYTES, "token": token}
    child = Child([sys.executable, "-I", str(_WORKER)], {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}, _MOST_BYTES)
    try:
        child.start()
        answer = child.ask(json.dumps(request), WALL_SECONDS)
    finally:
        child.close()
    if not isinstance(answer, dict) or answer.get("token") != token:
        raise EndedError("the program answered in the tests' place")
    return answer

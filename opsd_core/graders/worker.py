"""The child process of `isolation`: JSON requests on stdin, JSON answers on stdout, one a line."""

import json
import logging
import os
import re
import resource
import sys
from functools import lru_cache
from typing import Any

_MEMORY_BYTES = 8 << 30
"""Address space of the child; a verifier that needs more is ended by MemoryError instead of the machine swapping."""


def verify_math(gold: str, answer: str) -> bool | None:
    """Whether two LaTeX formulas mean the same, gold first; None when one of them cannot be read.

    Numbers are compared to 30 digits (to a millionth of the larger where one is a decimal), everything else by
    math-verify. Its time limits are off because they need the main thread's signals; the parent ends this process.
    """
    from math_verify import verify

    gold_parsed, answer_parsed = _read_formula(gold), _read_formula(answer)
    if gold_parsed is None or answer_parsed is None:
        return None
    if _is_number(gold_parsed) and _is_number(answer_parsed):
        return _same_number(gold_parsed, answer_parsed)
    gold_parsed, answer_parsed = _read_formula(_exact(gold)), _read_formula(_exact(answer))  # no decimal is rounded
    return bool(verify(gold_parsed, answer_parsed, timeout_seconds=None, allow_set_relation_comp=True))


def _exact(formula: str) -> str:
    return re.sub(r"(\d*)\.(\d{1,200})", lambda m: f"\\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}", formula)


def _read_formula(formula: str) -> Any:
    from math_verify import LatexExtractionConfig, parse

    config = [LatexExtractionConfig(boxed_match_priority=-1)]
    parsed = parse(f"${formula}$", extraction_config=config, fallback_mode="no_fallback", parsing_timeout=None)
    return parsed[0] if parsed else None


def _is_number(value: Any) -> bool:
    from sympy import Expr

    return isinstance(value, Expr) and bool(value.is_number)


def _same_number(gold: Any, answer: Any) -> bool:
    from sympy import Abs, Float, N

    if gold == answer or (gold.is_Rational and answer.is_Rational) or not (gold.is_finite and answer.is_finite):
        return bool(gold == answer)
    difference, sizes = N(Abs(gold - answer), 60), (N(Abs(gold), 60), N(Abs(answer), 60))
    tolerance = Float("1e-6" if gold.has(Float) or answer.has(Float) else "1e-40")
    return any(bool(difference <= tolerance * size) for size in sizes)


def score_reasoning_gym(task: str, options: dict[str, Any], entry: dict[str, Any], answer: str) -> float:
    """The task's own score of `answer` in [0, 1]."""
    return float(_task(task, json.dumps(options, sort_keys=True)).score_answer(answer, entry))


@lru_cache(maxsize=16)
def _task(task: str, options: str) -> Any:
    from opsd_core.data.generated import create_task

    return create_task(task, json.loads(options))


def _load_math() -> None:
    verify_math("x", "y")


def _load_reasoning_gym() -> None:
    _task("chain_sum", "{}")


FUNCTIONS = {"verify_math": verify_math, "score_reasoning_gym": score_reasoning_gym}
LOADERS = {"verify_math": _load_math, "score_reasoning_gym": _load_reasoning_gym}


def main() -> None:
    """Answer requests until stdin ends, which is when the parent ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    logging.disable(logging.WARNING)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a verifier prints must not mix with the answers
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "load" in request:
                LOADERS[request["load"]]()
                answer = {"result": None}
            else:
                answer = {"result": FUNCTIONS[request["function"]](**request["arguments"])}
        except Exception as error:  # third-party parsers raise anything; the parent counts it and says so
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

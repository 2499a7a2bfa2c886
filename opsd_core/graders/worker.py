"""The child process of `isolation`: JSON requests on stdin, JSON answers on stdout, one a line."""

import json
import logging
import os
import resource
import sys
from functools import lru_cache
from typing import Any

_MEMORY_BYTES = 8 << 30
"""Address space of the child; a verifier that needs more is ended by MemoryError instead of the machine swapping."""


def verify_math(gold: str, answer: str, marked: bool) -> bool | None:
    """math-verify's judgement, gold first; None when it cannot read one of the two.

    Its time limits are off because they need the main thread's signals; the parent ends this process instead.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    gold_parsed = parse(f"${gold.strip('$')}$", extraction_config=targets, parsing_timeout=None)
    shown = f"$\\boxed{{{answer.strip('$')}}}$" if marked else answer
    answer_parsed = parse(shown, extraction_config=targets, parsing_timeout=None)
    if not gold_parsed or not answer_parsed:
        return None
    return bool(verify(gold_parsed, answer_parsed, timeout_seconds=None))


def score_reasoning_gym(task: str, options: dict[str, Any], entry: dict[str, Any], answer: str) -> float:
    """The task's own score of `answer` in [0, 1]."""
    return float(_task(task, json.dumps(options, sort_keys=True)).score_answer(answer, entry))


@lru_cache(maxsize=16)
def _task(task: str, options: str) -> Any:
    from opsd_core.data.generated import create_task

    return create_task(task, json.loads(options))


def _load_math() -> None:
    verify_math("1", "1", True)


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

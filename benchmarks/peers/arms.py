"""What is measured: parts, their cases, and the arms of a case; the first arm is opsd's own, the others are held against it."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

MODULE = "benchmarks.peers."


class Arm(NamedTuple):
    """One program."""

    name: str
    environment: str
    """own, trl or vllm."""
    module: str
    spec: Mapping[str, Any] = MappingProxyType({})
    value: bool = True
    """Whether its value must agree with opsd's."""


class Case(NamedTuple):
    """One thing to compute, and who computes it."""

    name: str
    spec: dict[str, Any]
    arms: tuple[Arm, ...]
    tolerance: float = 0.02
    """Largest relative difference between values that the numbers' format and sampling explain."""


OBJECTIVE = (
    Arm("opsd", "own", "own_objective", {"arm": "opsd"}),
    Arm("bare products", "own", "own_objective", {"arm": "products"}, value=False),
    Arm("whole logits", "own", "own_objective", {"arm": "whole"}),
    Arm("TRL 1.16 chunked", "trl", "trl_objective"),
)
STEP = (Arm("opsd", "own", "own_step"), Arm("TRL 1.16 SDFT", "trl", "trl_step"))
ROLLOUTS = (
    Arm("opsd, recording", "own", "own_rollouts"),
    *(
        Arm(f"generate, batches of {batch}", "own", "transformers_rollouts", {"arm": "generate", "batch": batch}, value=False)
        for batch in (32, 128)
    ),
    Arm("continuous batching", "own", "transformers_rollouts", {"arm": "continuous", "batch": 0}, value=False),
    Arm("vLLM, recording", "vllm", "vllm_rollouts"),
    Arm("vLLM, recording nothing", "vllm", "vllm_rollouts", {"top_k": 0}, value=False),
)
IMPORTS = (
    Arm("import flows.iterate", "own", "imports", {"arm": "flows"}, value=False),
    Arm("import prefect, torch", "own", "imports", {"arm": "libraries"}, value=False),
)
SIZES = {"quick": ((512, 49_152, 576),), "whole": ((512, 49_152, 576), (4096, 49_152, 576), (1024, 151_936, 1024))}
STEPS = {"quick": (4, 64), "whole": (16, 128)}
"""Completions of a step, tokens of each."""
PROMPTS = {"quick": (16, 24), "whole": (128, 64)}
"""Prompts of rollouts, most new tokens of each."""


def _objective(size: str) -> Iterator[Case]:
    for tokens, vocabulary, hidden in SIZES[size]:
        for dtype in ("bfloat16",) if size == "quick" else ("bfloat16", "float32"):
            spec = {"sizes": (tokens, vocabulary, hidden), "dtype": dtype}
            yield Case(f"{tokens:,} x {vocabulary:,} x {hidden:,}, {dtype}", spec, OBJECTIVE)


def _step(size: str) -> Iterator[Case]:
    rows, length = STEPS[size]
    for mode in ("full",) if size == "quick" else ("full", "top_k", "adapters"):
        yield Case(f"{rows} x {length} tokens, bfloat16, {mode}", {"mode": mode, "length": length, "dtype": "bfloat16"}, STEP)


def _rollouts(size: str) -> Iterator[Case]:
    prompts, length = PROMPTS[size]
    spec = {"length": length, "dtype": "bfloat16", "top_k": 20}
    yield Case(f"{prompts} mixed prompts x {length} tokens, bfloat16", spec, ROLLOUTS, tolerance=0.15)


def _imports(_: str) -> Iterator[Case]:
    yield Case("imports", {}, IMPORTS)


PARTS = {"objective": _objective, "step": _step, "rollouts": _rollouts, "imports": _imports}

"""What is measured, a part in a process of its own: rows of one table each.

A part is one entry here and one function: rows(size) -> dictionaries with the same keys. An arm that is not installed, or that
does not fit, is a row that says so.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from benchmarks.gpu.sizes import Size

Rows = list[dict[str, Any]]


class Part(NamedTuple):
    """One measurement."""

    module: str
    """Of benchmarks.gpu; it has the function `rows`."""
    title: str
    seconds: int
    """Its share of the time on a GPU; what takes longer is ended, and says so."""

    @property
    def rows(self) -> Callable[[Size], Rows]:
        return import_module(f"benchmarks.gpu.{self.module}").rows


PARTS = {
    "tests": Part("device_tests", "The tests marked gpu", 90),
    "objective": Part("objective", "The objective, forward and backward, a trained head", 120),
    "step": Part("step", "A distillation step at the full vocabulary, beside cross-entropy", 90),
    "rollouts": Part("rollouts", "Rollouts that record the top 32, beside plain generate", 90),
    "sharded": Part("sharded", "A distillation's steps under FSDP2 on one device, parts on it or in the host's memory", 120),
    "learning": Part("learning", "One campaign's iteration on the tiny model, on this device and on the CPU", 60),
}

"""Datasets: reading, cleaning, splitting."""

from opsd_core.data.addition import addition_example, addition_examples
from opsd_core.data.examples import example_id, make_example

__all__ = ["addition_example", "addition_examples", "example_id", "make_example"]

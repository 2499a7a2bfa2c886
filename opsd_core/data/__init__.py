"""Datasets: reading, cleaning, splitting."""

# ruff: noqa: F401  the imports are what type checkers and the import contracts read; the door hands the names out

from typing import TYPE_CHECKING

from opsd_core.doors import door

if TYPE_CHECKING:
    from opsd_core.data.addition import addition_example, addition_examples
    from opsd_core.data.clean import gsm8k_answer
    from opsd_core.data.examples import example_id, make_example
    from opsd_core.data.files import source_content
    from opsd_core.data.load import load_examples, load_items
    from opsd_core.data.records import DataReport, Fetch, LoadedData, UnusableRow, split_digest
    from opsd_core.data.remote import web_content
    from opsd_core.data.splits import same_question, split_examples, split_name

__getattr__, __dir__, __all__ = door(
    __name__,
    {
        "opsd_core.data.addition": ("addition_example", "addition_examples"),
        "opsd_core.data.clean": ("gsm8k_answer",),
        "opsd_core.data.examples": ("example_id", "make_example"),
        "opsd_core.data.files": ("source_content",),
        "opsd_core.data.load": ("load_examples", "load_items"),
        "opsd_core.data.records": ("DataReport", "Fetch", "LoadedData", "UnusableRow", "split_digest"),
        "opsd_core.data.remote": ("web_content",),
        "opsd_core.data.splits": ("same_question", "split_examples", "split_name"),
    },
)

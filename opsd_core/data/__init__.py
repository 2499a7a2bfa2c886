"""Datasets: reading, cleaning, splitting."""

from opsd_core.data.addition import addition_example, addition_examples
from opsd_core.data.clean import gsm8k_answer
from opsd_core.data.examples import example_id, make_example
from opsd_core.data.files import source_content
from opsd_core.data.load import load_examples, load_items
from opsd_core.data.records import DataReport, Fetch, LoadedData, UnusableRow, split_digest
from opsd_core.data.remote import web_content
from opsd_core.data.splits import same_question, split_examples, split_name

__all__ = [
    "DataReport",
    "Fetch",
    "LoadedData",
    "UnusableRow",
    "addition_example",
    "addition_examples",
    "example_id",
    "gsm8k_answer",
    "load_examples",
    "load_items",
    "make_example",
    "same_question",
    "source_content",
    "split_digest",
    "split_examples",
    "split_name",
    "web_content",
]

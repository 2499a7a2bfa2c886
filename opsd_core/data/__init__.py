"""Datasets: reading, cleaning, splitting."""

# ruff: noqa: F401  type checkers and the import contracts read these imports, the door hands them out

from typing import TYPE_CHECKING

from opsd_core.doors import door, for_type_checkers

if TYPE_CHECKING:
    from opsd_core.data.addition import addition_example, addition_examples
    from opsd_core.data.clean import gsm8k_answer
    from opsd_core.data.examples import example_id, make_example
    from opsd_core.data.files import source_content
    from opsd_core.data.load import load_examples, load_items
    from opsd_core.data.records import DataReport, Fetch, LoadedData, UnusableRow, split_digest
    from opsd_core.data.remote import web_content
    from opsd_core.data.splits import same_question, split_examples, split_name

__getattr__, __dir__, __all__ = door(__name__, for_type_checkers(__file__))

"""Functions and classes that a table of kinds names in words, so that the table itself needs none of their imports."""

from importlib import import_module
from typing import Any


def named(place: str) -> Any:
    """What stands at `place`, a dotted name below `opsd_core` such as "teacher.teachers.EmaTeacher".

    Raises ImportError or AttributeError for a place that does not exist: a mistake in a table, which its test finds.
    """
    module, _, name = place.rpartition(".")
    return getattr(import_module(f"opsd_core.{module}"), name)

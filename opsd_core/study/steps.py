"""How many steps an item takes, where that can be read off the item."""

import re

from opsd_core.records.examples import Example

_ADDITION = re.compile(r"(\d\d)\+(\d\d)=")
_CALCULATION = re.compile(r"<<[^>]*>>")
_NAMES = ("num_terms", "num_candidates", "num_words", "length")
"""What reasoning-gym tasks call the size of an item."""


def reasoning_steps(example: Example) -> int | None:
    """Columns and carries of a built-in sum, calculations marked <<...>> in a solution, or the task's own size; or None."""
    if found := _ADDITION.fullmatch(example.question):
        a, b = found.groups()
        low = int(a[1]) + int(b[1]) >= 10
        return 2 + low + (int(a[0]) + int(b[0]) + low >= 10)
    if calculations := _CALCULATION.findall(example.solution):
        return len(calculations)
    entry = example.metadata.get("entry", {}).get("metadata", {})
    # The item's own size before the range that the task draws it from, which has the same name.
    difficulty = entry.get("difficulty")
    sizes = (difficulty | entry) if isinstance(difficulty, dict) else entry
    return next((sizes[name] for name in _NAMES if isinstance(sizes.get(name), int)), None)

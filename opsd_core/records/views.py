"""A teacher's prompt: one list of token ids, or for a log-linear teacher one per context that its members see.

Several are kept as one list with BETWEEN between them, so that they are stored, spooled and compared as one prompt is.
"""

from collections.abc import Callable, Sequence

from opsd_core.errors import DataError

BETWEEN = -1
"""Stands between two views; no token has this id."""


def joined(views: Sequence[Sequence[int]]) -> list[int]:
    """One list of all views; of one view that view."""
    ids = list(views[0])
    for view in views[1:]:
        ids += [BETWEEN, *view]
    return ids


def views_of(ids: Sequence[int]) -> list[list[int]]:
    """The views of `joined`."""
    views: list[list[int]] = [[]]
    for token in ids:
        if token == BETWEEN:
            views.append([])
        else:
            views[-1].append(int(token))
    return views


def view(ids: Sequence[int], number: int) -> Sequence[int]:
    """One of the views. Where there is one only, as where a teacher is asked about the student's prompt, it is everybody's.

    DataError when there are fewer.
    """
    if BETWEEN not in ids:
        return ids
    views = views_of(ids)
    if number >= len(views):
        raise DataError(
            f"a teacher's prompt of {len(views)} contexts, of which a member reads number {number + 1}: it was made for another "
            "teacher. Make prompts and teacher of the same teacher.members."
        )
    return views[number]


def longest(ids: Sequence[int]) -> int:
    """Tokens of the longest view: what one forward pass has to hold."""
    return len(ids) if BETWEEN not in ids else max(map(len, views_of(ids)))


def views_in_words(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> str:
    """The text of a prompt; of several views one below the other."""
    return "\n\n(another member of the teacher reads:)\n\n".join(map(decode, views_of(ids)))

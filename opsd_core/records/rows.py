"""Sequences whose rows are made or read when they are asked for: numbers and slices as Python has them, in one place."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar, overload

Row = TypeVar("Row")


class Rows(Sequence[Row]):
    """A sequence of which a subclass says its length and one row; numbers count from the end where they are negative."""

    @abstractmethod
    def _row(self, number: int) -> Row:
        """The row of a number from 0 to len - 1."""

    def rows(self, numbers: Iterable[int]) -> Iterator[Row]:
        """The rows of these numbers, in their order."""
        return (self[number] for number in numbers)

    @overload
    def __getitem__(self, number: int) -> Row: ...
    @overload
    def __getitem__(self, number: slice) -> list[Row]: ...
    def __getitem__(self, number: int | slice) -> Row | list[Row]:
        if isinstance(number, slice):
            return list(self.rows(range(*number.indices(len(self)))))
        if not -len(self) <= number < len(self):
            raise IndexError(f"{number} of {len(self)}")
        return self._row(number % len(self))

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, range(len(self)))

"""Tables as text: .csv and .tsv, with the delimiter that the header shows. Fields are text as written.

A row with too many or too few fields, or with a quote that stands wrong within its line, is unusable. A quote that is not closed
within its row would take the rows behind it into one field, so the file is refused with the line of the quote.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from opsd_core.config import ColumnMapping
from opsd_core.data.formats.text import Line, lines, open_text, text_encoding
from opsd_core.data.places import heads
from opsd_core.data.records import MAX_LINE_CHARS, Asked, Opened, RawRow, require_columns
from opsd_core.errors import DataError

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_EXCEL_HINT = "sep="


@dataclass(frozen=True)
class _Header:
    names: list[str]
    delimiter: str
    num_lines: int
    """Physical lines up to and with the header."""


def read(path: Path, asked: Asked) -> Opened:
    """The table's rows. Raises DataError for a header without names or with one twice, and for a quote that is never closed."""
    encoding = text_encoding(path, asked)
    header = _header(path, encoding, asked)

    def rows(columns: ColumnMapping) -> Iterator[RawRow]:
        mark = _DELIMITERS.get(header.delimiter, header.delimiter)
        hint = f"Its header, line {header.num_lines}, is read with the delimiter {mark}. "
        require_columns(str(path), heads(columns.mapped, header.names), header.names, hint)
        return _rows(path, encoding, header, asked)

    return Opened(rows, dict.fromkeys(header.names, ""))


class _Physical:
    """Lines for csv.reader, with their numbers; a line that is no text is handed on without its content and remembered."""

    def __init__(self, path: Path, source: Iterator[Line]):
        self.path, self.source = path, source
        self.line, self.troubles = Line(0, ""), []

    def __iter__(self) -> Iterator[str]:
        for line in self.source:
            self.line = line
            if line.trouble.startswith("over"):
                raise DataError(
                    f"data.source={self.path}: line {line.number} has more than {MAX_LINE_CHARS:,} characters. Is it CSV?"
                )
            if line.trouble:
                self.troubles.append(line.trouble)
            yield line.text


def _header(path: Path, encoding: str, asked: Asked) -> _Header:
    with open_text(path, encoding) as text:
        source = (line for line in lines(text) if line.trouble or line.text.strip())
        first, delimiters = next(source, None), list(_DELIMITERS)
        if first is None:
            raise DataError(f"data.source={path} has no rows.")
        if path.suffixes and ".tsv" in [suffix.lower() for suffix in path.suffixes]:
            delimiters.insert(0, delimiters.pop(delimiters.index("\t")))
        said = first.text.strip().strip('"')
        if said.lower().startswith(_EXCEL_HINT) and len(said) <= len(_EXCEL_HINT) + 1 and not first.trouble:
            delimiters = [said[len(_EXCEL_HINT) :] or "\t"]
            first = next(source, Line(first.number + 1, ""))
        physical = _Physical(path, chain([first], source))
        usual = delimiters[0]
        delimiter = max(delimiters, key=lambda mark: _fitness(first.text, mark, asked.config.columns))
        if delimiter != usual:
            asked.notes.append(f"{path.name} is read with the delimiter {_DELIMITERS[delimiter]}")
        try:
            names = [name.strip() for name in next(csv.reader(physical, delimiter=delimiter, strict=True), [])]
        except csv.Error as error:
            raise DataError(f"data.source={path} is malformed in its header, line {first.number}: {error}.") from error
        if physical.troubles:
            raise DataError(f"data.source={path}: its header, line {first.number}, is {physical.troubles[0]}.")
        _check_header(path, names, physical.line.number)
        return _Header(names, delimiter, physical.line.number)


def _fitness(line: str, delimiter: str, columns: ColumnMapping) -> tuple[int, int]:
    """(mapped columns that the line has, its fields) when it is cut at `delimiter`."""
    try:
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return (0, 0)
    return (sum(name in names for name in heads(columns.mapped, names)), len(names))


def _check_header(path: Path, names: list[str], line: int) -> None:
    place = f"data.source={path}: its header, line {line},"
    if blank := [
        number for number, name in enumerate(names, 1) if not name and number > 1
    ]:  # pandas leaves its index unnamed
        which = ", ".join(map(str, blank[:10]))
        raise DataError(f"{place} has no name for column {which} of {len(names)}. Name it or delete it.")
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        shown = ", ".join(f"{name[:80]!r} (columns {', '.join(_places(names, name))})" for name in twice[:5])
        raise DataError(f"{place} has more than one column named {shown}. Rename or delete the others.")


def _places(names: list[str], name: str) -> list[str]:
    return [str(number) for number, other in enumerate(names, 1) if other == name][:10]


def _rows(path: Path, encoding: str, header: _Header, asked: Asked) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_LINE_CHARS)
    longest, num_long, index, after_wrong = (0, 0), 0, 0, False
    with open_text(path, encoding) as text:
        source = lines(text)
        for _ in range(header.num_lines):
            next(source)
        physical = _Physical(path, source)
        reader = csv.reader(physical, delimiter=header.delimiter, strict=True)
        while True:
            begin = physical.line.number + 1 if physical.line.number else header.num_lines + 1
            physical.troubles.clear()
            try:
                fields = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                fields = _wrong_quote(path, begin, physical.line, error)
            end = physical.line.number
            if isinstance(fields, list) and not fields:
                continue  # a blank line
            after_wrong = after_wrong or isinstance(fields, str)
            if after_wrong and isinstance(fields, list) and end == begin and _goes_on(fields, physical.line.text):
                fields = "a quote ends that did not begin, behind a row with a wrong one"
            yield _row(index, begin, fields, header.names, physical.troubles)
            index += 1
            if end > begin:
                num_long += 1
                longest = max(longest, (end - begin + 1, begin))
    if num_long:
        asked.notes.append(
            f"{path.name}: {num_long} rows go over several lines, the longest over {longest[0]}, from line {longest[1]}"
        )


def _wrong_quote(path: Path, begin: int, line: Line, error: csv.Error) -> str:
    """Why the row is unusable, when its damage ends with its line. DataError when it does not."""
    if line.number == begin and line.text.count('"') % 2 == 0 and "end of data" not in str(error):
        return f"a quote inside a quoted field, which is written as two: {error}"
    raise DataError(
        f"data.source={path}: the row at line {begin} has a quote that is never closed, or one too many; read on, it takes "
        f"the lines up to {line.number} into one field ({error}). Mend line {begin}: a quote inside a quoted field is "
        "written as two."
    )


def _goes_on(fields: list[str] | str, text: str) -> bool:
    """Whether a row ends a quote that it does not begin: after a wrong quote it may be the rest of that row."""
    return text.count('"') % 2 == 1 and any(field.endswith('"') for field in fields)


def _row(index: int, line: int, fields: list[str] | str, names: list[str], troubles: list[str]) -> RawRow:
    unreadable = ""
    if troubles:
        unreadable = troubles[0]
    elif isinstance(fields, str):
        unreadable = fields
    elif len(fields) != len(names):
        which = "more" if len(fields) > len(names) else "fewer"
        unreadable = f"{which} fields than the header has: {len(fields)} of {len(names)}"
    elif fields == names:
        unreadable = "the header again"
    if unreadable:
        return RawRow(index, unreadable=unreadable, line=line)
    values: dict[str, Any] = dict(zip(names, fields, strict=True))
    return RawRow(index, values, line=line)

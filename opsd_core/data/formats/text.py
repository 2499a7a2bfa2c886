"""Text of a file: its encoding is known, named by the user, or beyond doubt; otherwise the file or the row is refused.

    byte order mark                               UTF-8, UTF-16, UTF-32
    all bytes are UTF-8                           UTF-8
    some lines are UTF-8 beyond ASCII             UTF-8; lines that are not are unusable
    no line is UTF-8 beyond ASCII, and the text   cp1252, said in the report
      reads as a Western one
    anything else                                 refused with the byte's offset and line

Nothing is ever replaced by U+FFFD.
"""

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from opsd_core.data.formats.packed import open_bytes
from opsd_core.data.records import MAX_LINE_CHARS, Asked
from opsd_core.errors import DataError

_MARKS = {  # UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ESCAPED = re.compile("[\udc80-\udcff]")
_OTHER_SCRIPT = re.compile(rb"[\xc0-\xd6\xd8-\xf6\xf8-\xff]{3,}|[\x80-\xff]{4,}")
"""Runs that Western words do not have and Cyrillic, Greek, Hebrew, Chinese or Japanese ones do."""
_UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d\x00-\x08\x0e-\x1f]")
_FOREIGN = re.compile("[A-Za-zÀ-ÿ][¡£¥ª¯±³¹º¼¾¿¦©®¶‚„¢¤ƒ†‡ˆ‰‹›˜™“”][A-Za-zÀ-ÿ]|[a-zà-ÿ][ŠŽŸŒ]")
"""Signs inside words: letters of cp1250, ISO 8859-2, cp850 or Mac Roman, read as cp1252."""
_CHUNK = 1 << 20
MAX_BLANK_LINES = 1_000_000


@dataclass
class _Scan:
    """What one passage over the bytes found."""

    size: int = 0
    first_bad: int = -1
    """Offset of the first byte that is not UTF-8."""
    line: int = 0
    has_utf8: bool = False
    """Some line holds characters beyond ASCII and all of them are UTF-8."""
    western: bool = True
    """Every line with other bytes reads as cp1252."""
    example: str = ""


@dataclass(frozen=True)
class Line:
    """One physical line."""

    number: int
    """From 1."""
    text: str
    """With its end."""
    trouble: str = ""
    """Why it cannot be used."""


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[TextIO]:
    """The file as text with its line ends as they are. Bytes that are not UTF-8 come as lone surrogates; see `lines`.

    DataError for bytes that are not of the encoding, where it is another than UTF-8.
    """
    with open_bytes(path) as binary:
        errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
        with io.TextIOWrapper(binary, encoding=encoding, errors=errors, newline="") as text:
            try:
                yield text
            except UnicodeError as error:
                raise DataError(
                    f"data.source={path} is not {encoding} text: {getattr(error, 'reason', error)}, near byte {binary.tell():,}. "
                    "Store it as UTF-8, or name its encoding (data.encoding)."
                ) from error


def lines(text: TextIO) -> Iterator[Line]:
    """Physical lines; one that is too long, or holds bytes that are no text, has its trouble named.

    DataError for more blank lines one after the other than anybody writes: a packed file may hold thousands of millions.
    """
    number, num_blank = 0, 0
    while part := text.readline(MAX_LINE_CHARS):
        number += 1
        num_blank = 0 if part.strip() else num_blank + 1
        if num_blank > MAX_BLANK_LINES:
            raise DataError(
                f"data.source: the {num_blank:,} lines up to line {number:,} of a file are blank. It is damaged; write it again."
            )
        whole = part.endswith(("\n", "\r")) or len(part) < MAX_LINE_CHARS
        rest = part
        while not whole and rest and not rest.endswith(("\n", "\r")):
            rest = text.readline(MAX_LINE_CHARS)
        trouble = "" if whole else f"over {MAX_LINE_CHARS:,} characters"
        if not trouble and (bad := _ESCAPED.search(part)):
            trouble = f"not UTF-8: byte 0x{ord(bad.group()) - 0xDC00:02x} after {part[max(0, bad.start() - 20) : bad.start()]!r}"
        yield Line(number, part, trouble)


def text_encoding(path: Path, asked: Asked) -> str:
    """The encoding to read `path` with. DataError when nothing says which."""
    if asked.config.encoding != "auto":
        name = codecs.lookup(asked.config.encoding).name
        return "utf-8-sig" if name == "utf-8" else name
    with open_bytes(path) as file:
        start = file.read(4)
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            if encoding != "utf-8-sig":
                asked.notes.append(f"{path.name} is read as {encoding.upper()}")
            return encoding
    scan = _scan(path)
    if scan.first_bad < 0 or scan.has_utf8:
        return "utf-8-sig"
    if scan.western:
        asked.notes.append(
            f"{path.name} is not UTF-8 (byte {scan.first_bad:,}, line {scan.line}) and is read as cp1252, there "
            f"{scan.example!r}; if that is wrong, set data.encoding"
        )
        return "cp1252"
    raise DataError(
        f"data.source={path} is not UTF-8 (byte {scan.first_bad:,}, line {scan.line}) and does not read as cp1252 either. Store "
        "it as UTF-8, or name its encoding (data.encoding: cp1250, cp1251, shift_jis, utf-16-le, ...)."
    )


def _scan(path: Path) -> _Scan:
    scan, line, left = _Scan(), 1, b""
    with open_bytes(path) as file:
        while chunk := file.read(_CHUNK):
            whole = left + chunk
            cut = whole.rfind(b"\n") + 1 or _character_end(whole)
            part, left = whole[:cut], whole[cut:]
            _look(scan, part, line)
            scan.size += len(part)
            line += part.count(b"\n")
    _look(scan, left, line)
    return scan


def _character_end(part: bytes) -> int:
    """Where the last UTF-8 character of `part` begins, so that none is cut."""
    return next(
        (place for place in range(len(part) - 1, len(part) - 5, -1) if place > 0 and part[place] >= 0xC0), len(part)
    )


def _look(scan: _Scan, part: bytes, line: int) -> None:
    if part.isascii():
        return
    try:
        part.decode("utf-8")
        scan.has_utf8 = True
        return
    except UnicodeError:
        offset = scan.size
    for number, one in enumerate(part.split(b"\n")):
        _look_at_line(scan, one, offset, line + number)
        offset += len(one) + 1


def _look_at_line(scan: _Scan, part: bytes, offset: int, line: int) -> None:
    if part.isascii():
        return
    text = part.decode("utf-8", errors="surrogateescape")
    bad = _ESCAPED.search(text)
    if bad is None:
        scan.has_utf8 = True
        return
    western = part.decode("cp1252", errors="ignore")
    if scan.first_bad < 0:
        scan.first_bad = offset + len(text[: bad.start()].encode())
        scan.line = line
        scan.example = western[max(0, bad.start() - 20) : bad.start() + 20].strip()
    mixed = any("\x7f" < character < "\udc80" or character > "\udcff" for character in set(text))
    foreign = _UNDEFINED.search(part) or _OTHER_SCRIPT.search(part) or _FOREIGN.search(western)
    scan.western = scan.western and not (mixed or foreign)

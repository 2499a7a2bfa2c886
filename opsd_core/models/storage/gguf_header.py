"""A GGUF file's header, read before a library reads it: what it promises has to be possible and to be there.

    "GGUF", version (4 bytes), number of tensors, number of values (8 bytes each)
    values     name, type (4 bytes), value; an array is its elements' type, their number, and they
    tensors    name, number of dimensions (4 bytes), the dimensions (8 bytes each, the innermost first), type, offset
    the data, each tensor at a multiple of general.alignment

Numbers are little-endian, in files of the other order all of them are big-endian. A text is its length (8 bytes) and its bytes.
The library's reader keeps about a kilobyte for each element of an array, believes every count, and lets tensors overlap.
"""

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from opsd_core.errors import ModelError

MAX_ELEMENTS = 2_000_000
"""Of all arrays together: tokens, scores, types and merges of the largest vocabularies are 1.5 million."""
MAX_TEXT, MAX_TOKEN, MAX_NAME = 8 << 20, 1024, 512
"""Bytes of a text, of one in an array, and of a name."""
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_VERSIONS, _MAX_DIMENSIONS, _MAX_ALIGNMENT = (2, 3), 4, 1 << 20
_SIZES = ("embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv", "attention.key_length")
_SIZES += ("attention.value_length", "vocab_size", "expert_count", "expert_feed_forward_length", "rope.dimension_count")
_SLACK, _TIMES, _FEW_LAYERS = 1 << 26, 4, 100
_AGAIN = "It is cut off or damaged; download it again."


@dataclass
class GgufHeader:
    """What a file says of itself."""

    values: dict[str, Any] = field(default_factory=dict)
    """Numbers, truth values and texts by name; an array is its number of elements."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Of each tensor, the innermost dimension first."""


class _DamagedError(Exception):
    """Why the header cannot be; never leaves this module."""


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of a GGUF file. ModelError when it is damaged, impossible, or not what the file holds."""
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).header()
    except OSError as error:
        raise ModelError(f"model.source={str(path)!r} cannot be read: {error.strerror or error}.") from error
    except _DamagedError as error:
        raise ModelError(f"model.source={str(path)!r} cannot be read as GGUF: {error}. {_AGAIN}") from error


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.order, self.num_elements = file, size, "<", 0

    def header(self) -> GgufHeader:
        if self.bytes(4, "mark") != b"GGUF":
            raise _DamagedError("it does not begin with GGUF")
        version = self.number("I", "version")
        if version & 0xFFFF == 0:
            self.order, version = ">", struct.unpack(">I", struct.pack("<I", version))[0]
        if version not in _VERSIONS:
            raise _DamagedError(f"its version is {version}, not one of {_VERSIONS}")
        num_tensors, num_values = self.number("Q", "number of tensors"), self.number("Q", "number of values")
        for what, count, least in (("tensors", num_tensors, 24), ("values", num_values, 13)):
            if count * least > self.size:
                raise _DamagedError(f"it promises {count:,} {what}, which {self.size:,} bytes cannot hold")
        found = GgufHeader()
        for _ in range(num_values):
            name = self.text("name of a value", MAX_NAME)
            if name in found.values:
                raise _DamagedError(f"the value {name!r} stands twice")
            found.values[name] = self.value(name)
        places = [self.tensor(found) for _ in range(num_tensors)]
        self.check_data(found, places)
        _check_sizes(found)
        return found

    def bytes(self, count: int, what: str) -> bytes:
        part = self.file.read(count) if count <= self.size - self.file.tell() else b""
        if len(part) != count:
            raise _DamagedError(f"{what} at byte {self.file.tell():,} would have {count:,} bytes, more than there are")
        return part

    def number(self, code: str, what: str) -> Any:
        return struct.unpack(self.order + code, self.bytes(struct.calcsize(self.order + code), what))[0]

    def text(self, what: str, most: int) -> str:
        length = self.number("Q", f"the length of {what}")
        if length > most:
            raise _DamagedError(f"{what} would have {length:,} bytes, at most {most:,} are read")
        try:
            return self.bytes(length, what).decode()
        except UnicodeDecodeError as error:
            raise _DamagedError(f"{what} is not UTF-8 text") from error

    def value(self, name: str) -> Any:
        kind, what = self.number("I", f"the type of {name!r}"), f"the value {name!r}"
        if kind == _ARRAY:
            return self.array(name)
        return self.text(what, MAX_TEXT) if kind == _TEXT else self.number(self.code(kind, what), what)

    def code(self, kind: int, what: str) -> str:
        if kind not in _NUMBERS:
            raise _DamagedError(f"{what} is of type {kind}, which GGUF does not know here")
        return _NUMBERS[kind]

    def array(self, name: str) -> int:
        kind, count = self.number("I", f"the type of {name!r}'s elements"), self.number("Q", f"the length of {name!r}")
        self.num_elements += count
        if self.num_elements > MAX_ELEMENTS:
            raise _DamagedError(f"the array {name!r} has {count:,} elements; at most {MAX_ELEMENTS:,} in all are read")
        if kind == _TEXT:
            for _ in range(count):
                self.text(f"an element of {name!r}", MAX_TOKEN)
        else:
            self.bytes(count * struct.calcsize("=" + self.code(kind, f"an element of {name!r}")), f"the array {name!r}")
        return count

    def tensor(self, found: GgufHeader) -> tuple[int, int, str]:
        """(begin, end, name); begin and end count from where the data begin."""
        name = self.text("name of a tensor", MAX_NAME)
        what, dimensions = f"tensor {name!r}", self.number("I", f"the dimensions of {name!r}")
        if name in found.shapes:
            raise _DamagedError(f"{what} stands twice")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise _DamagedError(f"{what} has {dimensions} dimensions, not 1 to {_MAX_DIMENSIONS}")
        shape = tuple(self.number("Q", f"the shape of {name!r}") for _ in range(dimensions))
        kind, begin = self.number("I", f"the type of {name!r}"), self.number("Q", f"the place of {name!r}")
        if kind not in {entry.value for entry in GGML_QUANT_SIZES}:
            raise _DamagedError(f"{what} is of type {kind}, which GGUF does not know")
        block, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if not all(shape) or shape[0] % block:
            raise _DamagedError(f"{what} has the shape {list(shape)}, which its type, in blocks of {block}, cannot have")
        found.shapes[name] = shape
        return begin, begin + math.prod(shape) // block * num_bytes, name

    def check_data(self, found: GgufHeader, places: list[tuple[int, int, str]]) -> None:
        alignment = found.values.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise _DamagedError(f"general.alignment={alignment!r:.40} is no power of two up to {_MAX_ALIGNMENT:,}")
        start = -(-self.file.tell() // alignment) * alignment
        behind = 0
        for begin, end, name in sorted(places):
            if begin % alignment or begin < behind:
                raise _DamagedError(f"tensor {name!r} begins at byte {begin:,} of the data, inside another or unaligned")
            if start + end > self.size:
                raise _DamagedError(f"tensor {name!r} ends at byte {start + end:,}, the file at {self.size:,}")
            behind = end


def _check_sizes(found: GgufHeader) -> None:
    """The model that the values describe cannot be far larger than the tensors."""
    family = found.values.get("general.architecture")
    if not isinstance(family, str):
        raise _DamagedError("it has no general.architecture")
    held, width = sum(math.prod(shape) for shape in found.shapes.values()), _size(found, f"{family}.embedding_length") or 1
    layers = _size(found, f"{family}.block_count")
    if layers > max(_FEW_LAYERS, len(found.shapes)):
        raise _DamagedError(f"{family}.block_count={layers:,} cannot be: it holds {len(found.shapes)} tensors in all")
    learned = (f"{family}.context_length",) if any("position_embd" in name for name in found.shapes) else ()
    for name in (*(f"{family}.{size}" for size in _SIZES), *learned):
        if _size(found, name) * width > _TIMES * held + _SLACK:
            holds = f"it holds {held:,} numbers in all, one matrix would have more"
            raise _DamagedError(f"{name}={_size(found, name):,} cannot be: {holds}")


def _size(found: GgufHeader, name: str) -> int:
    value = found.values.get(name)
    return value if type(value) is int and value > 0 else 0

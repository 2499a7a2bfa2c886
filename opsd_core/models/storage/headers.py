"""A safetensors file's header, read before anything is allocated: what it promises has to be possible and to be there.

    length (8 bytes, little-endian), so many bytes of JSON: {name: {dtype, shape, data_offsets: [begin, end]}}, the data
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd_core.errors import ModelError

MAX_HEADER = 100_000_000
"""Bytes, as in the library; a shard of the largest models has some hundred thousand."""
_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32},
    **{"U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **{"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8},
}
_AGAIN = "Download or write it again."


@dataclass(frozen=True)
class Stored:
    """One tensor of a file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether its numbers can be weights."""
        return self.dtype.startswith(("F", "BF"))


def read_header(path: Path) -> dict[str, Stored]:
    """The file's tensors by name. ModelError when the header is damaged, impossible, or not what the file's length says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise ModelError(
                    f"{path} is no safetensors file: its {size} bytes hold no complete header. It is cut off or of another "
                    "format; download or write it again."
                )
            raw = file.read(length)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        header = json.loads(raw)
        tensors = {name: _stored(path, name, entry) for name, entry in header.items() if name != "__metadata__"}
    except ModelError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: its safetensors header cannot be read ({type(error).__name__}). {_AGAIN}") from error
    _check_cover(path, tensors, size - 8 - length)
    return tensors


def _stored(path: Path, name: str, entry: Any) -> Stored:
    if not isinstance(entry, dict):
        raise TypeError(name)
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    what = f"{path}: tensor {name[:200]!r} has the"
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ModelError(f"{what} dtype {dtype!r:.80}, which safetensors does not know. {_AGAIN}")
    if not _counts(shape):
        raise ModelError(f"{what} shape {shape!r:.80}; a shape is a list of sizes. {_AGAIN}")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelError(f"{what} data_offsets {offsets!r:.80}; they are where it begins and ends. {_AGAIN}")
    stored = Stored(dtype, tuple(shape), offsets[0], offsets[1])
    if stored.numel * _BITS[dtype] != 8 * (stored.end - stored.begin):
        raise ModelError(
            f"{what} shape {list(stored.shape)!r:.120} in {dtype}, which is not what its {stored.end - stored.begin:,} bytes "
            f"hold. {_AGAIN}"
        )
    return stored


def _counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(type(v) is int and 0 <= v < 1 << 62 for v in value)


def _check_cover(path: Path, tensors: dict[str, Stored], data: int) -> None:
    """ModelError unless the tensors fill the data without gap or overlap."""
    place = 0
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if stored.end > data:
            raise ModelError(
                f"{path} is cut off: tensor {name[:200]!r} ends behind it (its header promises "
                f"{max(s.end for s in tensors.values())} bytes of data, it has {data}). {_AGAIN}"
            )
        if stored.begin != place:
            what = "overlaps the tensor before it" if stored.begin < place else "stands behind bytes of no tensor"
            raise ModelError(f"{path}: tensor {name[:200]!r} {what} (it begins at byte {stored.begin}, not {place}). {_AGAIN}")
        place = stored.end
    if place != data:
        raise ModelError(
            f"{path} has bytes that belong to no tensor (its header promises {place} bytes of data, it has {data}). {_AGAIN}"
        )

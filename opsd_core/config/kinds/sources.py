"""The kinds of data source and the file formats: tables that the configuration's rules and the readers share.

A reader is named as text, "module.function" of `opsd_core.data`, because the configuration stands below the data.

    source reader   read(asked: Asked) -> Opened
    format reader   read(file: Path, asked: Asked) -> Opened
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from opsd_core.config.kinds.places import is_path
from opsd_core.errors import ConfigError


class SourceKind(NamedTuple):
    """One kind of `data.source`."""

    reader: str
    """"module.function" of opsd_core.data."""
    matches: Callable[[str], bool]
    """Whether a source is of this kind; the first kind of the table that says so is taken."""
    example: str
    """How a source of this kind is written."""
    generated: bool = False
    """Made here: it brings question and answer of its own, reads no columns, and `data.size` is how many are made."""
    grader: str = "math"
    """What data.grader=auto means for it."""
    reads: tuple[str, ...] = ()
    """Settings of `data` that this kind reads and others do not."""
    changes: bool = False
    """What lies at such an address may change; its state is looked at, and is part of identities."""


class FileFormat(NamedTuple):
    """One kind of file."""

    reader: str
    """"module.function" of opsd_core.data."""
    packed: bool = True
    """May be compressed as a whole: .gz or .zst after the format's own suffix."""


FILE_FORMATS: dict[str, FileFormat] = {
    ".jsonl": FileFormat("formats.json_lines.read"),
    ".ndjson": FileFormat("formats.json_lines.read"),
    ".json": FileFormat("formats.json_file.read"),
    ".csv": FileFormat("formats.delimited.read"),
    ".tsv": FileFormat("formats.delimited.read"),
    ".parquet": FileFormat("formats.parquet.read", packed=False),
}
PACKED = (".gz", ".zst")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def _begins(prefix: str) -> Callable[[str], bool]:
    return lambda source: source.startswith(prefix)


def file_suffix(name: str) -> str:
    """The suffixes that say how a file is read, in lower case: `.jsonl`, `.csv.gz`; "" for none."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes[-2:]]
    return "".join(suffixes if suffixes[-1:] and suffixes[-1] in PACKED else suffixes[-1:])


def known_file(name: str) -> bool:
    """Whether the name ends as a file that is read."""
    suffix = file_suffix(name)
    known = FILE_FORMATS.get("." + suffix.split(".")[1]) if suffix else None
    return known is not None and (known.packed or suffix in FILE_FORMATS)


def _local(source: str) -> bool:
    if _SCHEME.match(source):
        return False
    has_glob = any(character in source for character in "*?[")
    try:
        exists = Path(source).exists()
    except (OSError, ValueError):
        exists = False
    return known_file(source) or has_glob or exists or is_path(source)


_FILE = ("columns", "encoding")
SOURCE_KINDS: dict[str, SourceKind] = {
    "addition": SourceKind("generated.addition", _begins("tiny:"), "tiny:addition", generated=True),
    "reasoning_gym": SourceKind(
        "generated.reasoning_gym",
        _begins("reasoning_gym:"),
        "reasoning_gym:<task>",
        generated=True,
        grader="reasoning_gym",
        reads=("options",),
    ),
    "suite": SourceKind("suites.source.read", _begins("suite:"), "suite:<name>", generated=True, grader="exact"),
    "s3": SourceKind("remote.stored_object", _begins("s3://"), "s3://bucket/file.jsonl", reads=_FILE, changes=True),
    "https": SourceKind("remote.web_file", _begins("https://"), "https://host/file.jsonl", reads=_FILE, changes=True),
    "files": SourceKind("files.local_files", _local, "folder, shards/*.parquet or file.csv", reads=_FILE, changes=True),
    "hub": SourceKind(
        "hub.hub_dataset", lambda source: not _SCHEME.match(source), "owner/name", reads=("columns", "subset", "split")
    ),
    "unknown": SourceKind("remote.unknown", lambda source: True, ""),
}


def check_can_change(source: str) -> None:
    """ConfigError for a data source that is the same for ever, so that nothing new can be waited for."""
    if not source_kind(source).changes:
        raise ConfigError(
            f"data.source={source} has no state that could change: it is generated, or a revision of a hub. Name a file, a "
            "folder, or an s3:// or https:// address; for a campaign at certain times: opsd schedule --cron."
        )


def source_kind(source: str) -> SourceKind:
    """The first kind of the table that `source` is of."""
    return next(kind for kind in SOURCE_KINDS.values() if kind.matches(source))

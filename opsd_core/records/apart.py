"""A model that is stored as a base and an adapter: what the whole folder consists of, so that it can be put together again.

    adapter_config.json, adapter_model.safetensors   as peft reads them
    whole/                                           files of the whole folder that the base does not have byte for byte
    version.json                                     this record

Every iteration of a campaign that trains adapters leaves such a folder, of the adapter's size and not the model's.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from opsd_core.digest import digest
from opsd_core.errors import IntegrityError

RECORD = "version.json"
REST = "whole"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SCHEMA = 1


@dataclass(frozen=True)
class Apart:
    """How a whole model folder comes out of a base and an adapter."""

    base: str
    """Where the base lies, below the root of the store that holds this folder."""
    digest: str
    """Of the base, as its manifest has it."""
    dtype: str
    """"float32" or "bfloat16": in which the base was below the adapters when they were trained."""
    adapter: dict[str, str]
    """sha256 of the adapter's two files, by name."""
    weights: str
    """Digest of the merged tensors: names, dtypes, shapes and bits."""
    files: dict[str, str]
    """sha256 of every other file of the whole folder but MLmodel, by name."""
    schema: int = _SCHEMA

    @property
    def name(self) -> str:
        """Digest of all of this: equal ones mean the same whole folder."""
        return digest(asdict(self))

    def write(self, folder: Path) -> None:
        """As `version.json`; equal records give equal bytes."""
        (folder / RECORD).write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The record of a folder. IntegrityError when it is none, or of a later version of opsd."""
        try:
            kept: dict[str, Any] = json.loads((folder / RECORD).read_text())
            if kept["schema"] != _SCHEMA:
                raise IntegrityError(
                    f"{folder / RECORD} has schema {kept['schema']!r}, this version of opsd reads {_SCHEMA}. Use the version of "
                    "opsd that wrote it."
                )
            return cls(**kept)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{folder / RECORD} cannot be read ({type(error).__name__}: {error}).") from error

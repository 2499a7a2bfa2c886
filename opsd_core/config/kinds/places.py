"""Which addresses are paths of this machine, and texts that are given as files."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from opsd_core.bounded.templates import MAX_TEMPLATE

TEMPLATE_SUFFIXES = (".jinja", ".jinja2", ".j2")
WHERE = (
    "A path is absolute, begins with ~, or is relative to the project folder; opsd run takes it from the file or folder that "
    "it is written in."
)
"""Said of every setting that takes a path."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def expanded(address: str) -> str:
    """`address` with ~ filled in where it begins with one. ValueError where ~ is nobody's."""
    if not address.startswith("~"):
        return address
    try:
        return str(Path(address).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{address!r:.200} is no path: {error}.") from error


def is_path(address: str, folder: Path | None = None) -> bool:
    """Whether `address` can only be a path: by how it is written, or because its first folder is there, in `folder`.

    A hub is never asked for such a name: `runs/checkpoint-20` is a path where there is a folder `runs`, and a hub id elsewhere.
    """
    if _SCHEME.match(address):
        return False
    if address.startswith((".", "/", "~")) or address.endswith(".gguf") or not _HUB_ID.fullmatch(address):
        return True
    first, slash, _ = address.partition("/")
    return bool(slash) and ((folder or Path()) / first).is_dir()


def missing(field: str, address: str, what: str) -> str:
    """The sentence for a path where nothing is; `what` says what belongs there."""
    where = Path(address).expanduser().absolute()
    return f"{field}={address!r:.200} does not exist: there is no {where} on this machine. {WHERE} Give {what}."


def names_file(text: str) -> bool:
    """Whether a text names a file that holds a template."""
    return text.endswith(TEMPLATE_SUFFIXES) and "{" not in text and "\n" not in text


def text_of_file(text: str) -> str:
    """What the file holds when `text` names one, else `text`. ValueError when that file cannot be read."""
    return read_text(text) if names_file(text) else text


Address = Annotated[str, AfterValidator(expanded)]
"""A setting whose ~ is filled in."""
TemplateText = Annotated[str, AfterValidator(text_of_file)]
"""A setting that is a text or names the file that holds it."""


def _function_place(place: str) -> str:
    if not place:
        return place
    where, colon, name = place.rpartition(":")
    is_file = where.endswith(".py")
    named = all(part.isidentifier() for part in name.split("."))
    if not (colon and named and (is_file or all(part.isidentifier() for part in where.split(".")))):
        raise ValueError(
            f"{place!r:.200} names no function: give package.module:function, or the path of a .py file with :function."
        )
    return f"{expanded(where)}:{name}" if is_file else place


FunctionPlace = Annotated[str, AfterValidator(_function_place)]
"""A setting that names a function of the user's; empty = none."""


def read_text(name: str) -> str:
    """The text of a file of at most MAX_TEMPLATE characters. ValueError when it cannot be read."""
    try:
        path = Path(name).expanduser()
        if not path.is_file():  # pipes and devices too
            raise FileNotFoundError(f"there is no file {path.absolute()}")
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_TEMPLATE + 1)
        if len(text) > MAX_TEMPLATE:
            raise ValueError(f"more than {MAX_TEMPLATE:,} characters")
        return text
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of nobody
        raise ValueError(
            f"the template file {name!r:.200} cannot be read ({type(error).__name__}: {str(error)[:200]}). {WHERE} Give the "
            "template's text or an existing file."
        ) from error

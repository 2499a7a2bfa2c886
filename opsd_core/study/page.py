"""A study's report as one HTML page that needs nothing else: no script, no link, every text escaped by its template."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader


class ExamplePair(NamedTuple):
    """One test item before and after."""

    question: str
    answer: str
    before: str
    before_correct: bool
    after: str
    after_correct: bool


class Table(NamedTuple):
    """Rows of cells under their heads; `strong` marks rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    strong: Sequence[bool] = ()


class Part(NamedTuple):
    """A heading with paragraphs, a table, items before and after, and figures (title, PNG)."""

    title: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[tuple[str, bytes]] = ()
    table: Table | None = None
    examples: Sequence[ExamplePair] = ()


def page(title: str, subtitle: str, parts: Sequence[Part], footer: str) -> str:
    """The whole page."""
    return _TEMPLATE.render(title=title, subtitle=subtitle, parts=parts, footer=footer)


def shown(value: Any) -> str:
    """A cell's text: none as a dash, shares with three digits, large numbers with thousands marks."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


def interval(row: Mapping[str, Any], scale: float = 100.0) -> str:
    """Such as +12.0 [+8.1, +15.9]."""
    return f"{scale * row['mean']:+.1f} [{scale * row['low']:+.1f}, {scale * row['high']:+.1f}]"


_PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, keep_trailing_newline=True)
_PAGES.filters |= {"shown": shown, "base64": lambda png: b64encode(png).decode()}
_TEMPLATE = _PAGES.get_template("page.html")

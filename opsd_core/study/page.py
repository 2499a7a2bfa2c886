"""A study's report as one HTML page that needs nothing else: no script, no link, every text escaped."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px } th, td { padding: 3px 9px; text-align: right }
th { border-bottom: 2px solid #888 } td { border-bottom: 1px solid #ddd } td:first-child, th:first-child { text-align: left }
img { max-width: 100%; margin: .5em 0 } pre { white-space: pre-wrap; margin: 0; font-size: 12px; text-align: left }
.outside { font-weight: bold } .wrong { background: #fdecea } .right { background: #e9f6ec } footer { color: #777 }
"""


class ExamplePair(NamedTuple):
    """One test item before and after."""

    question: str
    answer: str
    before: str
    before_correct: bool
    after: str
    after_correct: bool


class Part(NamedTuple):
    """A heading with paragraphs, figures (title, PNG) and ready HTML."""

    title: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[tuple[str, bytes]] = ()
    html: str = ""


def page(title: str, subtitle: str, parts: Sequence[Part], footer: str) -> str:
    """The whole page."""
    body = "".join(map(_part, parts))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1><p>{escape(subtitle)}</p>{body}"
        f"<footer><p>{escape(footer)}</p></footer></body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], strong: Sequence[bool] = ()) -> str:
    """An HTML table; floats get three digits; `strong` marks rows."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = []
    for index, row in enumerate(rows):
        mark = ' class="outside"' if index < len(strong) and strong[index] else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(shown(cell))}</td>" for cell in row) + "</tr>")
    return f"<table><tr>{cells}</tr>{''.join(lines)}</table>"


def shown(value: Any) -> str:
    """A cell's text: none as a dash, shares with three digits, large numbers with thousands marks."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


def examples(pairs: Sequence[ExamplePair]) -> str:
    """Items side by side, before and after."""
    rows = []
    for pair in pairs:
        cells = "".join(
            f'<td class="{"right" if right else "wrong"}"><pre>{escape(text)}</pre></td>'
            for text, right in ((pair.before, pair.before_correct), (pair.after, pair.after_correct))
        )
        rows.append(f"<tr><td><pre>{escape(pair.question)}</pre></td><td>{escape(pair.answer)}</td>{cells}</tr>")
    return f"<table><tr><th>question</th><th>answer</th><th>before</th><th>after</th></tr>{''.join(rows)}</table>"


def interval(row: Mapping[str, Any], scale: float = 100.0) -> str:
    """Such as +12.0 [+8.1, +15.9]."""
    return f"{scale * row['mean']:+.1f} [{scale * row['low']:+.1f}, {scale * row['high']:+.1f}]"


def _part(part: Part) -> str:
    text = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in part.paragraphs)
    images = "".join(
        f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        for name, data in part.figures
    )
    return f"<h2>{escape(part.title)}</h2>{text}{part.html}{images}"

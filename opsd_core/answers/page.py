"""`answers.html`: one file that needs nothing else, opens from a disk and in a sandboxed frame, and trusts no text in it.

Everything that a model or a data set wrote travels as JSON in which <, > and & are escaped, and reaches the page as text nodes
alone. A content security policy names the hashes of the one script and the one style, so that nothing else could run.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from opsd_core.answers.sides import Item, Side, compared, items_of
from opsd_core.answers.slices import slices_of, varying_columns, warnings_of
from opsd_core.answers.tokens import Sampled, divergence_curve, drawn, token_rows
from opsd_core.data.others import columns_of
from opsd_core.digest import derive_seed
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome

ITEM_BYTES, TOKEN_BYTES = 2_400_000, 2_000_000
"""What the held-out answers and the completions of a page take up at most; more are drawn with a fixed seed."""
MAX_COMPLETIONS = 80
_TEXT_CHARS = 8_000
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Answers:
    """What a page is made of. Everything but title, examples and sides may be left out."""

    title: str
    examples: Sequence[Example]
    sides: Sequence[Side]
    """The first one is before; each other one is compared with it."""
    verdict: str = ""
    """promoted, refused, waits for a person, or "" for a comparison that decides nothing."""
    sentences: Sequence[str] = ()
    """Why, in words; at the head of the page."""
    alarms: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    """Names and values: sizes of splits, how many completions were dropped and why."""
    links: Sequence[tuple[str, str]] = ()
    """(text, address); other addresses than http and https are left out."""
    labelled: bool = True
    """False where the items have no answers: then nothing is right or wrong."""
    sampled: Sampled | None = None
    columns: Sequence[str] = ()
    """Data columns by which accuracy is shown; empty = every short one."""
    extra: dict[str, Any] = field(default_factory=dict)


def render(answers: Answers) -> str:
    """The whole page, some 5 MB at most."""
    return page_of(page_data(answers))


def page_data(answers: Answers) -> dict[str, Any]:
    """Everything that the page shows, as JSON values. DataError when the sides have no common item."""
    items = items_of(answers.examples, answers.sides)
    after = range(1, len(answers.sides))
    slices = {str(side): slices_of(items, side, answers.columns) for side in after} if answers.labelled else {}
    shown = _shown(items, len(answers.sides))
    first = len(answers.sides) - 1
    return {
        "title": answers.title,
        "verdict": answers.verdict,
        "sentences": list(answers.sentences),
        "alarms": [*answers.alarms, *(warnings_of(slices[str(first)]) if len(answers.sides) == 2 and slices else ())],
        "facts": [list(fact) for fact in answers.facts],
        "links": [[text, url] for text, url in answers.links if url.startswith(("http://", "https://"))],
        "labelled": answers.labelled,
        "sides": [side.name for side in answers.sides],
        "totals": {str(side): compared(items, side)._asdict() for side in after} if answers.labelled else {},
        "num_items": len(items),
        "left_out": _left_out(answers, items),
        "items": shown,
        "slices": slices,
        **_completions(answers.sampled),
        **answers.extra,
    }


def _left_out(answers: Answers, items: Sequence[Item]) -> str:
    counts = {side.name: len({o.example_id for o in side.outcomes}) for side in answers.sides}
    more = [f"{name} answered {count}" for name, count in counts.items() if count > len(items)]
    return f"Compared are the {len(items)} items that all sides answered; {', '.join(more)}." if more else ""


def _shown(items: Sequence[Item], num_sides: int) -> list[dict[str, Any]]:
    """Every item whose answer changed, then the others, until the page is full; both in an order drawn with a fixed seed."""

    def order(item: Item) -> tuple[bool, int]:
        kinds = {item.kind(side) for side in range(1, num_sides)}
        return (kinds <= {"right→right", "wrong→wrong"}, derive_seed("answers", item.example.id))

    rows, size, columns = [], 0, varying_columns(items)
    for item in sorted(items, key=order):
        row = _item_row(item, columns)
        size += len(json.dumps(row))
        if size > ITEM_BYTES and rows:
            break
        rows.append(row)
    return rows


def _item_row(item: Item, columns: Collection[str]) -> dict[str, Any]:
    example = item.example
    return {
        "id": example.id,
        "question": clipped(example.question),
        "reference": clipped(example.answer),
        "solution": clipped(example.solution),
        "columns": {
            name: f"{value:g}" if isinstance(value, float) else value
            for name, value in columns_of(example).items()
            if name in columns
        },
        "answers": [_answer(outcome) for outcome in item.answers],
    }


def _answer(outcome: ItemOutcome) -> dict[str, Any]:
    return {
        "right": outcome.correct,
        "extracted": None if outcome.extracted is None else clipped(outcome.extracted),
        "text": clipped(outcome.text),
        "tokens": outcome.num_tokens,
        "cut": outcome.truncated,
    }


def clipped(text: str) -> str:
    """At most 8,000 characters, and how many are missing."""
    return (
        text if len(text) <= _TEXT_CHARS else f"{text[:_TEXT_CHARS]}\n[… {len(text) - _TEXT_CHARS:,} characters more]"
    )


def _completions(sampled: Sampled | None) -> dict[str, Any]:
    """Completions token by token until the page is full, the tokens they use, and the divergence along positions."""
    if sampled is None:
        return {"completions": [], "vocabulary": [], "num_completions": 0, "curve": None, "note": ""}
    vocabulary: dict[int, int] = {}
    rows, size = [], 0
    for rollout in drawn(sampled)[:MAX_COMPLETIONS]:
        row = token_rows(sampled, rollout, vocabulary)
        row |= {name: clipped(row[name]) for name in ("prompt", "privileged", "reference") if row[name]}
        size += len(json.dumps(row))
        if size > TOKEN_BYTES and rows:
            break
        rows.append(row)
    return {
        "completions": rows,
        "vocabulary": [sampled.token_text(token) for token in vocabulary],
        "num_completions": len(sampled.rollouts),
        "curve": divergence_curve(sampled),
        "note": sampled.note,
    }


def page_of(data: dict[str, Any]) -> str:
    """The page that shows what `page_data` made."""
    style, script = (_HERE / "page.css").read_text(), (_HERE / "page.js").read_text()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    shown = _TEMPLATE.render(
        title=data["title"],
        policy=policy,
        style=style,
        script=script,
        data=embedded(data),
        verdict=data["verdict"],
        sentences=data["sentences"],
    )
    return shown.encode("utf-8", "replace").decode()


def embedded(data: Any) -> str:
    """JSON that can stand inside a script element: no <, > or &, ASCII alone, and no number that JSON does not have."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_PAGES = Environment(loader=FileSystemLoader(_HERE), autoescape=True, keep_trailing_newline=True)
_TEMPLATE = _PAGES.get_template("page.html")

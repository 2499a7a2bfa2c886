"""Accuracy before and after by slices of the held-out items, and which slices fall although the whole does not.

A slice is a value of a data column, of the answer's form, of lengths, or of difficulty. Whether it falls is an exact one-sided
McNemar test within it; of all slices on a page, Holm's procedure says which falls are more than chance. Slices made of what the
first side did (its length, its pass rate) also move by regression to the mean: what was lucky before falls without any change.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opsd_core.answers.forms import answer_form, form_in_question
from opsd_core.answers.sides import Compared, Item, compared
from opsd_core.data.others import columns_of
from opsd_core.judgement.statistics import holm

ALPHA = 0.05
"""Family-wise level of the warnings of one page."""
_MOST_VALUES = 12
_MOST_COLUMNS = 24
_NUM_BINS = 4
Key = Callable[[Item], str | float | None]


def slices_of(items: Sequence[Item], after: int = 1, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row per slice, by dimension: n, accuracies, their intervals, the paired difference, and whether it warns.

    `columns`: the data columns that are looked at; empty = every short one, at most 24.

    Of each: `dimension`, `value`, `n`, `before` and `after` as [share, low, high] (Wilson, 95 %), `difference` as [mean, low,
    high] (Newcombe's paired interval), `p_falls` (exact, one-sided) and `warns`: the slice falls, Holm's procedure over all rows
    rejects at 5 %, and the whole does not fall.
    """
    rows = []
    for name, key in _dimensions(items, columns):
        groups = _grouped(items, key)
        if len(groups) > 1:
            rows += [_row(name, value, compared(group, after), len(group)) for value, group in groups]
    total = compared(items, after).difference[0]
    rejected = holm({str(i): row["p_falls"] for i, row in enumerate(rows)}, ALPHA)
    for index, row in enumerate(rows):
        row["warns"] = bool(rejected[str(index)] and row["difference"][0] < 0.0 <= total)
    return rows


def warnings_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for every slice that falls although the whole does not."""
    return [
        f"Falls: {row['dimension']} = {row['value']}, from {100 * row['before'][0]:.0f} to {100 * row['after'][0]:.0f} % on "
        f"{row['n']} items (p = {row['p_falls']:.2g}; {len(rows)} slices, Holm's procedure at {ALPHA:.0%})."
        for row in rows
        if row["warns"]
    ]


def slice_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), most: int = 30) -> list[str]:
    """Markdown: accuracy by slice, before and after; slices that warn first, then in their order, at most `most` of them.

    `columns`: those that were asked for; what divides the items into nothing is named.
    """
    if not rows:
        return []
    chosen = sorted(rows, key=lambda row: not row["warns"])[:most]
    head = ["| slice | items | before | after | points | p (falls) |", "|---|---|---|---|---|---|"]
    lines = ["", "## Accuracy by slice", "", *head]
    for row in chosen:
        before, after = (_share(row[side]) for side in ("before", "after"))
        points = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * number for number in row["difference"]))
        value = row["value"].replace("|", "\\|")[:60]
        falls = f"{row['p_falls']:.2g}{' **falls**' if row['warns'] else ''}"
        lines.append(f"| {row['dimension']} = {value} | {row['n']} | {before} | {after} | {points} | {falls} |")
    said = [f"{len(rows)} slices" + (f", of which {most} are shown; all are on the page of answers" if len(rows) > most else "")]
    said += ["intervals of 95 %: shares Wilson's, differences Newcombe's paired ones"]
    said += ["p is exact and one-sided, so that near the border it can say what the two-sided interval does not"]
    said += [f"*falls* = although the whole does not, and Holm's procedure over all {len(rows)} rejects at {ALPHA:.0%}"]
    shown = {row["dimension"] for row in rows}
    if useless := [name for name in columns if f"column {name}" not in shown]:
        said += [f"evaluation.slices: {', '.join(useless)} divides nothing, by one value for all or one for nearly each"]
    return [*lines, "", "; ".join(said) + "."]


def _share(of: Sequence[float]) -> str:
    return "{:.1f} % [{:.1f}, {:.1f}]".format(*(100 * number for number in of))


def _row(dimension: str, value: str, found: Compared, number: int) -> dict[str, Any]:
    numbers = {name: getattr(found, name) for name in ("before", "after", "difference", "p_falls")}
    return {"dimension": dimension, "value": value, "n": number, **numbers}


def _dimensions(items: Sequence[Item], columns: Sequence[str]) -> Iterable[tuple[str, Key]]:
    yield "form of the reference", lambda item: answer_form(item.example.answer)
    yield (
        "form of the answer in the question",
        lambda item: form_in_question(item.example.question, item.example.answer),
    )
    yield "form of the answer before", lambda item: answer_form(item.answers[0].extracted or "")
    if any(item.pass_rate is not None for item in items):
        yield "difficulty: share of right samples before", lambda item: _pass_rate(item.pass_rate)
    tables = [columns_of(item.example) for item in items]
    by_id = {item.example.id: table for item, table in zip(items, tables, strict=True)}
    found = list(dict.fromkeys(name for table in tables for name in table))[:_MOST_COLUMNS]
    for column in columns or found:
        yield f"column {column}", lambda item, column=column: by_id[item.example.id].get(column)
    yield "length of the question (characters)", lambda item: float(len(item.example.question))
    yield "length of the answer before (tokens)", lambda item: float(item.answers[0].num_tokens)


def varying_columns(items: Sequence[Item]) -> set[str]:
    """Names of the columns that have more than one value."""
    values: dict[str, set[str | float]] = {}
    for item in items:
        for name, value in columns_of(item.example).items():
            values.setdefault(name, set()).add(value)
    return {name for name, found in values.items() if len(found) > 1}


def _pass_rate(rate: float | None) -> str | None:
    if rate is None:
        return None
    return "never" if rate == 0 else "always" if rate == 1 else "up to half" if rate <= 0.5 else "more than half"


def _grouped(items: Sequence[Item], key: Key) -> list[tuple[str, list[Item]]]:
    """(value, items) of each value; numbers of many values in quarters, rare texts together, one group each for ids: none."""
    values = [key(item) for item in items]
    known = [value for value in values if value is not None]
    distinct = set(known)
    if len(distinct) < 2:
        return []
    if all(isinstance(value, float) for value in known) and len(distinct) > _NUM_BINS:
        edges = _quarters(sorted(known))
        values = [None if value is None else _bin(float(value), edges) for value in values]
    elif len(distinct) > _MOST_VALUES:
        if len(distinct) > len(known) / 2:
            return []
        common = {value for value, _ in Counter(known).most_common(_MOST_VALUES - 1)}
        values = [value if value is None or value in common else "(other)" for value in values]
    groups: dict[str, list[Item]] = {}
    order = sorted({value for value in values if value is not None}, key=lambda v: (isinstance(v, str), v))
    for value in order:
        label = f"{value:g}" if isinstance(value, float) else str(value).partition("\0")[2] or str(value)
        groups[label] = [item for item, mine in zip(items, values, strict=True) if mine == value]
    return list(groups.items())


def _quarters(values: Sequence[float]) -> list[float]:
    """Upper edges of at most four groups of about equal size."""
    edges = [values[min(len(values) - 1, (len(values) * part) // _NUM_BINS)] for part in range(1, _NUM_BINS)]
    return sorted({*edges, values[-1]})


def _bin(value: float, edges: Sequence[float]) -> str:
    """A label that sorts by its place and shows the bounds."""
    place = next(index for index, edge in enumerate(edges) if value <= edge)
    text = f"up to {edges[0]:g}" if place == 0 else f"above {edges[place - 1]:g}, up to {edges[place]:g}"
    return f"{place}\0{text}"

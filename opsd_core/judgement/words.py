"""The ledger of a model's decisions, for people."""

from collections.abc import Sequence

from opsd_core.judgement.budget import Decision, next_decision, wear

_ROWS = 50


def ledger_table(name: str, history: Sequence[Decision], alpha: float) -> str:
    """Markdown: what the model's decisions were tested at and said, newest first, and what the next one would get."""
    last = history[-1]
    same, fresh = (
        next_decision(history, "", 0, items, alpha).level
        for items in ((last.first_item, last.last_item), ("~", "~"))  # no id begins with a tilde
    )
    lines = [
        f"## Error budget of {name}",
        "",
        f"All decisions together promote a version that is no better with a chance of at most alpha = {alpha:g}.",
        f"The next decision is tested at {same:.2g} on the same held-out items, at {fresh:.2g} on unseen ones.",
        "",
        "| decision | campaign | iteration | items | decisions on them before | level | p | gate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for place in reversed(range(max(0, len(history) - _ROWS), len(history))):
        entry = history[place]
        before = wear([d for d in history[:place] if d.set_number == entry.set_number])
        p_value = "–" if entry.p_value is None else f"{entry.p_value:.3g}"
        said = {None: "under way", True: "promote", False: "refuse"}[entry.promote]
        lines.append(
            f"| {place + 1} | {entry.campaign} | {entry.iteration} | set {entry.set_number} "
            f"| {before.decisions}, {before.promotions} promoted | {entry.level:.2g} | {p_value} | {said} |"
        )
    return "\n".join(lines) + "\n"

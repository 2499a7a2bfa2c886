"""What a guard found: by how much a candidate fell on one suite against one version, and whether that is tolerated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

GuardVerdict = Literal["held", "violated", "inconclusive"]


@dataclass(frozen=True)
class GuardResult:
    """A drop on one suite with its limits. Shares of right answers, or nats per token."""

    guard: str
    """Name of the suite."""
    role: Literal["champion", "anchor"]
    """Whom the candidate is compared with."""
    version: str
    measure: Literal["grader", "likelihood"]
    before: float
    """That version's share of right answers, or its mean log-likelihood per token."""
    after: float
    """The candidate's."""
    drop: float
    """before - after: what the candidate lost."""
    low: float
    """One-sided lower limit of the drop at `level`."""
    high: float
    """One-sided upper limit of the drop at `level`."""
    level: float
    max_drop: float
    num_items: int
    wins: int
    """Items on which the candidate is better."""
    losses: int
    inconclusive: Literal["refuse", "warn"]
    """What is done when nothing can be said."""
    conditions: str
    """Digest of items, template, grader and limits, the same on both sides."""

    @property
    def verdict(self) -> GuardVerdict:
        """held: such a drop is ruled out; violated: it is there and no chance; inconclusive: neither."""
        if self.high < self.max_drop:
            return "held"
        return "violated" if self.low > 0.0 and self.drop > self.max_drop else "inconclusive"

    @property
    def refuses(self) -> bool:
        """Whether a candidate with this result is refused."""
        return self.verdict == "violated" or (self.verdict == "inconclusive" and self.inconclusive == "refuse")

    @property
    def change(self) -> str:
        """98.0 → 74.0 %, a drop of 24.0 points [+18.1, +30.5]"""
        if self.measure == "likelihood":
            values = f"{self.before:.3f} → {self.after:.3f} nats per token, a drop of {self.drop:+.3f}"
            return f"{values} [{self.low:+.3f}, {self.high:+.3f}]"
        values = f"{100 * self.before:.1f} → {100 * self.after:.1f} %, a drop of {100 * self.drop:+.1f} points"
        return f"{values} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    @property
    def tolerated(self) -> str:
        """The largest drop in words."""
        return f"{self.max_drop:g} nats per token" if self.measure == "likelihood" else f"{100 * self.max_drop:g} points"

    @property
    def sentence(self) -> str:
        """What was found and what it means, with every number."""
        end = {
            "held": f"a drop of {self.tolerated} is ruled out.",
            "violated": f"less than {self.tolerated} are tolerated.",
            "inconclusive": f"a drop of {self.tolerated} is neither there nor ruled out; more items would tell "
            f"(promotion.guards[{self.guard}].num_items).",
        }[self.verdict]
        changed = f"better on {self.wins} of {self.num_items} items, worse on {self.losses}"
        whom = f"{self.role} (version {self.version})"
        return f"Guard {self.guard} against {whom} is {self.verdict}: {self.change}, {changed}; {end}"

    def metrics(self) -> dict[str, float]:
        """guard/<name>/drop with its limits, guard/<name>/anchor_drop of the comparison with the anchor."""
        start = f"guard/{self.guard}/" + ("" if self.role == "champion" else "anchor_")
        values = {"drop": self.drop, "drop_low": self.low, "drop_high": self.high, "before": self.before}
        return {f"{start}{name}": value for name, value in values.items()} | {f"guard/{self.guard}/after": self.after}


def guards_in_a_line(results: Sequence[GuardResult]) -> str:
    """Of each guard its worst comparison: "copying violated (+86.0 points), plain_text held (+0.004 nats per token)"."""
    order = ("held", "inconclusive", "violated")
    worst: dict[str, GuardResult] = {}
    for result in results:
        known = worst.get(result.guard)
        if known is None or (order.index(result.verdict), result.drop) > (order.index(known.verdict), known.drop):
            worst[result.guard] = result
    said = []
    for result in worst.values():
        drop = f"{result.drop:+.3f} nats per token" if result.measure == "likelihood" else f"{100 * result.drop:+.1f} points"
        whom = "" if result.role == "champion" else f" against anchor {result.version}"
        said.append(f"{result.guard} {result.verdict} (drop {drop}{whom})")
    return ", ".join(said)


def guard_table(results: Sequence[GuardResult]) -> list[str]:
    """The guards as a markdown table; nothing without guards."""
    if not results:
        return []
    level = results[0].level
    return [
        "",
        f"Guards: the candidate must not be worse on them; limits at {100 * level:g} % on each side.",
        "",
        "| guard | against | before → after, drop [limits] | tolerated | items | better / worse | result |",
        "|---|---|---|---|---|---|---|",
        *[
            f"| {r.guard} | {r.role} {r.version} | {r.change} | {r.tolerated} | {r.num_items} | {r.wins} / {r.losses} "
            f"| {r.verdict if r.verdict == 'held' else r.verdict.upper()} |"
            for r in results
        ],
    ]

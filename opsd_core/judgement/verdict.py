"""The gate's decision with its numbers, and how it is shown."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from opsd_core.judgement.guard_result import GuardResult, guard_table, guards_in_a_line
from opsd_core.judgement.stopping import Stopping

MAX_TAG_CHARS = 250
ONE_SIDED = 0.025
"""One-sided level that a two-sided interval of 95 % corresponds to."""
WAITS = "waits for a person"
"""What is said of a candidate that the gate would promote and a person has not answered for."""
WARNING = "**Warning:** "
"""How a line of a verdict begins that warns."""
ROLLED_BACK = "rolled back"
"""What is said of a version that was champion until somebody went back to the one before."""


@dataclass(frozen=True)
class Check:
    """One condition of a promotion; all must hold."""

    name: str
    value: float
    rule: str
    """"<=", ">=" or ">": value `rule` threshold."""
    threshold: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """Promote or refuse, why, and every number that was looked at."""

    promote: bool
    reasons: tuple[str, ...]
    """What decided: the failed checks' sentences, or one sentence for a promotion."""
    checks: tuple[Check, ...]
    candidate_version: str
    champion_version: str
    metric: str
    """accuracy (greedy) or avg@n (sampled)."""
    test: str
    accuracy_before: float
    """The champion's `metric` on the items."""
    accuracy_after: float
    difference: float
    interval: tuple[float, float]
    """95 % percentile interval of the difference, resampling items."""
    p_value: float
    """One-sided: chance of a result at least this good when the two are equal."""
    wins: int
    """Items on which the candidate is better."""
    losses: int
    ties: int
    num_items: int
    evaluation_digest: str
    guards: tuple[GuardResult, ...] = ()
    """Suites on which the candidate must not be worse, against champion and anchor."""
    sequential: Stopping | None = None
    """Where the sequential test stopped, and why."""
    warnings: tuple[str, ...] = ()
    """What decides nothing and should be read before anybody relies on the decision: slices that fall."""

    @property
    def rails(self) -> tuple[Check, ...]:
        """The guard rails: what is checked besides the test and its gain."""
        return tuple(check for check in self.checks if check.name not in ("p_value", "gain"))

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe copy; a check's value that is not finite becomes None."""
        values = asdict(self)
        for check in values["checks"]:
            check["value"] = check["value"] if math.isfinite(check["value"]) else None
        lists = {name: list(values[name]) for name in ("interval", "reasons", "checks", "guards", "warnings")}
        return values | lists

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Verdict":
        """What `as_dict` wrote; of older verdicts too, which have no guards."""
        numbers = [float("nan") if check["value"] is None else check["value"] for check in values["checks"]]
        checks = [Check(**check | {"value": number}) for check, number in zip(values["checks"], numbers, strict=True)]
        guards = tuple(GuardResult(**guard) for guard in values.get("guards", ()))
        fixed = {"checks": tuple(checks), "reasons": tuple(values["reasons"]), "interval": tuple(values["interval"])}
        stopped = Stopping(**values["sequential"]) if values.get("sequential") else None
        more = {"guards": guards, "sequential": stopped, "warnings": tuple(values.get("warnings", ()))}
        return cls(**values | fixed | more)

    def in_words(self, outcome: str | None = None) -> str:
        """promoted, refused or waits for a person: `outcome` says what was done where that is not what the gate said."""
        return outcome or ("promoted" if self.promote else "refused")

    def items_in_words(self) -> str:
        """Such as 150 items, or 75 of 250 items where the sequential test needed no more."""
        planned = self.sequential.num_planned if self.sequential else self.num_items
        return f"{self.num_items} items" if planned == self.num_items else f"{self.num_items} of {planned} items"

    def metrics(self) -> dict[str, float]:
        """guard/<name>/drop with its limits; gate/items_used, gate/e_value and the like of the sequential test."""
        found = self.sequential.metrics(self.num_items) if self.sequential else {}
        return found | {name: value for result in self.guards for name, value in result.metrics().items()}

    def tags(self, outcome: str | None = None) -> dict[str, str]:
        """Short strings for a model version's tags; few, because each one is a call to the registry. `outcome`: `in_words`."""
        low, high = self.interval
        values = {
            "verdict": self.in_words(outcome),
            "reason": " ".join(self.reasons),
            "champion": self.champion_version,
            "numbers": f"{self.metric} {self.accuracy_before:.4f} -> {self.accuracy_after:.4f} "
            f"({self.difference:+.4f} [{low:+.4f}, {high:+.4f}]) on {self.items_in_words()}, {self.test} p={self.p_value:.4g}, "
            f"wins/losses/ties {self.wins}/{self.losses}/{self.ties}",
            "evaluation": self.evaluation_digest,
        }
        values |= {"guards": guards_in_a_line(self.guards)} if self.guards else {}
        return {f"gate.{name}": value[:MAX_TAG_CHARS] for name, value in values.items()}

    def markdown(self, outcome: str | None = None) -> str:
        """A report of about 25 lines. `outcome`: `in_words`."""
        low, high = self.interval
        word = self.in_words(outcome)
        lines = [
            f"## {word[:1].upper()}{word[1:]}: version {self.candidate_version} "
            f"against champion {self.champion_version}",
            "",
            *[f"- {reason}" for reason in self.reasons],
            "",
            *[line for warning in self.warnings for line in (f"{WARNING}{warning}", "")],
            "| | champion | candidate | difference | 95 % interval | p (one-sided) |",
            "|---|---|---|---|---|---|",
            f"| {self.metric}, {self.items_in_words()} | {self.accuracy_before:.3f} | {self.accuracy_after:.3f} "
            f"| {self.difference:+.3f} | [{low:+.3f}, {high:+.3f}] | {self.p_value:.4g} |",
            "",
            f"Candidate better on {self.wins} items, worse on {self.losses}, equal on {self.ties} ({self.test}).",
            *self._disagreement(),
            "",
            "| check | value | rule | passed |",
            "|---|---|---|---|",
            *[
                f"| {check.name} | {check.value:.4g} | {check.rule} {check.threshold:.4g} | {'yes' if check.passed else 'NO'} |"
                for check in self.checks
            ],
            *guard_table(self.guards),
        ]
        return "\n".join(lines) + "\n"

    def _disagreement(self) -> list[str]:
        """Why interval and p-value can point to different sides, where they do."""
        if self.sequential:
            return self.sequential.interval_note()
        above, tested_at = self.interval[0] > 0.0, next((c.threshold for c in self.checks if c.name == "p_value"), ONE_SIDED)
        if (self.p_value <= ONE_SIDED) == above == (self.p_value <= tested_at):
            return []
        how = "an exact test of the items that changed" if self.test == "mcnemar" else "random signs of the items' differences"
        return [
            "",
            "The interval and p point to different sides: the interval is two-sided at 95 % and resamples items; p is one-sided, "
            f"is held against {tested_at:.3g}, and comes from {how}. Near the border they differ. The gate decides by p.",
        ]

"""The gate's decision with its numbers, and how it is shown."""

import math
from dataclasses import asdict, dataclass
from typing import Any

MAX_TAG_CHARS = 250


@dataclass(frozen=True)
class Check:
    """One condition of a promotion; all must hold."""

    name: str
    value: float
    rule: str
    """"<=" or ">=": value `rule` threshold."""
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

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe copy; a check's value that is not finite becomes None."""
        values = asdict(self)
        for check in values["checks"]:
            check["value"] = check["value"] if math.isfinite(check["value"]) else None
        return {**values, "interval": list(self.interval), "reasons": list(self.reasons), "checks": list(values["checks"])}

    def tags(self) -> dict[str, str]:
        """Short strings for a model version's tags; few, because each one is a call to the registry."""
        low, high = self.interval
        values = {
            "verdict": "promoted" if self.promote else "refused",
            "reason": " ".join(self.reasons),
            "champion": self.champion_version,
            "numbers": f"{self.metric} {self.accuracy_before:.4f} -> {self.accuracy_after:.4f} "
            f"({self.difference:+.4f} [{low:+.4f}, {high:+.4f}]) on {self.num_items} items, {self.test} p={self.p_value:.4g}, "
            f"wins/losses/ties {self.wins}/{self.losses}/{self.ties}",
            "evaluation": self.evaluation_digest,
        }
        return {f"gate.{name}": value[:MAX_TAG_CHARS] for name, value in values.items()}

    def markdown(self) -> str:
        """A report of about 25 lines."""
        low, high = self.interval
        lines = [
            f"## {'Promoted' if self.promote else 'Refused'}: version {self.candidate_version} "
            f"against champion {self.champion_version}",
            "",
            *[f"- {reason}" for reason in self.reasons],
            "",
            "| | champion | candidate | difference | 95 % interval | p (one-sided) |",
            "|---|---|---|---|---|---|",
            f"| {self.metric}, {self.num_items} items | {self.accuracy_before:.3f} | {self.accuracy_after:.3f} "
            f"| {self.difference:+.3f} | [{low:+.3f}, {high:+.3f}] | {self.p_value:.4g} |",
            "",
            f"Candidate better on {self.wins} items, worse on {self.losses}, equal on {self.ties} ({self.test}).",
            "",
            "| check | value | rule | passed |",
            "|---|---|---|---|",
            *[
                f"| {check.name} | {check.value:.4g} | {check.rule} {check.threshold:.4g} | {'yes' if check.passed else 'NO'} |"
                for check in self.checks
            ],
        ]
        return "\n".join(lines) + "\n"

"""An iteration in a few sentences: what was decided, what the teacher taught, what should worry."""

from collections.abc import Mapping, Sequence
from typing import Any

from opsd_core.judgement.guard_result import guards_in_a_line
from opsd_core.judgement.statistics import wilson
from opsd_core.judgement.verdict import WAITS, Verdict

_LEAST_DIVERGENCE = 1e-6
"""Mean divergence, in nats, below which a teacher says what the student says."""
_FEW = 10
"""Items below which the lowest slice is not worth a sentence."""


def report_head(name: str, number: int, version: int, outcome: str, worries: Sequence[str], address: str) -> str:
    """The first lines of an iteration's report: what was decided, what should worry, and where the answers are."""
    listed = [f"- **{worry[:1].upper()}{worry[1:]}**" for worry in worries]
    lines = [f"# {name}: iteration {number} — version {version} {outcome}", "", *listed, *([""] if listed else [])]
    return "\n".join([*lines, f"[What it answers, before and after]({address})", "", ""])


def shown_accuracy(metrics: Mapping[str, float]) -> str:
    """Such as 0.473 [0.395, 0.553]."""
    if "eval/accuracy" not in metrics:
        return "unknown (no labels)"
    low, high = accuracy_interval(metrics["eval/accuracy"], int(metrics["eval/num_items"]))
    return f"{metrics['eval/accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def accuracy_interval(accuracy: float, items: int) -> tuple[float, float]:
    """95 % (Wilson): inside [0, 1] also near its ends."""
    return wilson(accuracy * items, items)


def guards_in_words(verdict: Verdict) -> str:
    """That every guard rail holds, or which ones do not; and what the guards found."""
    failed = [check.name for check in verdict.rails if not check.passed]
    said = f"{', '.join(failed)} failed" if failed else f"all {len(verdict.rails)} guard rails hold"
    found = guards_in_a_line(verdict.guards)
    return f"{said}; guards: {found}" if found else said


def headline(name: str, ends: Sequence[float | None], judged: Sequence[tuple[int, str]], guards: str) -> str:
    """What a campaign changed, in one line. `ends`: accuracy at start and end; `judged`: versions and outcomes."""
    if not judged:
        return f"{name}: no iteration ended, the champion stays"
    before, after = ("unknown" if share is None else f"{100 * share:.1f} %" for share in ends)
    shipped = [version for version, outcome in judged if outcome == "promoted"]
    waits = [version for version, outcome in judged if outcome.startswith("waits")]
    verdict = f"version {shipped[-1]} promoted" if shipped else f"nothing promoted of {len(judged)} version(s)"
    verdict = f"version {waits[-1]} waits for a person" if waits and not shipped else verdict
    return f"{name}: {verdict}; accuracy {before} → {after}; {guards}"


def taught(probes: Mapping[str, float], num_kept: int, unchanged: bool) -> list[str]:
    """Why the teacher taught nothing, one sentence per sign of it; empty when it taught something.

    `probes`: of the first step; `num_kept`: completions trained on; `unchanged`: no held-out answer became right or wrong.
    """
    found = []
    divergence, gain = probes.get("teacher/divergence"), probes.get("teacher/privilege_gain")
    if num_kept == 0:
        found.append("The teacher taught nothing: no completion was kept to train on.")
    if divergence is not None and divergence < _LEAST_DIVERGENCE:
        found.append(
            f"The teacher taught nothing: its distribution is the student's (mean divergence {divergence:.2g} nats per token). "
            "Is what only the teacher sees in its prompt?"
        )
    elif gain is not None and gain <= 0.0:
        found.append(
            f"The teacher knows no more than the student: with its context it gives the reference answers {gain:+.3g} nats per "
            "token, which is not above 0."
        )
    if unchanged and not found:
        found.append("The training changed nothing that is measured: no held-out answer became right or wrong.")
    return found


def warned_slices(rows: Sequence[Mapping[str, Any]]) -> str:
    """The slices that fall while the whole does not, in one line; "" when none does."""
    fallen = [f"{r['dimension']} = {r['value']}" for r in rows if r["warns"]]
    return f"Slices that fall although the whole does not: {'; '.join(fallen)}." if fallen else ""


DECIDED_BY = "- Decided by "
"""How the line of a version's page begins that says who decided."""


def decided_by(tags: Mapping[str, str]) -> str:
    """Who decided about a version with these tags, as the line of its page."""
    said, who = tags.get("opsd.approval", ""), tags.get("opsd.approval_by", "")
    if who:
        return f"{DECIDED_BY}{_in_a_line(who, 80)}, {said}: {_in_a_line(tags.get('opsd.approval_comment', ''), 300)}"
    waits = said or tags.get("gate.verdict") == WAITS
    return f"{DECIDED_BY}{'nobody yet' if waits else 'the gate'}"


def _in_a_line(text: str, most: int) -> str:
    """What a person typed, as text in a line of markdown."""
    plain = " ".join(text.split())[:most]
    return "".join(f"\\{sign}" if sign in "*_`[]<>#|\\" else sign for sign in plain)


def version_description(
    verdict: Verdict,
    outcome: str,
    slices: Sequence[Mapping[str, Any]],
    links: Mapping[str, str],
    record: Sequence[str] = (),
) -> str:
    """A version's page in at most ten lines of markdown: verdict, number, guards and rails, slices, links.

    `record`: more lines, such as the decision's place in the model's ledger, who decided, and the parents.
    """
    low, high = verdict.interval
    rails = verdict.rails
    failed = [f"{check.name} {check.value:.3g} (rule {check.rule} {check.threshold:.3g})" for check in rails if not check.passed]
    gate = _cut(" ".join(" ".join(verdict.reasons).split()), 600)
    lines = [
        f"**{outcome[:1].upper()}{outcome[1:]}** against version {verdict.champion_version}. The gate: {gate}",
        "",
        f"- {verdict.metric} {100 * verdict.accuracy_before:.1f} → {100 * verdict.accuracy_after:.1f} % on "
        f"{verdict.items_in_words()}, {100 * verdict.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]; "
        f"better on {verdict.wins}, worse on {verdict.losses}",
        f"- Guards: {guards_in_a_line(verdict.guards) or 'none'}. "
        f"Guard rails: {'; '.join(failed) if failed else f'all {len(rails)} hold'}",
        f"- {_slices_in_a_line(slices)}",
        *record,
        "- " + " · ".join(f"[{text}]({address})" for text, address in links.items() if address),
    ]
    return "\n".join(lines)


def _slices_in_a_line(slices: Sequence[Mapping[str, Any]]) -> str:
    if warned := warned_slices(slices):
        return f"⚠ {_cut(warned, 600)}"
    if not (large := [row for row in slices if row["n"] >= _FEW]):
        return "Slices: none has enough items to say anything."
    worst = min(large, key=lambda row: row["difference"][0])
    return (
        f"Slices: none of {len(slices)} falls beyond chance; the lowest is {worst['dimension']} = {worst['value']} "
        f"({100 * worst['difference'][0]:+.1f} points on {worst['n']} items)."
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"

"""What a version's tags and description say once a person has answered, or nobody has."""

from opsd_core.judgement.verdict import WAITS
from tasks.tracking import Tracker
from tasks.tracking.registry import CHAMPION


def record_answer(registry: Tracker, name: str, version: int, outcome: str, who: str, why: str) -> str:
    """Write down an answer, `approved` or `refused`; returns the word for what became of the version: promoted or refused."""
    word = "promoted" if outcome == "approved" else "refused"
    said = {"opsd.approval": outcome, "opsd.approval_by": who, "opsd.approval_comment": why, "gate.verdict": word}
    registry.set_version_tags(name, version, said)
    text, waits = registry.get_version(name, version).description, f"**{WAITS.capitalize()}**"
    if text.startswith(waits):
        registry.describe_version(name, version, text.replace(waits, f"**{word.capitalize()}**", 1))
    return word


def record_silence(registry: Tracker, name: str, version: int, why: str) -> bool:
    """Write down that nobody answered and nobody will be asked again; False when the version waits for nobody.

    A champion was answered for, by a process that died before it wrote that down: this is written then.
    """
    if registry.version_tags(name, version).get("gate.verdict") != WAITS:
        return False
    if registry.version_by_alias(name, CHAMPION) == version:
        move = registry.moves(name)[-1]
        record_answer(registry, name, version, "approved", move.who, move.why)
        return False
    record_answer(registry, name, version, "refused", "nobody", why)
    return True

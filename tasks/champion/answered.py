"""What a version's tags and description say of its fate: what the gate did, what a person answered, what was taken back.

`gate.verdict` is what became of the version, `opsd.approval` what the last person said who was asked or who moved the alias, and
`opsd.gate` what the gate itself did, for good. The first two always say the same:

    gate.verdict          opsd.approval
    waits for a person    waits for a person until ..., or none where nobody is asked (promotion.mode=manual)
    promoted              approved, or none where the gate moved the alias
    refused               refused, or none where the gate refused
    rolled back           rolled back
"""

import re

from opsd_core.answers.words import DECIDED_BY, decided_by
from opsd_core.judgement.verdict import ROLLED_BACK, WAITS
from tasks.tracking import Tracker
from tasks.tracking.registry import CHAMPION

_WORD = {"approved": "promoted", "refused": "refused", ROLLED_BACK: ROLLED_BACK}
_FIRST_WORDS = re.compile(r"\*\*[^*\n]{1,40}\*\*")


def record_answer(registry: Tracker, name: str, version: int, outcome: str, who: str, why: str) -> str:
    """Write down an answer, `approved`, `refused` or `rolled back`; returns what became of the version: promoted, refused, ...

    Of a version that no gate has judged, such as a model's first one, only the answer is written down.
    """
    word, judged = _WORD[outcome], "gate.verdict" in registry.version_tags(name, version)
    said = {"opsd.approval": outcome, "opsd.approval_by": who, "opsd.approval_comment": why}
    registry.set_version_tags(name, version, said | ({"gate.verdict": word} if judged else {}))
    text = registry.get_version(name, version).description
    lines = [decided_by(said) if line.startswith(DECIDED_BY) else line for line in text.splitlines()]
    if judged and lines:
        lines[0] = _FIRST_WORDS.sub(f"**{word.capitalize()}**", lines[0], count=1)
        registry.describe_version(name, version, "\n".join(lines))
    return word


def record_move(registry: Tracker, name: str, version: int, moved: bool, who: str, why: str) -> None:
    """Write down that a person made `version` champion, unless its tags say so already. `moved`: it was not champion before."""
    if moved or registry.version_tags(name, version).get("gate.verdict", "promoted") != "promoted":
        record_answer(registry, name, version, "approved", who, why)


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


def overtaken(registry: Tracker, name: str, version: int, decision: str) -> str | None:
    """Why an answer comes too late to change anything: the version became champion meanwhile. None when it does not."""
    tags, champion = registry.version_tags(name, version), registry.version_by_alias(name, CHAMPION)
    if decision == "refuse" and champion == version:
        return f"it became champion while the question waited; to take that back: opsd rollback {name} --reason ..."
    if champion != version and tags.get("gate.verdict") == ROLLED_BACK:
        return f"it was champion while the question waited and was rolled back by {tags.get('opsd.approval_by', 'somebody')}"
    return None

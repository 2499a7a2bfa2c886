"""Privileged contexts: what only the teacher gets to see.

A context is one function `ContextInputs -> dict of template variables | None` and one line, with its default template and its
needs, in `opsd_core.config.kinds.contexts`. The dict always has `privileged_context`; None means that there is no context, and
the teacher sees the student's prompt or the completion is left out (teacher.missing_context).
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from opsd_core.config import TeacherConfig
from opsd_core.config.kinds.contexts import CONTEXT_KINDS
from opsd_core.digest import derive_seed
from opsd_core.errors import DataError
from opsd_core.graders import VERSION
from opsd_core.named import named
from opsd_core.prompts.attempts import another_attempt, drawn
from opsd_core.prompts.context_inputs import Attempt, Context, ContextInputs, Variables
from opsd_core.prompts.wrong import with_wrong_result
from opsd_core.records.examples import Example


def none(inputs: ContextInputs) -> None:
    """No privileged context."""
    return None


def reference(inputs: ContextInputs) -> Variables:
    """The item's own answer or solution (arXiv:2601.18734). DataError when the item has none."""
    return {"privileged_context": _reference_of(inputs.example, inputs.config)}


def shuffled_reference(inputs: ContextInputs) -> Variables:
    """Another item's reference: a control that keeps the format and removes the information."""
    name = inputs.config.reference
    own = getattr(inputs.example, name)
    other = _another(inputs, "shuffled", lambda item: getattr(item, name) != own)
    return {"privileged_context": _reference_of(other, inputs.config)}


def wrong_reference(inputs: ContextInputs) -> Variables:
    """The item's own reference with a wrong result: as plausible as the right one, which another item's is not.

    A reference without a number is answered with another item's.
    """
    seed = derive_seed("wrong", inputs.example.id)
    changed = with_wrong_result(_reference_of(inputs.example, inputs.config), seed)
    return shuffled_reference(inputs) if changed is None else {"privileged_context": changed}


def other_problem(inputs: ContextInputs) -> Variables:
    """Another item's question and reference: shows how, never what (OP2SD, arXiv:2608.09228)."""
    example = inputs.example
    other = _another(inputs, "other", lambda item: item.id != example.id and item.question != example.question)
    return {"privileged_context": _reference_of(other, inputs.config), "other_question": other.question}


def hint(inputs: ContextInputs) -> Variables:
    """The first whole sentences within `context_fraction` of the reference, at least one."""
    whole = _reference_of(inputs.example, inputs.config)
    return {"privileged_context": beginning(whole, inputs.config.context_fraction, "sentence")}


def partial(inputs: ContextInputs) -> Variables:
    """The first `context_fraction` of the reference's words, at least one (ATESD, arXiv:2605.11458)."""
    whole = _reference_of(inputs.example, inputs.config)
    return {"privileged_context": beginning(whole, inputs.config.context_fraction, "word")}


def sibling_success(inputs: ContextInputs) -> Variables | None:
    """Another completion of the same prompt that is right (SDPO, arXiv:2601.20802); None when there is none."""
    if inputs.config.only_unsuccessful and inputs.own.correct:
        return None
    others = [attempt for attempt in inputs.group if attempt.correct and attempt.sample_index != inputs.sample_index]
    return {"privileged_context": drawn(others, inputs).text} if others else None


def other_attempt(inputs: ContextInputs) -> Variables | None:
    """Another completion of the same prompt, right or wrong, as teacher.attempt chooses (OASIS, arXiv:2609.37915).

    What stands before the end of its thinking is not shown. None when no other one says anything, or only the same that is wrong.
    """
    if inputs.config.only_unsuccessful and inputs.own.correct:
        return None
    shown = another_attempt(inputs)
    return {"privileged_context": shown} if shown else None


def majority(inputs: ContextInputs) -> Variables | None:
    """Another completion that gives the answer most completions give (U-OPSD, arXiv:2608.06296); looks at no label.

    None when less than `min_agreement` of all completions agree, when two answers tie, or when no other one agrees.
    """
    votes = Counter(attempt.answer for attempt in inputs.group if attempt.answer is not None).most_common(2)
    if not votes or votes[0][1] < inputs.config.min_agreement * len(inputs.group):
        return None
    answer = votes[0][0]
    tied = len(votes) == 2 and votes[0][1] == votes[1][1]
    if tied or (inputs.config.only_unsuccessful and inputs.own.answer == answer):
        return None
    agreeing = [a for a in inputs.group if a.answer == answer and a.sample_index != inputs.sample_index]
    if not agreeing:
        return None
    return {"privileged_context": drawn(agreeing, inputs).text, "majority_answer": answer}


def feedback(inputs: ContextInputs) -> Variables | None:
    """The grader's word on the completion itself, which is shown too (SDPO, arXiv:2601.20802)."""
    own = inputs.own
    if own.correct is None or (inputs.config.only_unsuccessful and own.correct):
        return None
    return {"privileged_context": _verdict(own), "attempt": own.text}


def peer_success(inputs: ContextInputs) -> Variables | None:
    """A right answer of another model to the same prompt; None when no peer solved it.

    As positive peers in arXiv:2605.12652, where a peer is another rollout of the student itself.
    """
    return {"privileged_context": answer.text} if (answer := _of_a_peer(inputs, correct=True)) else None


def peer_failure(inputs: ContextInputs) -> Variables | None:
    """A wrong answer of another model, shown as wrong, with the grader's word on it; None when every peer solved the prompt."""
    attempt = _of_a_peer(inputs, correct=False)
    return {"privileged_context": _verdict(attempt), "attempt": attempt.text} if attempt else None


def thinking(inputs: ContextInputs) -> Variables:
    """Nothing: the teacher reads the student's own message, in its own mode (prompts.teacher_thinking).

    A control: much of what a privileged teacher seems to teach may be that it thinks (arXiv:2609.39118, arXiv:2609.20612).
    """
    return {"privileged_context": ""}


def instruction(inputs: ContextInputs) -> Variables:
    """What teacher.instruction says, or the context's default: how to answer, not what (OPCD, OPSDC arXiv:2603.05433)."""
    return {"privileged_context": inputs.config.instruction or inputs.config.kind.instruction}


CONTEXTS: dict[str, Context] = {name: named(kind.function) for name, kind in CONTEXT_KINDS.items()}


def build_context(inputs: ContextInputs) -> Variables | None:
    """The configured context's template variables, or None when it has nothing to show."""
    return CONTEXTS[inputs.config.context](inputs)


def context_identity(config: TeacherConfig) -> dict[str, Any]:
    """The settings that decide what the context shows; part of the identity of everything made with it."""
    if len(config.views) > 1:
        return {"views": [context_identity(view) for view in config.views]}
    config = config.views[0]
    names = ["context", "reference", "context_fraction", "instruction", *config.kind.reads]
    if config.kind.rollouts:
        names += ["min_agreement", "only_unsuccessful", "missing_context"]
    votes = {"graders": VERSION} if config.kind.rollouts or config.kind.peers else {}
    return config.model_dump(include=set(names)) | votes


_UNITS = {"sentence": re.compile(r"(?<=[.!?])\s+|\n+"), "word": re.compile(r"\s+")}


def beginning(text: str, fraction: float, unit: str) -> str:
    """The first max(1, floor(fraction * n)) of the text's n sentences or words; a single unit is cut one level finer.

    Sentences end at . ! ? or a line break; a single word is cut between characters. The text between units is kept.
    """
    text = text.strip()
    ends = [match.start() for match in _UNITS[unit].finditer(text)] + [len(text)] if unit in _UNITS else []
    if len(ends) == 1 and fraction < 1.0:
        return beginning(text, fraction, "word" if unit == "sentence" else "character")
    ends = ends or list(range(1, len(text) + 1))
    return text[: ends[max(1, math.floor(fraction * len(ends))) - 1]]


def _reference_of(example: Example, config: TeacherConfig) -> str:
    text: str = getattr(example, config.reference)
    if not text:
        raise DataError(
            f"item {example.id} has no {config.reference}, which teacher.context={config.context} shows the teacher. "
            f"Map data.columns.{config.reference}, or set teacher.reference to what the data set has."
        )
    return text


def _another(inputs: ContextInputs, name: str, suits: Callable[[Example], bool]) -> Example:
    """The first suitable item of the pool from a position that the item's id decides; never the item itself."""
    size = len(inputs.pool)
    start = derive_seed(name, inputs.example.id) % size if size else 0
    for offset in range(size):
        if suits(other := inputs.pool[(start + offset) % size]):
            return other
    raise DataError(f"teacher.context={inputs.config.context} needs at least two different items; the training split has none.")


def _of_a_peer(inputs: ContextInputs, *, correct: bool) -> Attempt | None:
    if inputs.config.only_unsuccessful and inputs.own.correct:
        return None
    suiting = [answer for answer in inputs.peers if answer.correct is correct and answer.text.strip()]
    return drawn(suiting, inputs) if suiting else None


def _verdict(attempt: Attempt) -> str:
    if attempt.report:
        return f"It is {'right' if attempt.correct else 'wrong'} {attempt.report}."
    if attempt.answer is None:
        return "It states no final answer."
    return f"Its answer {attempt.answer} is {'right' if attempt.correct else 'wrong'}."

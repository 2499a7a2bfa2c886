"""The privileged contexts' names, default templates and needs: data that configuration rules and prompts share.

Template variables: question, answer, solution, student_prompt (the user
message that the student sees), privileged_context, and a kind's own `variables`.
"""

from collections.abc import Collection
from typing import NamedTuple


class ContextKind(NamedTuple):
    """One kind of context: its default texts and what it needs."""

    function: str
    """What makes it, below `opsd_core`: from an item and what is known of it to template variables."""
    template: str
    """The teacher's user message."""
    system: str = ""
    """The teacher's system message; empty = prompts.system."""
    instruction: str = ""
    """Default of teacher.instruction."""
    reference: bool = False
    """Shows the reference (answer or solution) of this or another item: needs that column."""
    own_reference: bool = False
    """Holds (part of) the item's own reference, so it must raise the likelihood of the answer."""
    rollouts: bool = False
    """Made from completions of this iteration, one context per completion."""
    siblings: bool = False
    """Needs several completions per prompt."""
    grades: bool = False
    """Needs to know which completions are right."""
    peers: bool = False
    """Shows what another model answered to the prompt."""
    variables: tuple[str, ...] = ()
    """Template variables that it gives beside privileged_context."""
    control: bool = False
    """Takes the information away and keeps the format: allowed in a control arm only."""
    reads: tuple[str, ...] = ()
    """Settings of `teacher` that only contexts like this one read."""


_REFERENCE = "{{ student_prompt }}\n\n(The correct final answer is {{ privileged_context }}.)"

CONTEXT_KINDS: dict[str, ContextKind] = {
    "none": ContextKind("prompts.contexts.none", ""),
    "reference": ContextKind("prompts.contexts.reference", _REFERENCE, reference=True, own_reference=True),
    "shuffled_reference": ContextKind("prompts.contexts.shuffled_reference", _REFERENCE, reference=True, control=True),
    "wrong_reference": ContextKind("prompts.contexts.wrong_reference", _REFERENCE, reference=True, control=True),
    "demo": ContextKind(
        "prompts.contexts.reference",
        "{{ student_prompt }}\nThis is an example for a response to the question:\n{{ privileged_context }}\n"
        "Now answer with a response of your own, including the thinking process:",
        reference=True,
        own_reference=True,
    ),
    "other_problem": ContextKind(
        "prompts.contexts.other_problem",
        "Here is another problem with its solution.\n\nProblem: {{ other_question }}\n\nSolution: "
        "{{ privileged_context }}\n\nUse what it shows and solve this problem:\n\n{{ student_prompt }}",
        reference=True,
        variables=("other_question",),
    ),
    "hint": ContextKind(
        "prompts.contexts.hint",
        "{{ student_prompt }}\n\nHint, the first step of a solution: {{ privileged_context }}",
        reference=True,
        own_reference=True,
        reads=("context_fraction",),
    ),
    "partial": ContextKind(
        "prompts.contexts.partial",
        "{{ student_prompt }}\n\nHere is the beginning of a reference solution:\n{{ privileged_context }}\n\n"
        "With its help, solve the problem in your own words.",
        reference=True,
        own_reference=True,
        reads=("context_fraction",),
    ),
    "sibling_success": ContextKind(
        "prompts.contexts.sibling_success",
        "{{ student_prompt }}\n\nCorrect solution:\n\n{{ privileged_context }}\n\nCorrectly solve the original question.",
        rollouts=True,
        siblings=True,
        grades=True,
    ),
    "other_attempt": ContextKind(
        "prompts.contexts.other_attempt",
        "{{ student_prompt }}\n\nHere is another attempt at this problem, which may be right or wrong:\n\n"
        "{{ privileged_context }}\n\nJudge for yourself what holds, and solve the problem in your own words.",
        rollouts=True,
        siblings=True,
        grades=True,
        reads=("attempt",),
    ),
    "majority": ContextKind(
        "prompts.contexts.majority",
        "{{ student_prompt }}\n\nHere is a solution whose answer most attempts agree on:\n\n{{ privileged_context }}\n\n"
        "With its help, solve the problem in your own words.",
        rollouts=True,
        siblings=True,
        variables=("majority_answer",),
        reads=("min_agreement",),
    ),
    "feedback": ContextKind(
        "prompts.contexts.feedback",
        "{{ student_prompt }}\n\nYour earlier attempt:\n\n{{ attempt }}\n\nThe following is feedback on it:\n\n"
        "{{ privileged_context }}\n\nCorrectly solve the original question.",
        rollouts=True,
        variables=("attempt",),
        grades=True,
    ),
    "peer_success": ContextKind(
        "prompts.contexts.peer_success",
        "{{ student_prompt }}\n\nAnother model's correct solution:\n\n{{ privileged_context }}\n\n"
        "Correctly solve the original question.",
        rollouts=True,
        grades=True,
        peers=True,
    ),
    "peer_failure": ContextKind(
        "prompts.contexts.peer_failure",
        "{{ student_prompt }}\n\nAnother model's attempt, which is wrong:\n\n{{ attempt }}\n\nThe following is feedback on it:"
        "\n\n{{ privileged_context }}\n\nCorrectly solve the original question.",
        rollouts=True,
        variables=("attempt",),
        grades=True,
        peers=True,
    ),
    "thinking": ContextKind(
        "prompts.contexts.thinking", "{{ student_prompt }}{{ privileged_context }}", control=True
    ),
    "concise": ContextKind(
        "prompts.contexts.instruction",
        "{{ privileged_context }}\n\n{{ student_prompt }}",
        instruction="Solve the following problem concisely: only the steps that are needed, no remarks, no repetition.",
        reads=("instruction",),
    ),
    "instruction": ContextKind(
        "prompts.contexts.instruction",
        "{{ student_prompt }}",
        system="{{ privileged_context }}",
        reads=("instruction",),
    ),
}


def composed(kinds: Collection[ContextKind]) -> ContextKind:
    """What a teacher needs that sees several contexts, each in a prompt of its own; it has no template of its own."""
    properties = {
        name: any(getattr(kind, name) for kind in kinds)
        for name, default in ContextKind._field_defaults.items()
        if isinstance(default, bool)
    }
    names = {
        name: tuple(dict.fromkeys(setting for kind in kinds for setting in getattr(kind, name)))
        for name in ("variables", "reads")
    }
    return ContextKind("", "", **properties, **names)

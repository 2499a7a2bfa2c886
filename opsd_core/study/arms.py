"""The arms of a study as data: what each changes in the base recipe. A new arm is a new entry.

Every arm trains on the same prompts for the same number of optimiser steps; `base` does not train. `opsd:64` is the arm
opsd with 64 labelled examples, and `ema.partial` is any teacher by its weights and its context.
"""

from typing import Any, NamedTuple

from opsd_core.config.kinds.contexts import CONTEXT_KINDS
from opsd_core.config.kinds.teachers import TEACHER_KINDS

Values = dict[str, Any]


class Arm(NamedTuple):
    """One arm: `overrides` on any model, `tiny` on top of them for the tiny model, which reads one character a token."""

    title: str
    overrides: Values
    tiny: Values | None = None
    role: str = "method"
    """base | supervised | method | control: how the report groups it."""
    trains: bool = True
    num_labels: int | None = None
    """Training examples; None = the whole training split."""


_OWN_TEMPLATE: Values = {"template": ""}
_FIFTH: Values = {"entropy_of": "student", "entropy_fraction": 0.2}
_OTHER_TINY: Values = {"teacher": {"template": "{{ other_question }}{{ privileged_context }}\n{{ question }}"}}

ARMS: dict[str, Arm] = {
    "base": Arm("the untrained model", {}, role="base", trains=False),
    "sft": Arm(
        "SFT on the references",
        {"distillation": {"divergence": "cross_entropy"}, "rollout": {"on_policy_fraction": 0.0}},
        role="supervised",
    ),
    "rft": Arm(
        "SFT on own completions that are right",
        {"distillation": {"divergence": "cross_entropy"}, "filter": {"route": "correct_only"}},
        role="supervised",
    ),
    "opsd": Arm("OPSD, frozen teacher with the reference", {"teacher": {"weights": "initial", "context": "reference"}}),
    "opsd_answer": Arm(
        "OPSD, the teacher sees the answer alone",
        {"teacher": {"weights": "initial", "context": "reference", "reference": "answer"} | _OWN_TEMPLATE},
    ),
    "opsd_mixed": Arm(
        "OPSD, at half of the prompts on the reference's own text",
        {"teacher": {"weights": "initial", "context": "reference"}, "rollout": {"on_policy_fraction": 0.5}},
    ),
    "opsd_previous": Arm(
        "OPSD, the previous iteration teaches", {"teacher": {"weights": "previous", "context": "reference"}}
    ),
    "opsd_ema": Arm(
        "OPSD, an average of the student teaches",
        {"teacher": {"weights": "ema", "context": "reference"}, "distillation": {"targets": "online"}},
    ),
    "other_problem": Arm(
        "OPSD, the teacher sees another problem's solution",
        {"teacher": {"context": "other_problem"} | _OWN_TEMPLATE},
        _OTHER_TINY,
    ),
    "majority": Arm(
        "label-free: the majority's solution as context",
        {"teacher": {"context": "majority", "min_agreement": 0.5} | _OWN_TEMPLATE, "rollout": {"group_size": 4}},
        {"teacher": {"template": "{{ privileged_context }}|{{ question }}"}},
    ),
    "concise": Arm(
        "label-free: the teacher is told to be concise",
        {"teacher": {"context": "concise"} | _OWN_TEMPLATE},
        {"teacher": {"template": "{{ privileged_context }}\n{{ question }}"}},
    ),
    "separate_teacher": Arm(
        "distillation from a separate teacher, without privileged context",
        {"teacher": {"weights": "external", "context": "none"} | _OWN_TEMPLATE},
    ),
    "null": Arm(
        "control: the teacher is the student", {"control": True, "teacher": {"context": "none"}}, role="control"
    ),
    "shuffled": Arm(
        "control: the teacher sees another item's reference",
        {"control": True, "teacher": {"context": "shuffled_reference"}},
        role="control",
    ),
    "wrong": Arm(
        "control: the teacher sees the item's reference with a wrong result",
        {"control": True, "teacher": {"context": "wrong_reference"}},
        role="control",
    ),
    "thinking": Arm(
        "control: the teacher sees nothing more, but thinks",
        {"control": True, "teacher": {"context": "thinking"} | _OWN_TEMPLATE, "prompts": {"teacher_thinking": True}},
        role="control",
    ),
    "top_tokens": Arm("OPSD on the tokens of highest entropy", {"token_weights": _FIFTH | {"entropy": "top"}}),
    "random_tokens": Arm(
        "control: OPSD on as many tokens, drawn at random", {"token_weights": _FIFTH | {"entropy": "random"}}, role="control"
    ),
    "opsa": Arm(
        "control: no teacher, unlikely tokens become less likely",
        {"distillation": {"divergence": "opsa"}},
        role="control",
    ),
}


_HINT, _BEFORE = "{{ privileged_context }}|{{ question }}", "{{ privileged_context }}\n{{ question }}"
_INSTRUCTION = "Work out the answer step by step in your head, then write only the final result."


def teacher_arm(weights: str, context: str) -> Arm | None:
    """A teacher by its `weights` and its `context`, with the context's own template; None when there is no such teacher."""
    kind, teacher = CONTEXT_KINDS.get(context), TEACHER_KINDS.get(weights)
    if kind is None or teacher is None:
        return None
    control = kind.control or (context == "none" and not teacher.other_models)
    values: Values = {"control": control, "teacher": {"weights": weights, "context": context} | _OWN_TEMPLATE}
    if "instruction" in kind.reads and not kind.instruction:
        values["teacher"]["instruction"] = _INSTRUCTION
    if context == "thinking":
        values["prompts"] = {"teacher_thinking": True}
    if not teacher.recordable:
        values["distillation"] = {"targets": "online"}
    if teacher.adapters:
        values["model"] = {"lora": {"rank": 16}}
    if kind.siblings:
        values["rollout"] = {"group_size": 4}
    # The tiny model was pretrained to read "hint|question"; any other text stands on a line before the question.
    whole_answer = kind.own_reference or kind.siblings or kind.control or context == "peer_success"
    reads = context != "none" and not kind.system
    tiny = {"teacher": {"template": _HINT if whole_answer else _BEFORE}} if reads else None
    title = f"teacher: {weights} weights, context {context}"
    return Arm(title, values, tiny, role="control" if control else "method")


def other_models(changes: Values, separate: str, own: str) -> Values:
    """The settings that name the other models of an arm's teacher: `separate`, and as a second peer the model itself."""
    teacher = changes.get("teacher", {})
    models = TEACHER_KINDS[teacher.get("weights", "initial")].models
    if models == "source":
        return {"teacher": {"source": separate}}
    shown = CONTEXT_KINDS[teacher.get("context", "none")].peers
    return {"teacher": {"peers": [separate, own]}} if shown or models == "peers" else {}


def find_arm(name: str) -> Arm | None:
    """The arm of this name, with its number of labelled examples where `:N` follows; None when there is none."""
    kind, colon, number = name.partition(":")
    weights, dot, context = kind.partition(".")
    entry = teacher_arm(weights, context) if dot else ARMS.get(kind)
    if entry is None or not colon:
        return entry
    if not (entry.trains and number.isascii() and number.isdigit() and len(number) < 10 and int(number) > 0):
        return None
    return entry._replace(title=f"{entry.title}, {number} labelled examples", num_labels=int(number))

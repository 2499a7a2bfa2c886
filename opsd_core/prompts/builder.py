"""Prompts of the two sides: what the student sees, and what the teacher sees on top.

Templates are data. User text (questions, answers, solutions) is a template's *value*, never a template, and templates run in a
process of their own with limits of time and memory, so neither a data set nor a template can do harm. Nor can a text speak for
the chat template: a control token's name inside it is encoded as text (`opsd_core.models.plain_text`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from opsd_core.bounded.templates import RenderError, rendered
from opsd_core.config import CampaignConfig, DataConfig, PromptConfig, TeacherConfig
from opsd_core.digest import digest
from opsd_core.errors import ConfigError, DataError, ModelError
from opsd_core.graders import grader_name
from opsd_core.models.chat import DATE, as_messages, chat_template, chat_texts, check_template, date_line
from opsd_core.models.plain_text import encode, shielded_values
from opsd_core.records.examples import Example

Item, Made = TypeVar("Item"), TypeVar("Made")
_TOGETHER = 256
"""Prompts that are made at once where they are only measured."""


class PromptTooLongError(DataError):
    """A prompt exceeds its budget."""


@dataclass(frozen=True)
class PromptBuilder:
    """Turns examples into token ids, one chat prompt per side."""

    tokenizer: PreTrainedTokenizerBase
    prompts: PromptConfig
    teacher: TeacherConfig
    chat_template: str | None = None
    data: DataConfig | None = None
    """Where the grader is named, for contexts that show a completion with its grade."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, config: CampaignConfig) -> "PromptBuilder":
        """The prompts that `config` describes, in this tokenizer."""
        return cls(tokenizer, config.prompts, config.teacher, config.model.chat_template, config.data)

    def student_ids(self, example: Example) -> list[int]:
        """Token ids of the student's prompt. DataError when it exceeds prompts.max_prompt_length."""
        return self.all_student_ids([example])[0]

    def all_student_ids(self, examples: Sequence[Example]) -> list[list[int]]:
        """As `student_ids`, of many examples at once; DataError for the first that has none."""
        return [_or_raise(ids) for ids in self.students(examples)]

    def teacher_ids(self, example: Example, context: Mapping[str, str] | None) -> list[int]:
        """Token ids of the teacher's prompt; without a context it is the student's, id for id.

        `context` holds the template variables that only the teacher sees. DataError when the prompt exceeds
        prompts.max_teacher_prompt_length: a cut reference would silently remove the signal.
        """
        return _or_raise(self.teachers([(example, context)])[0])

    def students(self, examples: Sequence[Example]) -> list[list[int] | DataError]:
        """Token ids of each student's prompt, or why it has none."""
        texts = self._student_texts(examples)
        system, thinking, limit = self.prompts.system, self.prompts.student_thinking, self.prompts.max_prompt_length
        encoded = _of_each(lambda texts: self._encoded([(text, system) for text in texts], thinking), texts)
        return [
            _within_budget(ids, limit, "prompts.max_prompt_length", "student", example)
            for ids, example in zip(encoded, examples, strict=True)
        ]

    def teachers(
        self, shown: Sequence[tuple[Example, Mapping[str, str] | None]]
    ) -> list[list[int] | DataError]:
        """Token ids of the teacher's prompt of each (example, context) as `teacher_ids`, or why it has none."""
        informed = [(example, context) for example, context in shown if context is not None]
        students = iter(self.students([example for example, context in shown if context is None]))
        teachers = iter(self._informed(informed))
        return [next(students if context is None else teachers) for _, context in shown]

    def _informed(self, shown: Sequence[tuple[Example, Mapping[str, str]]]) -> list[list[int] | DataError]:
        student_texts = self._student_texts([example for example, _ in shown])

        def values(number: int) -> dict[str, Any]:
            example, context = shown[number]
            student = _or_raise(student_texts[number])
            return {"student_prompt": student} | self._values(example_variables(example) | dict(context))

        def messages(variables: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
            systems: Sequence[str | None] = [self.prompts.system] * len(variables)
            if self.teacher.system_template:
                systems = render_all("teacher.system", self.teacher.system_template, variables)
            return list(zip(render_all("teacher.template", self.teacher.user_template, variables), systems, strict=True))

        made = _of_each(messages, _each(values, range(len(shown))))
        encoded = _of_each(lambda written: self._encoded(written, self.prompts.teacher_thinking), made)
        limit = self.prompts.max_teacher_prompt_length
        return [
            _within_budget(ids, limit, "prompts.max_teacher_prompt_length", "teacher", example)
            for ids, (example, _) in zip(encoded, shown, strict=True)
        ]

    @property
    def template(self) -> str:
        """The chat template that counts. ModelError when there is none."""
        return chat_template(self.tokenizer, self.chat_template)

    @property
    def student_digest(self) -> str:
        """Identity of how an example becomes the student's text."""
        sides = {"system": self.prompts.system, "user": self.prompts.student, "thinking": self.prompts.student_thinking}
        return digest(sides | {"chat": self._shown_template} | self._date)

    @property
    def views(self) -> list["PromptBuilder"]:
        """One for each prompt that a log-linear teacher's members read; else this one alone."""
        return [replace(self, teacher=view) for view in self.teacher.views]

    @property
    def teacher_digest(self) -> str:
        """Identity of how an example and a privileged context become the teacher's text."""
        if len(views := self.views) > 1:
            return digest([view.teacher_digest for view in views])
        sides = {
            "system": views[0].teacher.system_template or self.prompts.system,
            "user": views[0].teacher.user_template,
            "thinking": self.prompts.teacher_thinking,
        }
        graded = {"grader": self.grader} if self.grader else {}
        return digest(sides | graded | {"chat": self._shown_template, "student": self.student_digest})

    @property
    def grader(self) -> str:
        """Of contexts that show a completion with its grade; "" for all others."""
        kind = self.teacher.kind
        return grader_name(self.data) if self.data and "attempt" in kind.variables and not kind.peers else ""

    @property
    def _shown_template(self) -> str | None:
        try:
            return self.template
        except ModelError:
            return None  # said when a prompt is built

    @property
    def _date(self) -> dict[str, str]:
        """The date on which a template that asks for it runs."""
        return {"date": DATE.date().isoformat()} if date_line(self._shown_template or "") else {}

    def _values(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        return shielded_values(self.tokenizer, variables, self.template)

    def student_texts(self, examples: Sequence[Example]) -> list[str]:
        """What the student's user message says of each example. DataError for the first that cannot be asked."""
        return [_or_raise(text) for text in self._student_texts(examples)]

    def _student_texts(self, examples: Sequence[Example]) -> list[str | DataError]:
        values = _each(lambda example: self._values(example_variables(example)), examples)
        return _of_each(lambda variables: render_all("prompts.student", self.prompts.student, variables), values)

    def _encoded(self, written: Sequence[tuple[str, str | None]], thinking: bool) -> list[list[int]]:
        """Token ids of each (user's text, system message)."""
        template = self.template
        for system in {system is not None for _, system in written}:
            check_template(self.tokenizer, template, system, thinking)
        chats = [as_messages(self.tokenizer, template, text, system) for text, system in written]
        texts = chat_texts(self.tokenizer, template, chats, enable_thinking=thinking)
        return [encode(self.tokenizer, text) for text in texts]


def example_variables(example: Example) -> dict[str, Any]:
    """What every template can show of an item."""
    return {"question": example.question, "answer": example.answer, "solution": example.solution}


def render(field: str, template: str, variables: Mapping[str, Any]) -> str:
    """The template's text; ConfigError naming `field` when it cannot be rendered."""
    return render_all(field, template, [variables])[0]


def render_all(field: str, template: str, variables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The template's text for each of `variables`; ConfigError naming `field` when it cannot be rendered."""
    try:
        return rendered("plain", template, variables)
    except RenderError as error:
        names = ", ".join(sorted(set().union(*variables)))
        raise ConfigError(f"{field}={template!r:.120} cannot be rendered: {error}. Variables that exist: {names}.") from error


def _parts(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[start : start + _TOGETHER] for start in range(0, len(items), _TOGETHER)]


def _each(make: Callable[[Item], Made], items: Sequence[Item]) -> list[Made | DataError]:
    """What is made of each item, or the error in its place."""
    made: list[Made | DataError] = []
    for item in items:
        try:
            made.append(make(item))
        except DataError as error:
            made.append(error)
    return made


def _of_each(make: Callable[[list[Item]], Sequence[Made]], items: Sequence[Item | DataError]) -> list[Made | DataError]:
    """What is made at once of the items; errors among them stay in their places."""
    right = [item for item in items if not isinstance(item, DataError)]
    made = iter(make(right) if right else [])
    return [item if isinstance(item, DataError) else next(made) for item in items]


def _or_raise(made: Made | DataError) -> Made:
    if isinstance(made, DataError):
        raise made
    return made


def _within_budget(
    ids: list[int] | DataError, limit: int, field: str, side: str, example: Example
) -> list[int] | DataError:
    if isinstance(ids, DataError) or len(ids) <= limit:
        return ids
    return PromptTooLongError(
        f"the {side} prompt of item {example.id} has {len(ids)} tokens, more than {field}={limit}. Nothing is cut "
        f"silently; raise {field}, shorten the template, or set prompts.overflow=drop to leave such items out."
    )


def fitting_examples(
    examples: Sequence[Example],
    builder: PromptBuilder,
    contexts: Callable[[Example], Mapping[str, str] | None],
    longest: dict[str, int] | None = None,
) -> tuple[list[Example], list[str]]:
    """Examples whose prompts fit both budgets, and the ids of those whose prompts do not.

    With prompts.overflow=error a DataError states how many rows are affected and the first of them. `longest` gets the most
    tokens of a "student" and of a "teacher" prompt that fits.
    """
    fitting, too_long, first = [], [], ""
    for part in _parts(examples):
        shown = _each(lambda example: (example, contexts(example)), part)
        teachers = _of_each(builder.teachers, shown)
        for example, *prompts in zip(part, builder.students(part), teachers, strict=True):
            if error := next((prompt for prompt in prompts if isinstance(prompt, DataError)), None):
                too_long.append(example.id)
                first = first or str(error)
                continue
            fitting.append(example)
            if longest is not None:
                pairs = zip(("student", "teacher"), prompts, strict=True)
                longest |= {side: max(len(ids), longest.get(side, 0)) for side, ids in pairs}
    if too_long and builder.prompts.overflow == "error":
        raise DataError(f"{len(too_long)} of {len(examples)} items have a prompt that does not fit. The first: {first}")
    return fitting, too_long

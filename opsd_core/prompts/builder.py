"""Prompts of the two sides: what the student sees, and what the teacher sees on top.

Templates are data. User text (questions, answers, solutions) is a template's *value*, never a template, and the
environment is sandboxed, so a data set cannot run template code. Nor can it speak for the chat template: a control token's
name inside it is encoded as text (`opsd_core.models.plain_text`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from opsd_core.config import CampaignConfig, PromptConfig, TeacherConfig
from opsd_core.digest import digest
from opsd_core.errors import ConfigError, DataError, ModelError
from opsd_core.models.chat import DATE, as_messages, bounded, chat_template, chat_text, check_template, date_line
from opsd_core.models.plain_text import encode, shielded_values
from opsd_core.records.examples import Example

_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


class PromptTooLongError(DataError):
    """A prompt exceeds its budget."""


@dataclass(frozen=True)
class PromptBuilder:
    """Turns examples into token ids, one chat prompt per side."""

    tokenizer: PreTrainedTokenizerBase
    prompts: PromptConfig
    teacher: TeacherConfig
    chat_template: str | None = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, config: CampaignConfig) -> "PromptBuilder":
        """The prompts that `config` describes, in this tokenizer."""
        return cls(tokenizer, config.prompts, config.teacher, config.model.chat_template)

    def student_ids(self, example: Example) -> list[int]:
        """Token ids of the student's prompt. DataError when it exceeds prompts.max_prompt_length."""
        ids = self._encode(self._student_text(example), self.prompts.system, self.prompts.student_thinking)
        return _within_budget(ids, self.prompts.max_prompt_length, "prompts.max_prompt_length", "student", example)

    def teacher_ids(self, example: Example, context: Mapping[str, str] | None) -> list[int]:
        """Token ids of the teacher's prompt; without a context it is the student's, id for id.

        `context` holds the template variables that only the teacher sees. DataError when the prompt exceeds
        prompts.max_teacher_prompt_length: a cut reference would silently remove the signal.
        """
        if context is None:
            return self.student_ids(example)
        variables = self._values(example_variables(example) | dict(context))
        variables = {"student_prompt": self._student_text(example)} | variables
        system = self.prompts.system
        if self.teacher.system_template:
            system = render("teacher.system", self.teacher.system_template, variables)
        text = render("teacher.template", self.teacher.user_template, variables)
        ids = self._encode(text, system, self.prompts.teacher_thinking)
        limit = self.prompts.max_teacher_prompt_length
        return _within_budget(ids, limit, "prompts.max_teacher_prompt_length", "teacher", example)

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
    def teacher_digest(self) -> str:
        """Identity of how an example and a privileged context become the teacher's text."""
        sides = {
            "system": self.teacher.system_template or self.prompts.system,
            "user": self.teacher.user_template,
            "thinking": self.prompts.teacher_thinking,
        }
        return digest(sides | {"chat": self._shown_template, "student": self.student_digest})

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

    def _student_text(self, example: Example) -> str:
        return render("prompts.student", self.prompts.student, self._values(example_variables(example)))

    def _encode(self, text: str, system: str | None, thinking: bool) -> list[int]:
        template = self.template
        check_template(self.tokenizer, template, system is not None, thinking)
        messages = as_messages(self.tokenizer, template, text, system)
        return encode(self.tokenizer, chat_text(self.tokenizer, template, messages, enable_thinking=thinking))


def example_variables(example: Example) -> dict[str, Any]:
    """What every template can show of an item."""
    return {"question": example.question, "answer": example.answer, "solution": example.solution}


def render(field: str, template: str, variables: dict[str, Any]) -> str:
    """The template's text; ConfigError naming `field` when it cannot be rendered."""
    try:
        if template in _RENDERED:
            return _compiled(template).render(variables)
        text = bounded(lambda: _compiled(template).render(variables), field)
        _RENDERED.add(template)
        return text
    except Exception as error:  # a template can raise anything
        why = str(error) or type(error).__name__
        raise ConfigError(
            f"{field}={template!r:.120} cannot be rendered: {why}. Variables that exist: {', '.join(sorted(variables))}."
        ) from error


_RENDERED: set[str] = set()
"""Templates that have been rendered once, in bounded time; after that the thread for it is saved."""


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    """Compiling costs fifty times what rendering does, and a data set is thousands of renderings."""
    return _ENVIRONMENT.from_string(template)


def _within_budget(ids: list[int], limit: int, field: str, side: str, example: Example) -> list[int]:
    if len(ids) > limit:
        raise PromptTooLongError(
            f"the {side} prompt of item {example.id} has {len(ids)} tokens, more than {field}={limit}. Nothing is cut "
            f"silently; raise {field}, shorten the template, or set prompts.overflow=drop to leave such items out."
        )
    return ids


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
    for example in examples:
        try:
            lengths = {"student": len(builder.student_ids(example))}
            lengths["teacher"] = len(builder.teacher_ids(example, contexts(example)))
            fitting.append(example)
            if longest is not None:
                longest |= {side: max(length, longest.get(side, 0)) for side, length in lengths.items()}
        except DataError as error:
            too_long.append(example.id)
            first = first or str(error)
    if too_long and builder.prompts.overflow == "error":
        raise DataError(f"{len(too_long)} of {len(examples)} items have a prompt that does not fit. The first: {first}")
    return fitting, too_long

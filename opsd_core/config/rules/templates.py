"""Rules of templates: syntax, filters and variables are checked when a configuration is made, not after rollouts are paid."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import SandboxedEnvironment

from opsd_core.bounded.templates import MAX_TEMPLATE
from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.refusals import shown

ITEM = frozenset({"question", "answer", "solution"})
"""What every template can show of an item."""
_SHOWN_TO_TEACHER = ITEM | {"student_prompt", "privileged_context"}
_GUARDS = {"defined", "undefined", "default", "d"}
_MAX_EXPONENT = 64


@pass_context
def _unused(context: Any, *values: Any, **named: Any) -> None:
    """Stands for a filter or test where nothing is rendered; the context that it asks for exists at no compilation."""


class _Environment(SandboxedEnvironment):
    """Compiles without computing anything: `{{ 'a' | center(10 ** 9) }}` is no constant here."""

    intercepted_binops = frozenset({"**", "*", "/", "//", "%", "+", "-"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters = dict.fromkeys([*self.filters, "tojson"], _unused)
        self.tests = dict.fromkeys(self.tests, _unused)


class _Generation(Extension):
    """`{% generation %}` marks the model's part of a chat template; what stands inside counts."""

    tags = {"generation"}  # noqa: RUF012 jinja2 declares it so

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_PLAIN = _Environment()
_CHAT = _Environment(extensions=["jinja2.ext.loopcontrols", _Generation])


def _templates_are_templates(config: CampaignSettings) -> str | None:
    named = [("prompts.student", config.prompts.student), ("rehearsal.prompts.student", config.rehearsal.prompts.student)]
    named += [("teacher.template", config.teacher.template), ("teacher.system", config.teacher.system)]
    named.append(("rollout.reference_completion", config.rollout.reference_completion))
    named += _of_guards(config)
    for field, template in named:
        if why := fault(template):
            return _refused(field, template, why)
    template = config.model.chat_template
    why = fault(template, chat=True) if template and ("{" in template or "\n" in template) else None
    return _refused("model.chat_template", template, why) if template and why else None


def _templates_know_their_variables(config: CampaignSettings) -> str | None:
    for field, template, known in _used(config):
        if fault(template) is None and (unknown := sorted(_variables(template) - known)):
            why = f"there is no {', '.join(unknown)[:200]}. Variables that exist: {', '.join(sorted(known))}"
            return _refused(field, template, why)
    return None


def _used(config: CampaignSettings) -> Iterator[tuple[str, str, frozenset[str]]]:
    """The templates that this configuration renders, with the variables that each can show."""
    yield "prompts.student", config.prompts.student, ITEM
    yield from ((field, template, ITEM) for field, template in _of_guards(config))
    if config.rehearsal.share:
        yield "rehearsal.prompts.student", config.rehearsal.prompts.student, ITEM
    if config.uses_references:
        yield "rollout.reference_completion", config.rollout.reference_completion, ITEM
    for view in config.teacher.views if not config.distillation.teacher_free else ():
        if view.context != "none":
            known = _SHOWN_TO_TEACHER | set(view.kind.variables)
            yield "teacher.template", view.template, known
            yield "teacher.system", view.system, known


def _of_guards(config: CampaignSettings) -> list[tuple[str, str]]:
    return [(f"{g.field}.prompts.student", g.prompts.student) for g in config.promotion.guards if g.prompts is not None]


@lru_cache(maxsize=256)
def fault(template: str, chat: bool = False) -> str | None:
    """Why `template` cannot be compiled; None when it can."""
    if len(template) > MAX_TEMPLATE:
        return f"it has {len(template):,} characters, more than {MAX_TEMPLATE:,}"
    try:
        environment = _CHAT if chat else _PLAIN
        if any(_endless(power) for power in environment.parse(template).find_all(nodes.Pow)):
            return f"it raises to a power that is not a number of at most {_MAX_EXPONENT}, which may never end"
        environment.from_string(template)
    except TemplateSyntaxError as error:  # unknown filters and tests too
        return f"line {error.lineno}: {error.message}"
    except TemplateError as error:
        return str(error)
    except Exception as error:  # Python's own limits, of nesting for instance
        return f"it is nested too deeply or too large ({type(error).__name__})"
    return None


def _endless(power: nodes.Pow) -> bool:
    small = isinstance(power.right, nodes.Const) and isinstance(power.right.value, int | float)
    return not small or abs(power.right.value) > _MAX_EXPONENT or power.left.find(nodes.Pow) is not None


@lru_cache(maxsize=256)
def _variables(template: str) -> frozenset[str]:
    """The variables that a template needs: all that it reads without asking whether they are there."""
    tree = _PLAIN.parse(template)
    guarded: set[str] = set()
    for node in tree.find_all((nodes.Test, nodes.Filter)):
        if node.name in _GUARDS and isinstance(node.node, nodes.Name):
            guarded.add(node.node.name)
    return frozenset(find_undeclared_variables(tree) - guarded)


def _refused(field: str, template: str, why: str) -> str:
    return f"{field}={shown(template)} is no template that can be rendered: {why.rstrip('.'):.600}. Correct {field}."


TEMPLATE_RULES: tuple[Callable[[CampaignSettings], str | None], ...] = (
    _templates_are_templates,
    _templates_know_their_variables,
)
"""Each gives the reason of a refusal, or None."""

"""The child of `templates`: renders Jinja templates within the limits that its argument names.

It is run by its path, so that it imports jinja2 and nothing of opsd. A chat template means what transformers makes of it
(utils/chat_template_utils of 5.23), but for the clock, which stands still.
"""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from jinja2 import StrictUndefined, Template, nodes, pass_eval_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment
from jinja2.utils import Namespace

OUT_OF_MEMORY = 77
"""Exit status of a child that a template left without memory."""
_SHOWN = 600
_BATCH_CHARS = 1_000_000


class TooLongError(Exception):
    """A template writes more than anybody reads."""


class Generation(Extension):
    """`{% generation %}` marks the model's part of a chat; what stands inside counts as anywhere else."""

    tags = {"generation"}  # noqa: RUF012 jinja2 declares it so

    def parse(self, parser: Any) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    @pass_eval_context
    def _inside(self, context: nodes.EvalContext, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` without what a class shows of Python."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(Namespace):
    """`namespace` without underscored attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # any keyword is an attribute, `self` too
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _Namespace._check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check_name(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace cannot have the attribute {name!r}: it begins with an underscore")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environments(date: datetime) -> dict[str, SandboxedEnvironment]:
    """The environments of the two kinds of templates."""
    chat = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    chat.filters["tojson"] = _tojson
    chat.globals["raise_exception"] = _raise_exception
    chat.globals["strftime_now"] = date.strftime
    chat.globals["dict"] = _Dict()
    chat.globals["namespace"] = _Namespace
    return {"chat": chat, "plain": SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)}


def _rendered(template: Template, variables: dict[str, Any], most: int) -> str:
    parts, size = [], 0
    for part in template.generate(variables):
        parts.append(part)
        size += len(part)
        if size > most:
            raise TooLongError(f"it writes more than {most:,} characters")
    return "".join(parts)


def _batch(template: Template, wanted: list[dict[str, Any]], limits: dict[str, Any]) -> list[str]:
    """Texts of the first of `wanted`, at least of one: as many as take no longer and no more room than one may."""
    texts: list[str] = []
    begin, size = time.process_time(), 0
    for variables in wanted:
        _limit_time(limits["seconds"])
        texts.append(_rendered(template, variables, limits["characters"]))
        size += len(texts[-1])
        if size > _BATCH_CHARS or time.process_time() - begin > limits["seconds"]:
            break
    return texts


def main() -> None:
    """Answer requests until stdin ends, which is when the parent ends."""
    limits = json.loads(sys.argv[1])
    _limit(resource.RLIMIT_AS, limits["bytes"])
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    known, made = environments(datetime.fromisoformat(limits["date"])), {}
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        number = request["number"]
        try:
            if number not in made:
                _limit_time(limits["seconds"])
                made[number] = known[request["kind"]].from_string(request["template"])
            answer = {"texts": _batch(made[number], request["variables"], limits)}
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except TooLongError as error:
            answer = {"error": str(error), "limit": True}
        except Exception as error:  # a template can raise anything
            answer = {"error": f"{type(error).__name__}: {str(error)[:_SHOWN] or 'no reason given'}", "limit": False}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _limit_time(seconds: int) -> None:
    """From now on; the kernel ends this process beyond it, whatever it is doing."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    try:
        main()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)

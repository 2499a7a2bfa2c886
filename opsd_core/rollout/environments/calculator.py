"""`calculator`: the value of every expression that a turn writes as <calc>...</calc>; a turn without one ends the conversation.

    <calc>12*7 + 1/2</calc>   ->   <result>84.5</result>

Numbers, + - * / // % ** (also ^), brackets, and nothing else: an expression is parsed and never executed. Arithmetic is exact,
with fractions of at most MAX_BITS bits, so neither a long power nor a long product takes time.
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction

from opsd_core.rollout.environments.types import Message, Reply

MAX_BITS = 512
"""Of numerator and denominator of every value on the way: 154 digits."""
MAX_CHARS = 200
"""Of an expression."""
MAX_CALLS = 16
"""That are answered in one turn, the first ones."""
_CALL = re.compile(r"<calc>(.*?)</calc>", re.DOTALL)
_WRITTEN = str.maketrans({"×": "*", "÷": "/", "−": "-", "·": "*"})
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b), ast.Mod: operator.mod,
}  # fmt: skip


class CalculationError(ValueError):
    """An expression has no value here; the message says why, to the policy."""


def calculator(messages: Sequence[Message]) -> Reply:
    """The values of the last turn's calls, one a line."""
    calls = _CALL.findall(messages[-1]["content"])[:MAX_CALLS]
    if not calls:
        return Reply(None)
    return Reply({"role": "user", "content": "\n".join(f"<result>{_answer(call)}</result>" for call in calls)})


def _answer(expression: str) -> str:
    try:
        return in_digits(value_of(expression))
    except CalculationError as error:
        return f"error: {error}"


def value_of(expression: str) -> Fraction:
    """The exact value. CalculationError for what is no arithmetic, too large, or divided by zero."""
    if len(expression) > MAX_CHARS:
        raise CalculationError(f"longer than {MAX_CHARS} characters")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", expression.translate(_WRITTEN)).replace("^", "**").strip().removesuffix("=")
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text.strip(), mode="eval")
        return _value(tree.body)
    except ZeroDivisionError:
        raise CalculationError("division by zero") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise error if isinstance(error, CalculationError) else CalculationError("no arithmetic") from None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(Fraction(repr(node.value)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        if type(node.op) in _OPERATIONS:
            return _bounded(_OPERATIONS[type(node.op)](left, right))
    raise CalculationError("no arithmetic")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise CalculationError("only whole exponents")
    if base not in (0, 1, -1) and abs(exponent) > MAX_BITS:  # its size is known before it is computed
        raise CalculationError("too large")
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base not in (0, 1, -1) and (size - 1) * abs(exponent.numerator) > MAX_BITS:
        raise CalculationError("too large")
    return _bounded(base ** (exponent.numerator % 2 if base == -1 else exponent.numerator))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise CalculationError("too large")
    return value


def in_digits(value: Fraction) -> str:
    """A whole number in full, another one with ten significant digits."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.10g}"

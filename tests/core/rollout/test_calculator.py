"""pytest tests/core/rollout/test_calculator.py — the calculator's values, and what it refuses at no cost."""

import time
from fractions import Fraction

import pytest

from opsd_core.rollout.environments.calculator import MAX_CALLS, CalculationError, calculator, value_of


def said(text):
    return calculator([{"role": "user", "content": "<calc>9</calc>"}, {"role": "assistant", "content": text}])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12*7", 84), ("1/3+1/6", "1/2"), ("0.1+0.2", "3/10"), ("-2**2", -4), ("2^10", 1024), ("(1+2)*3", 9), ("7//2", 3),
        ("-7//2", -4), ("7%4", 3), ("1,234,567+1", 1234568), ("3×4÷2−1", 5), ("12+34=", 46), (" 5 ", 5), ("2**-2", "1/4"),
        ("1e3", 1000), ("+5", 5), ("(-1)**99999999999", -1), ("1**(10**20)", 1), ("0**0", 1),
    ],
)  # fmt: skip
def test_arithmetic_is_exact(text, value):
    assert value_of(text) == Fraction(value)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9", "2**600", "10**200", "(10**150)**3", "10**150*10**150", "1e300", "1e999", "2**(1/2)", "1/0", "0**-1", "5%0",
        "x+1", "__import__('os')", "(lambda: 1)()", "[1]", "1 if 1 else 2", "1<2", "'a'*9", "True", "1j", "", "(", "1;2", "\0",
        "~1", "1<<9999", "f'{1}'", "9" * 201, "(" * 90 + "1" + ")" * 90 + "+x", "-" * 190 + "x", "1\n2", "10 // (1/2) ** 0.5",
    ],
)  # fmt: skip
def test_what_is_no_arithmetic_or_too_large_is_refused_at_once(text):
    started = time.process_time()
    with pytest.raises(CalculationError):
        value_of(text)
    assert time.process_time() - started < 1.0


def test_every_call_of_the_last_turn_is_answered_and_a_turn_without_one_ends_the_conversation():
    assert said("First <calc>12*7</calc>, then <calc>1/8</calc> and <calc>x</calc>").message == {
        "role": "user",
        "content": "<result>84</result>\n<result>0.125</result>\n<result>error: no arithmetic</result>",
    }
    for text in ("The answer is 84.", "<calc>12*7", "calc(3)", ""):
        assert said(text).message is None
    assert said("<calc>1</calc>" * 99).message["content"].count("<result>") == MAX_CALLS
    assert said("<calc>1/3</calc>").message["content"] == "<result>0.3333333333</result>"

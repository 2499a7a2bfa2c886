"""pytest tests/core/prompts/test_wrong.py — a reference with a wrong result: another number of the same form."""

import re

import pytest

from opsd_core.config.teacher import TeacherConfig
from opsd_core.graders import get_grader
from opsd_core.prompts.context_inputs import ContextInputs
from opsd_core.prompts.contexts import build_context
from opsd_core.prompts.wrong import with_wrong_result
from opsd_core.records.examples import Example
from tests.core.prompts.test_contexts import POOL

NUMBERS = ["7", "0", "041", "-3", "1,250", "999,999", "3.50", "0.05", "-0.5", "12345678901234567890", "99"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("seed", [0, 4, 8, 9, 13, 17, 2**63 - 1])
def test_a_wrong_number_has_the_form_of_the_right_one_and_is_no_right_answer(number, seed):
    text = f"First 2 and 3, then {number}. The answer is {number}."
    wrong = with_wrong_result(text, seed)
    found = re.fullmatch(r"First 2 and 3, then (.+)\. The answer is (.+)\.", wrong)
    assert found and found[1] == found[2] != number  # everywhere, and nothing else
    value, right = (float(text.replace(",", "")) for text in (found[1], number))
    decimals = len(number.partition(".")[2])
    assert len(found[1].partition(".")[2]) == decimals and ("," in found[1]) == ("," in number)
    if right < 1e15:
        assert round(abs(value - right) * 10**decimals) in range(1, 10)
        assert not get_grader("math")(Example("a", "q", number, ""), found[1]).correct
    assert value >= 0 or right < 0
    if number.startswith("0"):
        assert len(found[1]) >= len(number)
    assert wrong == with_wrong_result(text, seed)


def test_a_reference_without_a_number_is_another_items():
    assert with_wrong_result("Paris", 3) is None
    items = [Example(name, name, answer, "") for name, answer in (("a", "Paris"), ("b", "Rome"))]
    shown = build_context(ContextInputs(items[0], TeacherConfig(context="wrong_reference"), items))
    assert shown == {"privileged_context": "Rome"}
    shown = build_context(ContextInputs(POOL[0], TeacherConfig(context="wrong_reference"), POOL))["privileged_context"]
    assert shown != POOL[0].answer and len(shown) == len(POOL[0].answer)

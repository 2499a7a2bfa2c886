"""pytest tests/tasks/test_known_prompts.py — prompts are used again by the same settings only, budgets included."""

import pytest

from opsd_core.config import resolve
from tasks.refs import Campaign, PolicyRef
from tasks.stages.teacher import _prompt_settings, known_prompts


def known(*overrides: dict, **changes) -> dict[str, list[int]]:
    policy = PolicyRef(uri="s3://x/models/a/b", digest="d")
    values = {"config_uri": "", "data_uri": "s3://x/data", "initial": policy, "champion": policy, "run_id": ""} | changes
    return known_prompts(_prompt_settings(Campaign(id="c", config=resolve("tiny", *overrides), **values)))


def test_equal_settings_share_what_is_known_whatever_else_differs():
    assert known() is known({"optimizer": {"learning_rate": 3e-4}}, {"seed": 4})


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        ({"prompts": {"max_teacher_prompt_length": 10}}, {}),
        ({"prompts": {"overflow": "drop"}}, {}),
        ({"teacher": {"template": "{{ privileged_context }} {{ question }}"}}, {}),
        ({"teacher": {"context": "other_problem"}}, {}),
        ({}, {"data_uri": "s3://x/other"}),
        ({}, {"solved": "s3://x/solved"}),
    ],
)
def test_a_changed_budget_context_template_or_data_set_starts_anew(overrides, changes):
    first = known()
    first["item"] = [1]
    assert known(overrides, **changes) == {} and "item" not in known()

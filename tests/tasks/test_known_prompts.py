"""pytest tests/tasks/test_known_prompts.py — prompts are used again by the same settings only, budgets included."""

import pytest

from opsd_core.config import resolve
from tasks.refs import Campaign, Iteration, PolicyRef, Ref
from tasks.stages.teacher import _prompt_settings, known_prompts


def known(*overrides: dict, **changes) -> dict[str, list[int]]:
    policy, config = PolicyRef(uri="s3://x/models/a/b", digest="d"), resolve("tiny", *overrides)
    data = Ref(uri=changes.pop("data", "s3://x/datasets/a/b"))
    sides = {"policy": policy, "champion": policy}
    campaign = Campaign(
        id="c", config=config, record=Ref(uri="s3://x/campaigns/a/b"), data=data, initial=policy, champion=policy, run_id=""
    )
    return known_prompts(_prompt_settings(Iteration(campaign=campaign, number=0, config=config, run_id="", **sides, **changes)))


def test_equal_settings_share_what_is_known_whatever_else_differs():
    assert known() is known({"optimizer": {"learning_rate": 3e-4}}, {"seed": 4})


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        ({"prompts": {"max_teacher_prompt_length": 10}}, {}),
        ({"prompts": {"overflow": "drop"}}, {}),
        ({"teacher": {"template": "{{ privileged_context }} {{ question }}"}}, {}),
        ({"teacher": {"context": "other_problem"}}, {}),
        ({}, {"data": "s3://x/datasets/a/other"}),
        ({}, {"solved": Ref(uri="s3://x/solved/a/b")}),
    ],
)
def test_a_changed_budget_context_template_or_data_set_shares_nothing(overrides, changes):
    first = known()
    first["item"] = [1]
    assert known(overrides, **changes) == {} and "item" not in known()

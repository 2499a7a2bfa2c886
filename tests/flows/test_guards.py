"""pytest tests/flows/test_guards.py — campaigns whose candidates must not lose what they could do before."""


import pytest

from flows.iterate import iterate
from tasks.answers.stage import stored_verdict
from tasks.context import tracker

pytestmark = pytest.mark.timeout(900)
COPYING = {"suite": "tiny_copying", "num_items": 100, "data": {"size": 100}}


def settings(tiny_model, guards, **promotion):
    return {
        "model": {"source": str(tiny_model)},
        "evaluation": {"num_items": 120},
        "promotion": {"guards": guards, **promotion},
        "rehearsal": {"share": 0.0, "data": []},
    }


def campaign(name, tiny_model, guards, seed=0, iterations=1, steps=60, **promotion):
    """One or more iterations at a rate at which the tiny model learns sums, and forgets to copy."""
    overrides = settings(tiny_model, guards, **promotion)
    return iterate(
        recipe="tiny", name=name, iterations=iterations, num_prompts=640, num_steps=steps, learning_rate=2e-3, seed=seed,
        overrides=overrides,
    )  # fmt: skip


def test_a_candidate_that_learns_the_task_and_forgets_another_is_refused_by_name_of_the_guard(stack, tiny_model):
    text = campaign("forgets", tiny_model, [COPYING])
    print(text)
    version = tracker().aliased("forgets", "candidate")
    verdict = stored_verdict(version.tags["opsd.answers"]) if False else None
    print(version.tags, version.description)
    assert verdict

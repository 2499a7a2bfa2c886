"""Supervised warm start: train on the data set's own solutions or answers, before a model teaches itself.

prefect deployment run opsd/pretrain -p recipe=tiny -p name=mine
prefect deployment run opsd/iterate -p recipe=tiny -p name=mine            # starts from what opsd/pretrain promoted
"""

from typing import Annotated, Any

from prefect.runtime import flow_run
from pydantic import Field

from flows.iterate import RecipeName, nested, run_campaign
from flows.parameters import flow
from opsd_core.config import resolve, supervised
from tasks.exclusive import one_campaign
from tasks.stages.prepare import preflight


def _run_name() -> str:
    parameters = flow_run.get_parameters()
    return f"pretrain-{parameters.get('name') or parameters['recipe']}-seed{parameters.get('seed') or 0}"


@flow(name="opsd", flow_run_name=_run_name, log_prints=True)
def pretrain(
    recipe: RecipeName = "demo",
    name: str | None = None,
    iterations: Annotated[int, Field(ge=1, le=1000)] = 1,
    num_prompts: Annotated[int | None, Field(ge=1, le=1_000_000)] = None,
    num_steps: Annotated[int | None, Field(ge=1, le=1_000_000)] = None,
    learning_rate: Annotated[float | None, Field(gt=0, le=1)] = None,
    seed: Annotated[int | None, Field(ge=0)] = None,
    overrides: dict[str, Any] = {},  # noqa: B006
) -> str:
    """Supervised fine-tuning through the campaign's own stages; opsd/iterate of the same name starts from what it promotes.

    Args:
        recipe: Named configuration to start from: its model, data, prompts and optimiser; there is no teacher.
        name: Campaign and registered-model name; None = the recipe's. Give opsd/iterate the same one afterwards.
        iterations: Rounds over new prompts, each with evaluation and gate.
        num_prompts: References per iteration; None = the recipe's.
        num_steps: Optimiser steps per iteration; None = the recipe's.
        learning_rate: Peak learning rate; None = the recipe's.
        seed: Seed of everything that is drawn at random; None = the recipe's.
        overrides: Any other setting, nested as in docs/configuration.md; rollout.reference_completion is the text to learn.
    """
    knobs = {
        "name": name,
        "iterations": iterations,
        "seed": seed,
        "rollout.num_prompts": num_prompts,
        "optimizer.num_steps": num_steps,
        "optimizer.learning_rate": learning_rate,
    }
    given = nested({key: value for key, value in knobs.items() if value is not None})
    config = supervised(resolve(recipe, overrides, given, {"curriculum": {"sampling": "uniform", "length_start": 0}}))
    preflight(config)
    with one_campaign(config.name):
        return run_campaign(config, pretraining=True)

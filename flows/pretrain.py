"""Supervised warm start: train on the data set's own solutions or answers, before a model teaches itself.

prefect deployment run opsd/pretrain -p recipe=tiny -p name=mine
prefect deployment run opsd/iterate -p recipe=tiny -p name=mine            # starts from what opsd/pretrain promoted
"""

from typing import Annotated, Any

from flows import stages
from flows.forms import chosen, setting, settings
from flows.iterate import RecipeName, run_campaign
from flows.parameters import flow
from opsd_core.config import resolve, supervised
from tasks.exclusive import one_campaign
from tasks.runtime.unattended import unattended


@flow
def pretrain(
    recipe: RecipeName = "demo",
    name: Annotated[str | None, setting("name")] = None,
    model: Annotated[str | None, setting("model.source")] = None,
    data: Annotated[str | None, setting("data.source")] = None,
    columns: Annotated[dict[str, Any] | None, setting("data.columns")] = None,
    grader: Annotated[str | None, setting("data.grader")] = None,
    prompts: Annotated[dict[str, Any] | None, setting("prompts")] = None,
    iterations: Annotated[int, setting("iterations")] = 1,
    num_prompts: Annotated[int | None, setting("rollout.num_prompts")] = None,
    num_steps: Annotated[int | None, setting("optimizer.num_steps")] = None,
    learning_rate: Annotated[float | None, setting("optimizer.learning_rate")] = None,
    seed: Annotated[int | None, setting("seed")] = None,
    overrides: Annotated[dict[str, Any], settings()] = {},  # noqa: B006
) -> str:
    """Supervised fine-tuning through the campaign's own stages; opsd/iterate of the same name starts from what it promotes.

    Parameters that are not listed are settings by the names in `flows.forms.KNOBS`; untouched, the recipe's value stands.

    Args:
        recipe: Named configuration to start from: its model, data, prompts and optimiser; there is no teacher. Untouched: demo.
        iterations: Rounds over new prompts, each with evaluation and gate. Untouched: 1.
        overrides: Any other setting, nested as in docs/configuration.md; rollout.reference_completion is the text to learn.
    """
    uniform = {"curriculum": {"sampling": "uniform", "length_start": 0}}
    config = supervised(resolve(recipe, unattended(), overrides, chosen(locals()), uniform))
    stages.preflight(config)
    with one_campaign(config.name), stages.placed(config.name, config.execution) as run:
        return run_campaign(config, run, pretraining=True)

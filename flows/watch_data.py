"""A campaign whenever the data have changed: a look that a schedule makes, which costs seconds while they have not.

opsd schedule mine.yaml --new-data             # looks every 15 minutes
prefect deployment run opsd/watch_data -p recipe=base -p 'overrides={"data": {"source": "s3://bucket/new.jsonl"}, ...}'
"""

from typing import Annotated, Any

from flows import stages
from flows.forms import chosen, setting, settings
from flows.iterate import RecipeName
from flows.parameters import flow
from opsd_core.config import deep_merge, resolve
from tasks.runtime.unattended import UNATTENDED


@flow
def watch_data(
    recipe: RecipeName = "demo",
    name: Annotated[str | None, setting("name")] = None,
    iterations: Annotated[int | None, setting("iterations")] = None,
    seed: Annotated[int | None, setting("seed")] = None,
    overrides: Annotated[dict[str, Any], settings()] = {},  # noqa: B006
) -> str:
    """Start opsd/iterate with these settings once for every state of data.source: new rows, and nothing while there are none.

    Args:
        recipe: As for opsd/iterate. Untouched: demo.
        overrides: As for opsd/iterate. The campaigns spend one error budget (promotion.alpha_per=model) unless told otherwise.
    """
    given = deep_merge(deep_merge(UNATTENDED, overrides), chosen(locals()))
    text = stages.start_on_new_data(resolve(recipe, given), {"recipe": recipe, "overrides": given})
    print(text)
    return text

"""Slices of the held-out items that fall although the whole does not: what a verdict says besides its decision."""

from opsd_core.answers.sides import Side, items_of
from opsd_core.answers.slices import slices_of, warnings_of
from opsd_core.records.outcomes import read_outcomes
from tasks.context import local
from tasks.loaded import stored_examples
from tasks.refs import EvaluationRef, Iteration


def slice_warnings(iteration: Iteration, before: EvaluationRef, after: EvaluationRef) -> tuple[str, ...]:
    """A sentence for each slice that falls; none where nothing is known of the items, or they have no answers.

    `before` is the champion's evaluation, `after` the candidate's.
    """
    if "eval/accuracy" not in after.metrics or not iteration.campaign.data.uri:
        return ()
    sides = [Side(name, read_outcomes(local(ref) / "outcomes.parquet")) for name, ref in (("before", before), ("after", after))]
    items = items_of(stored_examples(iteration.campaign.data, "validation"), sides)
    return tuple(warnings_of(slices_of(items, columns=iteration.config.evaluation.slices)))

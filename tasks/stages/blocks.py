"""Both sides of a comparison measured: all items, or block by block until the sequential test knows its verdict.

Every block is an evaluation of its own in the store, so that a killed campaign goes on after the last one, and a champion's
blocks are found again when the next candidate is compared with it. What is handed on is one evaluation of all answered items.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from opsd_core.config import CampaignConfig
from opsd_core.digest import digest
from opsd_core.judgement.gate import level, paired
from opsd_core.judgement.sequential import Look, last_look, order_of
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome, read_outcomes, write_outcomes
from tasks.champion.ledger import open_decision
from tasks.context import finished, local, produce, store
from tasks.refs import Compared, EvaluationRef, Iteration, PolicyRef
from tasks.runtime.retries import STAGE
from tasks.runtime.side_by_side import HERE, Run
from tasks.runtime.stage import task
from tasks.stages.evaluate import evaluate, evaluation_identity, evaluation_ref, held_out, measured
from tasks.storage.artifacts import describe


def measure_both(iteration: Iteration, candidate: PolicyRef, run: Run = HERE) -> Compared:
    """The champion's evaluation and the candidate's, of the same items: all of them unless promotion.test=sequential.

    `run` does the work.
    """
    if iteration.config.promotion.test == "sequential":
        return run.one(answer_in_blocks, iteration, candidate)
    config, champion, campaign = iteration.config, iteration.champion, iteration.campaign
    sides = [(champion, f"champion-v{champion.version}"), (candidate, "candidate")]
    calls = [
        (config, campaign.data, policy, f"it{iteration.number}-{label}", campaign.items_from, (place, 2))
        for place, (policy, label) in enumerate(sides)
    ]
    before, after = run(evaluate, calls)
    return Compared(before=before, after=after)


@task(name="evaluate-in-blocks", task_run_name="evaluate-in-blocks-it{iteration.number}", **STAGE)
def answer_in_blocks(iteration: Iteration, candidate: PolicyRef) -> Compared:
    """Blocks of items in a drawn order, champion first, until promoted, refused for certain, futile, or none is left.

    Items without answers cannot be judged: then all are answered.
    """
    config = iteration.config
    planned = in_order(iteration)
    decision = open_decision(iteration, [example.id for example in planned])
    tested_at = decision.level if decision else level(config.promotion, config.iterations)
    labelled = all(example.answer for example in planned)
    sides = [
        _Side(config, iteration.champion, planned, f"it{iteration.number}-champion-v{iteration.champion.version}", 0),
        _Side(config, candidate, planned, f"it{iteration.number}-candidate", 1),
    ]
    for start in range(0, len(planned), config.evaluation.block):
        block = planned[start : start + config.evaluation.block]
        for side in sides:
            side.answer(block)
        found = _look(config, len(planned), sides, tested_at)
        if labelled and found.outcome != "undecided":
            break
    before, after = (side.whole() for side in sides)
    return Compared(before=before, after=after)


def in_order(iteration: Iteration) -> list[Example]:
    """The held-out items in the order in which the sequential test answers them."""
    config, campaign = iteration.config, iteration.campaign
    examples = {example.id: example for example in held_out(config, campaign.data, items_from=campaign.items_from)}
    return [examples[example_id] for example_id in order_of(config.seed, list(examples))]


def _look(config: CampaignConfig, planned: int, sides: "Sequence[_Side]", tested_at: float) -> Look:
    champion, candidate = sides
    pairs = paired(candidate.outcomes, champion.outcomes, config.promotion)
    found = last_look(pairs.by_item(), planned, config.seed, tested_at)
    get_run_logger().info(
        "%d of %d items answered: %d better, %d worse, e = %.3g, p = %.3g: %s",
        found.num_answered, found.num_items, pairs.wins, pairs.losses, found.e_value, found.p_value, found.outcome,
    )  # fmt: skip
    return found


class _Side:
    """The answers of one policy so far; `place` is 0 for the side that answers first, 1 for the other."""

    def __init__(self, config: CampaignConfig, policy: PolicyRef, planned: Sequence[Example], label: str, place: int) -> None:
        self.config, self.policy, self.label, self.place = config, policy, label, place
        self.examples: list[Example] = []
        self.outcomes: list[ItemOutcome] = []
        self.seconds, self.num_planned = 0.0, len(planned)
        self.blocks: list[str] = []
        identity = evaluation_identity(config, policy, _by_id(planned))
        self._conditions = digest(identity["conditions"])  # of all planned items, wherever an evaluation stops
        stored = finished("evaluations", identity)
        self._stored = read_outcomes(local(stored.uri) / "outcomes.parquet") if stored else []

    def answer(self, block: Sequence[Example]) -> None:
        """Add a block: from an evaluation of all items, or of this block, where one is stored; answered now otherwise."""
        self.examples += block
        if self._stored:
            ids = {example.id for example in block}
            self.outcomes += [outcome for outcome in self._stored if outcome.example_id in ids]
            return
        made = measured(self.config, self.policy, _by_id(block), f"{self.label}-block{len(self.blocks)}", part=self._part())
        self.outcomes += read_outcomes(local(made) / "outcomes.parquet")
        self.seconds += made.seconds
        self.blocks.append(made.uri)

    def _part(self) -> tuple[int, int]:
        """Which of the blocks of both sides comes next, of all that there may be."""
        blocks = -(-self.num_planned // self.config.evaluation.block)
        return 2 * len(self.blocks) + self.place, 2 * blocks

    def whole(self) -> EvaluationRef:
        """One evaluation of all answered items, as if they had been answered together."""
        answered = _by_id(self.examples)
        artifact, _ = produce("evaluations", evaluation_identity(self.config, self.policy, answered), self._write)
        made = evaluation_ref(self.config, answered, artifact, self.seconds)
        return made.model_copy(update={"planned": self.num_planned, "blocks": self.blocks, "conditions_digest": self._conditions})

    def _write(self, folder: Path) -> dict[str, Any]:
        rows = sorted(self.outcomes, key=lambda outcome: (outcome.mode, outcome.example_id, outcome.sample_index))
        write_outcomes(folder / "outcomes.parquet", rows)
        computed = describe(store(), self.blocks[-1]).summary.get("computed", {}) if self.blocks else {}
        return {"num_items": len(self.examples), "blocks": self.blocks, "computed": computed}


def _by_id(examples: Sequence[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: example.id)

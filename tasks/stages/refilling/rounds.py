"""The rounds: grade what there is, decide who is asked again, sample; last, one shard of all rounds in place of each first one.

Every decision and every shard of a round is an artifact of its own, so a campaign that is killed goes on where it was.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from opsd_core.graders import grader_identity
from opsd_core.records.examples import StoredExamples, write_examples
from opsd_core.selection.refill import Standing, asked_next, end_of, right_or_not, wanted
from tasks.asked import AskedAgain, PromptSet, Refilled, ShardRef
from tasks.context import local, produce
from tasks.engines import stop_engine
from tasks.loaded import rollouts_of
from tasks.record import Record
from tasks.refs import Iteration
from tasks.runtime.retries import STAGE
from tasks.runtime.side_by_side import Run, near
from tasks.runtime.stage import task
from tasks.stages.grade import asked
from tasks.stages.refilling.join import join_rounds
from tasks.stages.rollout import rollout


class Decided(Record):
    """After a round: what is asked in the next one; or, where none follows, what all of them came to."""

    asked: AskedAgain | None = None
    refilled: Refilled


def refill(iteration: Iteration, prompts: PromptSet, shards: list[ShardRef], run: Run) -> tuple[list[ShardRef], Refilled]:
    """The shards with the completions of every round, and what the rounds came to; `run` samples."""
    parts, newest, decided = {shard.shard: [shard] for shard in shards}, shards, None
    while True:
        decided = near(run).one(ask_again, iteration, prompts, decided, newest)
        if decided.asked is None:
            break
        newest = run(rollout, [(iteration, decided.asked, shard) for shard in decided.asked.shards])
        for shard in newest:
            parts[shard.shard].append(shard)
    if iteration.config.execution.placement == "inline":
        stop_engine()
    several = [(iteration, prompts, of) for of in parts.values() if len(of) > 1]
    whole = {shard.shard: shard for shard in near(run)(join_rounds, several)}
    return [whole.get(shard.shard, shard) for shard in shards], decided.refilled


@task(name="ask-again", task_run_name="ask-again-it{iteration.number}", **STAGE)
def ask_again(iteration: Iteration, prompts: PromptSet, before: Decided | None, shards: list[ShardRef]) -> Decided:
    """Grade the completions of the newest round, and decide which prompts are asked again."""
    identity = refill_identity(iteration, prompts, before, shards)
    artifact, _ = produce("refills", identity, partial(_decide, iteration, prompts, before, shards))
    found = json.loads((local(artifact.uri) / "refill.json").read_text())
    asked = AskedAgain(uri=artifact.uri, **found["asked"]) if found["asked"] else None
    return Decided(asked=asked, refilled=Refilled(**found["refilled"]))


def refill_identity(
    iteration: Iteration, prompts: PromptSet, before: Decided | None, shards: Sequence[ShardRef]
) -> dict[str, Any]:
    """What decides who is asked again."""
    config = iteration.config
    return {
        "prompts": prompts.content,
        "before": before.asked.content if before and before.asked else None,
        "rollouts": [shard.digest for shard in shards],
        "grader": grader_identity(config.data),
        "refill": config.rollout.refill.model_dump(),
        "group_size": config.rollout.group_size,
        "seed": config.seed,
        "iteration": iteration.number,
    }


def _decide(
    iteration: Iteration, prompts: PromptSet, before: Decided | None, shards: Sequence[ShardRef], folder: Path
) -> dict[str, Any]:
    config, last = iteration.config, before.asked if before else None
    right = right_or_not(rollouts_of(*shards).light, asked(last or prompts).by_id(), config)
    refilled = _came_to(before, right, shards, config.rollout.refill.share)
    standing = Standing(refilled.prompts, refilled.right, refilled.rounds, refilled.completions)
    ids = asked_next([name for name, found in right.items() if not found], standing, iteration.number, config)
    following = {
        "num_prompts": len(ids),
        "num_shards": prompts.num_shards,
        "shards": _write(folder, last or prompts, set(ids)),
        "round": refilled.rounds + 1,
        "first_sample": last.samples.stop if last else config.rollout.group_size,
        "group_size": config.rollout.refill_group,
    }
    record = {"asked": following if ids else None, "refilled": refilled.model_dump() | {"ended": end_of(standing, config)}}
    (folder / "refill.json").write_text(json.dumps(record, sort_keys=True))
    return {"num_prompts": len(ids), "right": refilled.right, "wanted": refilled.wanted}


def _came_to(before: Decided | None, right: Mapping[str, bool], shards: Sequence[ShardRef], share: float) -> Refilled:
    """What all rounds came to; `right` says it of the prompts that the newest one asked, `shards` hold its completions."""
    found = sum(right.values())
    if before is None:
        return Refilled(prompts=len(right), right_at_first=found, right=found, wanted=wanted(len(right), share))
    known = before.refilled
    return known.model_copy(
        update={
            "right": known.right + found,
            "rounds": known.rounds + 1,
            "completions": known.completions + sum(shard.num_rollouts for shard in shards),
            "tokens": known.tokens + sum(shard.num_tokens for shard in shards),
        }
    )


def _write(folder: Path, prompts: PromptSet, ids: Collection[str]) -> list[int]:
    """The prompts of these ids in the shards that they stand in; returns the shards that hold any."""
    numbers = []
    for path in sorted(local(prompts).glob("shard-*.parquet")):
        chosen = [example for example in StoredExamples([path]) if example.id in ids]
        if chosen:
            write_examples(folder / path.name, chosen)
            numbers.append(int(path.stem.removeprefix("shard-")))
    return numbers

"""pytest tests/tasks/refilling/test_rounds.py — rounds of asking again as stages: durable, the same after a kill."""

import os
import signal
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from opsd_core.config import resolve
from opsd_core.data import addition_examples
from opsd_core.errors import OpsdError
from opsd_core.records.examples import write_examples
from opsd_core.records.rollouts import read_rollouts
from opsd_core.rollout.engines.interface import Weights
from opsd_core.rollout.engines.own import OwnEngine
from opsd_core.rollout.sample import sample_rollouts
from opsd_core.selection.refill import refilled, right_or_not
from tasks import context, engines
from tasks.asked import AskedAgain, PromptSet
from tasks.context import local, store
from tasks.identities import IDENTITIES
from tasks.loaded import release, shared_policy
from tasks.refs import Campaign, Iteration, PolicyRef, Ref
from tasks.runtime.side_by_side import PLAIN, Plain
from tasks.stages.placement.calls import decoded, encoded, result_of, returned
from tasks.stages.renewal.sampling import sample
from tasks.stages.renewal.saved import freshness, where_from
from tasks.stages.rollout import rollout
from tasks.storage.artifacts import describe, publish
from tasks.storage.manifest import MANIFEST_NAME

EXAMPLES = addition_examples(24)
TOLD = {"prompts": {"student": "{{ answer }}|{{ question }}"}}
"""What the model was pretrained to read: a third of its completions at this temperature are right, without it none."""
REFILL = {"share": 1.0, "group_size": 3, "max_rounds": 3}


def begun(objects, model, folder, shards=2, **refill):
    """An iteration of the tiny model, and its prompts in shards."""
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        write_examples(folder / f"shard-{shard:04d}.parquet", EXAMPLES[shard::shards])
    prompts = publish(objects, "prompts", {"test": f"refill {shards}"}, folder, {})
    weights = publish(objects, "models", {"test": "refill"}, model, {})
    settings = {"rollout": {"group_size": 2, "temperature": 2.0, "refill": REFILL | refill}}
    config, nowhere = resolve("tiny", settings, TOLD), Ref(uri="x/y/z")
    policy = PolicyRef(uri=weights.uri, digest=weights.digest)
    campaign = Campaign(id="c", config=config, record=nowhere, data=nowhere, initial=policy, champion=policy, run_id="")
    iteration = Iteration(campaign=campaign, number=0, config=config, run_id="", champion=policy, policy=policy)
    return iteration, PromptSet(uri=prompts.uri, num_prompts=len(EXAMPLES), num_shards=shards)


def sampled(iteration, prompts, run=PLAIN):
    with disable_run_logger():
        return sample(iteration, prompts, run)


def stored():
    return sorted(info.key for info in store().list("") if not info.key.endswith(MANIFEST_NAME))


@pytest.fixture
def asked(own_store, tiny_model, tmp_path):
    """make(shards, **refill) -> iteration and prompts in a store of its own."""
    yield lambda shards=2, **refill: begun(store(), tiny_model, tmp_path / f"prompts-{shards}", shards, **refill)
    release()
    engines.stop_engine()


def rows_of(held):
    return [read_rollouts(local(shard) / "rollouts.parquet") for shard in held.shards]


def test_prompts_are_asked_until_they_have_a_right_completion_and_stand_in_one_shard(asked):
    iteration, prompts = asked()
    held = sampled(iteration, prompts)
    found, by_id = held.refilled, {example.id: example for example in EXAMPLES}
    shards = rows_of(held)
    rows = [row for shard in shards for row in shard]
    samples = defaultdict(list)
    for row in rows:
        samples[row.example_id].append(row)
    assert samples.keys() == by_id.keys()
    right = 0
    for example_id, of in samples.items():
        assert [row.sample_index for row in of] == list(range(len(of))), "in order, none twice"
        rounds = (len(of) - 2) // 3
        assert len(of) == 2 + 3 * rounds and rounds <= 3
        before = right_or_not(of[: len(of) - 3], by_id, iteration.config)
        now = right_or_not(of, by_id, iteration.config)[example_id]
        assert rounds == 0 or not before[example_id], "nobody with a right one is asked again"
        assert now or rounds == 3, "who has none is asked while there are rounds"
        right += now
    assert (found.prompts, found.right, found.wanted) == (24, right, 24)
    assert 0 < found.right_at_first < found.right, "asking again helped"
    assert found.completions == len(rows) - 2 * 24 and found.ended == ("reached" if right == 24 else "rounds")
    assert found.rounds == max((len(of) - 2) // 3 for of in samples.values())
    for shard, ref in zip(shards, held.shards, strict=True):
        ids = [row.example_id for row in shard]
        assert sum(a != b for a, b in pairwise(ids)) == len(set(ids)) - 1, "a prompt's rows stand together"
        assert (ref.num_rollouts, ref.num_tokens) == (len(shard), sum(len(row.completion_ids) for row in shard))
        summary = describe(store(), ref.uri).summary
        assert summary["num_rollouts"] == len(shard) and summary["sampling_seconds"] > 0 and "computed" in summary
    assert not engines._kept


def test_the_completions_are_those_of_a_larger_group(asked):
    iteration, prompts = asked(share=1.0, group_size=1, max_rounds=2)
    held = sampled(iteration, prompts)
    larger = iteration.config.rollout.model_copy(update={"group_size": 4})
    config = iteration.config.model_copy(update={"rollout": larger})
    whole = {row.key: row for row in sample_rollouts(shared_policy(iteration.policy, config.model), EXAMPLES, 0, config)}
    rows = [row for shard in rows_of(held) for row in shard]
    assert max(row.sample_index for row in rows) > 1
    assert all((row.seed, row.completion_ids) == (whole[row.key].seed, whole[row.key].completion_ids) for row in rows)


def test_stored_rounds_are_what_the_loop_in_memory_gives(asked):
    iteration, prompts = asked(1, share=0.9, max_completions=40)
    held, config = sampled(iteration, prompts), iteration.config
    engine = OwnEngine(Weights(shared_policy(iteration.policy, config.model)), config.execution.rollout_batch_size)
    first = sample_rollouts(engine.weights.policy, EXAMPLES, 0, config)
    rows, standing = refilled(engine, first, {example.id: example for example in EXAMPLES}, 0, config)
    assert [(row.key, row.completion_ids) for row in rows_of(held)[0]] == [(row.key, row.completion_ids) for row in rows]
    found = held.refilled
    assert standing == (found.prompts, found.right, found.rounds, found.completions) and found.completions > 0


def test_into_how_many_shards_prompts_are_cut_decides_nothing(asked):
    refill = {"share": 1.0, "max_completions": 20}
    found = []
    for shards in (1, 3):
        held = sampled(*asked(shards, **refill))
        rows = sorted((row.key, row.completion_ids) for shard in rows_of(held) for row in shard)
        found.append((rows, held.refilled))
    assert found[0] == found[1] and found[0][1].ended == "completions" and found[0][1].completions <= 20


def test_enough_is_enough(asked):
    iteration, prompts = asked(share=0.05)
    held = sampled(iteration, prompts)
    assert (held.refilled.ended, held.refilled.rounds, held.refilled.completions) == ("reached", 0, 0)
    again = sampled(asked(share=0.0)[0], prompts)
    assert again.refilled is None and [s.digest for s in again.shards] == [s.digest for s in held.shards], "the same artifacts"


def test_asked_once_more_it_makes_nothing(asked):
    iteration, prompts = asked()
    first, before = sampled(iteration, prompts), stored()
    again = sampled(iteration, prompts)
    assert stored() == before and again.refilled == first.refilled
    assert [(s.uri, s.digest, s.seconds) for s in again.shards] == [(s.uri, s.digest, 0.0) for s in first.shards]


class Interrupted(Plain):
    """Works until so many shards were sampled."""

    def __init__(self, after):
        self.left = after

    def __call__(self, task, calls):
        made = []
        for call in calls:
            if self.left == 0:
                raise OpsdError("interrupted")
            self.left -= 1
            made.append(task.fn(*call))
        return made


def test_interrupted_after_any_shard_it_goes_on_there_and_ends_with_the_same_bytes(asked, monkeypatch, tmp_path):
    iteration, prompts = asked()
    whole, undisturbed = sampled(iteration, prompts), stored()
    calls = sum(key.startswith("rollouts/") for key in undisturbed) - sum(
        "joined" in describe(store(), shard.uri).identity for shard in whole.shards
    )
    assert calls >= 4
    monkeypatch.setenv("OPSD_STORE", f"file://{tmp_path}/other")
    for cached in (context.settings, context.store):
        cached.cache_clear()
    iteration, prompts = asked()
    for after in range(calls):
        with pytest.raises(OpsdError, match="interrupted"):
            sampled(iteration, prompts, Interrupted(after))
    again = sampled(iteration, prompts)
    assert [shard.digest for shard in again.shards] == [shard.digest for shard in whole.shards]
    assert again.refilled == whole.refilled and stored() == undisturbed


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.tasks.refilling.test_rounds import Interrupted, begun, sampled
from tasks.context import store
from opsd_core.errors import OpsdError

iteration, prompts = begun(store(), Path(sys.argv[1]), Path(sys.argv[2]))

class Killed(Interrupted):
    def __call__(self, task, calls):
        try:
            return super().__call__(task, calls)
        except OpsdError:
            os.kill(os.getpid(), signal.SIGKILL)

sampled(iteration, prompts, Killed(int(sys.argv[3])))
"""
"""Of the same settings in another process, which ends itself in the way of kill -9 once so many shards are sampled."""


def test_killed_in_the_middle_of_a_round_it_ends_as_if_nothing_had_happened(asked, monkeypatch, tiny_model, tmp_path):
    """kill -9 of a process that has sampled the first round and one shard of the second."""
    iteration, prompts = asked()
    whole, undisturbed = sampled(iteration, prompts), stored()
    monkeypatch.setenv("OPSD_STORE", f"file://{tmp_path}/killed")
    monkeypatch.setenv("OPSD_CACHE", str(tmp_path / "killed-cache"))
    command = [sys.executable, "-c", _KILLED, str(tiny_model), str(tmp_path / "prompts-killed"), "3"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], env=os.environ.copy(), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    for cached in (context.settings, context.store):
        cached.cache_clear()
    assert 0 < len(stored()) < len(undisturbed)
    again = sampled(*asked())
    assert [shard.digest for shard in again.shards] == [shard.digest for shard in whole.shards]
    assert again.refilled == whole.refilled and stored() == undisturbed


def test_a_round_travels_to_a_runner_and_back(asked):
    """execution.placement=workers: a call and its result are JSON of the declared types."""
    iteration, prompts = asked()
    again = AskedAgain(
        uri="x/refills/a/b", num_prompts=3, num_shards=2, shards=[1], round=2, first_sample=5, group_size=3
    )
    for what in (prompts, again):
        task, arguments = decoded(encoded(rollout, (iteration, what, 1)))
        assert task is rollout and arguments["prompts"] == what and type(arguments["prompts"]) is type(what)

    class Away(Plain):
        def __call__(self, task, calls):
            made = []
            for call in calls:
                found, arguments = decoded(encoded(task, call))
                made.append(result_of(task, returned(task, found.fn(**arguments))))
            return made

    here = sampled(iteration, prompts)
    assert [s.digest for s in sampled(iteration, prompts, Away()).shards] == [s.digest for s in here.shards]


def test_what_it_came_to_is_reported(asked):
    from tasks.refs import GradedRef, Judged

    iteration, prompts = asked(max_rounds=1)
    held = sampled(iteration, prompts)
    graded = GradedRef(uri="x/grades/a/b", digest="", num_kept=1, num_dropped=0, reasons={}, seconds=0)
    learned = held.sampled(graded, Judged())
    metrics, found = freshness(iteration, learned), held.refilled
    assert metrics["refill/prompts_first"] == found.right_at_first and metrics["refill/prompts_right"] == found.right
    assert metrics["refill/completions"] == found.completions > 0 and metrics["refill/tokens"] == found.tokens > 0
    assert metrics["refill/rounds"] == 1 and metrics["refill/budget_ended"] == float(found.ended != "reached")
    said = f"{found.right} of 24 prompts have a right completion ({found.right_at_first} at first, 24 wanted)"
    assert said in where_from(iteration, learned)
    kept = freshness(iteration, held.sampled(graded, Judged(keep=True)))
    assert not [name for name in kept if name.startswith("refill/")], "an iteration that keeps completions asks nobody"


def test_all_that_decides_who_is_asked_again_is_in_the_decisions_identity(asked):
    from tasks.stages.refilling.rounds import refill_identity

    iteration, prompts = asked()
    held = sampled(iteration, prompts)

    def identity(number=0, seed=0, shards=held.shards, what=prompts, **rollout):
        changed = iteration.config.rollout.model_copy(update=rollout)
        config = iteration.config.model_copy(update={"rollout": changed, "seed": seed})
        return refill_identity(iteration.model_copy(update={"config": config, "number": number}), what, None, shards)

    refill, other = iteration.config.rollout.refill, PromptSet(uri="x/p/0/q", num_prompts=1, num_shards=1)
    changes = [{"number": 1}, {"seed": 1}, {"shards": held.shards[:1]}, {"what": other}]
    changes += [{"group_size": 3}, *({"refill": refill.model_copy(update={name: 9})} for name in type(refill).model_fields)]
    found = [identity(**change) for change in ({}, *changes)]
    assert all(one.keys() == IDENTITIES["refills"].keys() for one in found)
    assert len({str(one) for one in found}) == len(changes) + 1

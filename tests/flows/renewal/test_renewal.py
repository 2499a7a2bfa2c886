"""pytest tests/flows/renewal/test_renewal.py — completions kept while they are good enough, or sampled one iteration ahead."""

import json
import re

import mlflow
import pytest

from flows.iterate import iterate
from flows.replay import replay
from opsd_core.records.rollouts import read_rollouts
from tasks.context import lineage, local, store, tracker
from tasks.storage.artifacts import describe

pytestmark = pytest.mark.timeout(900)
ITERATIONS = 3


def settings(tiny_model, name, **overrides):
    small = {
        "model": {"source": str(tiny_model)},
        "data": {"size": 400, "validation_fraction": 0.3},
        "optimizer": {"batch_size": 16},
        "evaluation": {"num_items": 20},
    }
    steps = {"num_prompts": 32, "num_steps": 2, "iterations": ITERATIONS}
    return {"recipe": "tiny", "name": name, **steps, "overrides": small | overrides}


def candidates(name):
    """Lineage of every iteration's version, in their order."""
    versions = [entry for entry in tracker().versions(name) if entry.tags["opsd.role"] == "candidate"]
    return [lineage(entry.tags) for entry in sorted(versions, key=lambda entry: entry.version)]


def sampler(known):
    """Digests of the policies that sampled, one for each shard."""
    return {describe(store(), uri).identity["policy"] for uri in known["rollouts"]}


def metrics_of(name):
    client = mlflow.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id], "tags.`opsd.iteration` != ''")
    return [run.data.metrics for run in sorted(runs, key=lambda run: int(run.data.tags["opsd.iteration"]))]


def stored():
    return {info.key for info in store().list("") if not info.key.startswith("leases/")}


@pytest.fixture(scope="module")
def kept(stack, tiny_model):
    """Nothing is ever worn out, but two iterations old is too old; and what the campaign says at its end."""
    lenient = {"rollout": {"refresh": "overlap", "min_overlap": 0.0, "min_effective_sample_size": 0.0}}
    parameters = settings(tiny_model, "kept", **lenient, token_weights={"importance_correction": True})
    return parameters, iterate(**parameters)


def test_completions_are_kept_until_they_are_too_old_and_the_lineage_says_whose_they_are(kept):
    first, second, third = candidates("kept")
    assert first["rollouts"] == second["rollouts"] and not set(first["rollouts"]) & set(third["rollouts"])
    assert first["grades"] == second["grades"] and first["prompts"] == second["prompts"] != third["prompts"]
    assert first["targets"] == second["targets"], "the teacher does not move, so what it said stays"
    assert sampler(first) == {first["parent_digest"]} and sampler(third) == {third["parent_digest"]}
    assert [known["sampled_in"] for known in (first, second, third)] == [[0, 0], [0, 0], [2, 2]]
    assert "renewal" not in first
    judged = [json.loads((local(known["renewal"]) / "renewal.json").read_text()) for known in (second, third)]
    assert [found["keep"] for found in judged] == [True, False]
    assert 0 < judged[0]["metrics"]["rollout/overlap_top_k"] < 1 and "2 iterations old" in judged[1]["reason"]


def test_what_was_saved_is_reported(kept):
    (first, second, third), (_, text) = metrics_of("kept"), kept
    assert [run["rollout/staleness"] for run in (first, second, third)] == [0, 1, 0]
    assert second["rollout/tokens_saved"] == second["rollout/tokens"] == first["rollout/tokens"]
    assert 0.5 < second["rollout/effective_sample_size"] <= 1 and second["time/rollout_seconds"] == 0
    assert (second["rollout/renewed"], third["rollout/renewed"], third["rollout/tokens_saved"]) == (0, 1, 0)
    saved, sampled = re.search(r"kept in 1 of 3 iterations: ([\d,]+) tokens not sampled, ([\d,]+) sampled;", text).groups()
    assert int(saved) == second["rollout/tokens"] and int(sampled) == first["rollout/tokens"] + third["rollout/tokens"]


def test_triggered_again_it_decides_the_same_and_makes_nothing(kept):
    (parameters, text), before = kept, stored()
    assert iterate(**parameters).splitlines()[:ITERATIONS] == text.splitlines()[:ITERATIONS]
    assert stored() == before


@pytest.mark.slow
def test_worn_out_completions_are_sampled_anew(kept, tiny_model):
    strict = {"rollout": {"refresh": "overlap", "min_overlap": 1.0}, "token_weights": {"importance_correction": True}}
    iterate(**settings(tiny_model, "worn", **strict))
    known = candidates("worn")
    assert all(sampler(entry) == {entry["parent_digest"]} for entry in known)
    reason = json.loads((local(known[1]["renewal"]) / "renewal.json").read_text())["reason"]
    assert reason.endswith("rollout.min_overlap=1.0") and metrics_of("worn")[1]["rollout/renewed"] == 1


@pytest.mark.slow
def test_with_initial_all_iterations_learn_from_the_first_ones_completions(tiny_model, stack):
    once = {"rollout": {"refresh": "initial"}, "token_weights": {"max_staleness": 2}}
    text = iterate(**settings(tiny_model, "once", **once))
    known = candidates("once")
    assert known[0]["rollouts"] == known[1]["rollouts"] == known[2]["rollouts"] and "kept in 2 of 3" in text
    assert len({entry["model_digest"] for entry in known}) == 3
    found = [run.get("rollout/overlap_top_k", 1.0) for run in metrics_of("once")]
    assert found[2] < found[1] < found[0], "the policy moves away from the one that sampled"


@pytest.fixture(scope="module")
def ahead(stack, tiny_model):
    return iterate(**settings(tiny_model, "ahead", execution={"overlap": True}))


def test_the_next_iterations_completions_are_of_the_policy_that_this_one_began_with(ahead):
    known = candidates("ahead")
    parents = [entry["parent_digest"] for entry in known]
    assert [sampler(entry) for entry in known] == [{parents[0]}, {parents[0]}, {parents[1]}]
    assert [entry["sampled_in"] for entry in known] == [[0, 0], [0, 0], [1, 1]]
    assert [run["rollout/staleness"] for run in metrics_of("ahead")] == [0, 1, 1]
    assert len({entry["prompts"] for entry in known}) == 3
    rows = [read_rollouts(local(entry["rollouts"][0]) / "rollouts.parquet") for entry in known]
    assert {row.example_id for row in rows[0]}.isdisjoint(row.example_id for row in rows[1])
    assert [describe(store(), entry["rollouts"][0]).identity["iteration"] for entry in known] == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kept", "ahead"])
def test_a_replay_without_a_change_is_the_campaign_again(kept, ahead, name):
    campaign = candidates(name)[0]["campaign"]
    replayed = replay(name, campaign=campaign).splitlines()[0]
    mine, before = candidates(replayed), [entry for entry in candidates(name) if entry["campaign"] == campaign]
    assert [entry["model_digest"] for entry in mine] == [entry["model_digest"] for entry in before]
    assert [entry["sampled_in"] for entry in mine] == [entry["sampled_in"] for entry in before]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "older", "sampled_in"),
    [
        (77, {"rollout": {"refresh": "overlap", "min_overlap": 0.0, "min_effective_sample_size": 0.0}}, {0, 1, 2}),
        (78, {"rollout": {"refresh": "initial"}}, {0}),
        (79, {"execution": {"overlap": True}}, {0, 1, 2}),
    ],
    ids=["kept", "initial", "ahead"],
)
def test_after_an_alarm_the_next_iteration_learns_from_completions_of_its_own(tiny_model, stack, seed, older, sampled_in):
    """Every iteration is stopped; only with refresh=initial the first one's completions stay."""
    alarms = {"alarms": {"max_kl_p99": 1e-6, "kl_steps": 1, "remedy": "lower_rate", "max_recoveries": 5}}
    asked = settings(tiny_model, f"alarmed-{seed}", **older, **alarms, token_weights={"max_staleness": 2}, seed=seed)
    text = iterate(**asked)
    assert text.count("is stopped by an alarm") == ITERATIONS and "completions kept" not in text
    found = [describe(store(), store().uri(key)).identity for key in stored_of("rollouts")]
    assert {identity["iteration"] for identity in found if identity["seed"] == seed} == sampled_in


def stored_of(kind):
    return sorted({info.key.rpartition("/")[0] for info in store().list(f"{kind}/") if info.key.endswith("MANIFEST.json")})

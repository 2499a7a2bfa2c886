"""pytest tests/flows/test_sequential.py — a campaign whose evaluations stop when the verdict is known."""

from collections import Counter

import mlflow
import pytest
from prefect import flow

from flows.iterate import iterate
from opsd_core.config import resolve
from opsd_core.judgement.sequential import order_of
from opsd_core.records.outcomes import read_outcomes
from tasks.context import lineage, local, store, stored_verdict, tracker
from tasks.refs import PolicyRef, Ref
from tasks.stages.evaluate import evaluate, held_out
from tasks.storage.artifacts import describe
from tasks.storage.manifest import MANIFEST_NAME

pytestmark = pytest.mark.timeout(900)
PLANNED, BLOCK = 90, 15
SETTINGS = {
    "data": {"size": 1200, "validation_fraction": 0.2},
    "rollout": {"num_prompts": 32},
    "optimizer": {"num_steps": 3, "batch_size": 16},
    "evaluation": {"num_items": PLANNED, "block": BLOCK},
    "promotion": {"test": "sequential", "guards": []},
}


def read(ref):
    return read_outcomes(local(ref) / "outcomes.parquet")


def evaluations():
    return {info.key.rpartition("/")[0] for info in store().list("evaluations/") if info.key.endswith(MANIFEST_NAME)}


def verdict_of(version):
    """The stored verdict that the version's iteration made."""
    keys = [info.key.rpartition("/")[0] for info in store().list("verdicts/") if info.key.endswith(MANIFEST_NAME)]
    of = {"campaign": version.tags["opsd.campaign"], "iteration": int(version.tags["opsd.iteration"])}
    (found,) = [a for a in (describe(store(), store().uri(key)) for key in keys) if of.items() <= a.identity.items()]
    assert found.identity["planned"] == PLANNED
    verdict = stored_verdict(found.uri)
    assert verdict.markdown() == (local(found.uri) / "verdict.md").read_text()
    return verdict


@pytest.fixture(scope="module")
def campaign(stack):
    before = evaluations()
    text = iterate(recipe="tiny", name="in-blocks", iterations=2, overrides=SETTINGS)
    versions = {int(v.tags["opsd.iteration"]): v for v in tracker().versions("in-blocks") if "opsd.iteration" in v.tags}
    return text, versions, evaluations() - before


def test_an_evaluation_stops_early_and_says_of_how_many_items(campaign):
    """A model that answers nothing right is not asked all items: giving up is in the verdict, the tags, the report and MLflow."""
    _, versions, _ = campaign
    numbers = {}
    for version in versions.values():
        known, client = lineage(version.tags), mlflow.MlflowClient()
        used = numbers[version.version] = len(read(known["evaluation"]))
        assert used == len(read(known["champion_evaluation"])) and used % BLOCK == 0
        shown = f"{used} of {PLANNED} items" if used < PLANNED else f"{PLANNED} items"
        assert f"on {shown}" in version.tags["gate.numbers"]
        assert (f"Stopped after {shown}" if used < PLANNED else f"All {shown} were needed") in verdict_of(version).reasons[-1]
        run = client.search_runs([client.get_experiment_by_name("in-blocks").experiment_id],
                                 f"tags.`mlflow.runName` LIKE '%{version.tags['opsd.iteration']}'")[0]  # fmt: skip
        metrics = run.data.metrics
        assert metrics["gate/items_used"] == metrics["eval/num_items"] == used and metrics["gate/items_planned"] == PLANNED
        assert 0 < metrics["gate/e_value"] < 20 and (metrics["gate/tokens_saved"] > 0) == (used < PLANNED)
        assert f"{used} of {PLANNED}" in (local(version.tags["opsd.answers"]) / "answers.html").read_text()
        assert f"on {shown}" in client.get_model_version("in-blocks", str(version.version)).description
    assert min(numbers.values()) < PLANNED
    judged = {verdict_of(version).evaluation_digest for version in versions.values()}
    assert len(set(numbers.values())) == 2 and len(judged) == 1  # stopping elsewhere is no other evaluation set


def test_nothing_is_answered_twice_and_the_champions_blocks_are_found_again(campaign):
    """Two candidates are compared with one champion, whose items are answered once; the whole is as if answered together."""
    _, versions, made = campaign
    answered, whole = Counter(), {lineage(v.tags)[side].rsplit("/", 1)[0] for v in versions.values()
                                  for side in ("evaluation", "champion_evaluation")}  # fmt: skip
    for key in made:
        artifact = describe(store(), store().uri(key))
        if store().uri(key) in whole and len(read(artifact.uri)) > BLOCK:
            continue  # put together from blocks
        answered.update((artifact.identity["policy"], outcome.example_id) for outcome in read(artifact.uri))
    assert set(answered.values()) == {1}
    assert all(uri in {store().uri(key) for key in made} for v in versions.values()
               for uri in (u.rsplit("/", 1)[0] for u in lineage(v.tags)["evaluation_blocks"]))  # fmt: skip


def test_answers_are_those_of_an_evaluation_of_all_items(campaign):
    _, versions, _ = campaign
    tags = versions[1].tags  # the one that stops early
    known, config = lineage(tags), resolve("tiny", SETTINGS, {"name": "in-blocks"})
    policy = PolicyRef(uri=tags["opsd.model_uri"], digest=tags["opsd.model_digest"])
    everything = flow(lambda: evaluate(config, Ref(uri=known["data"]), policy, "all"), name="all")()
    of_all = {outcome.example_id: outcome.text for outcome in read(everything)}
    some = {outcome.example_id: outcome.text for outcome in read(known["evaluation"])}
    assert len(of_all) == PLANNED > len(some) and some.items() <= of_all.items()
    ids = [example.id for example in held_out(config, Ref(uri=known["data"]))]
    assert set(some) == set(order_of(config.seed, ids)[: len(some)]) != set(ids[: len(some)])


def test_triggered_again_it_answers_nothing_and_says_the_same(campaign):
    before = evaluations()
    iterate(recipe="tiny", name="in-blocks", iterations=2, overrides=SETTINGS)
    assert evaluations() == before and len(tracker().versions("in-blocks")) == 3


def test_with_a_ledger_the_looks_and_the_verdict_have_the_decisions_level(stack):
    """The entry is opened before the first look and covers all planned items; the verdict is by the same level."""
    overrides = SETTINGS | {"promotion": {"test": "sequential", "alpha_per": "model", "guards": []}}
    iterate(recipe="tiny", name="in-blocks-of-a-life", iterations=1, overrides=overrides)
    (decision,) = tracker().decisions("in-blocks-of-a-life")
    (version,) = [v for v in tracker().versions("in-blocks-of-a-life") if "opsd.iteration" in v.tags]
    verdict = verdict_of(version)
    assert verdict.sequential.e_needed == pytest.approx(1 / decision.level)
    assert verdict.checks[0].threshold == decision.level and decision.p_value == verdict.p_value
    ids = [e.id for e in held_out(resolve("tiny", overrides), Ref(uri=lineage(version.tags)["data"]))]
    assert (decision.first_item, decision.last_item) == (min(ids), max(ids))

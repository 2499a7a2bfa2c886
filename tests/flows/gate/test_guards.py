"""pytest tests/flows/gate/test_guards.py — campaigns whose candidates must not lose what they could do before."""

import json

import mlflow
import pytest

from flows.gc import gc
from flows.iterate import iterate
from opsd_core.data.suites import tiny
from opsd_core.errors import ConfigError, DataError
from tasks.context import lineage, store, tracker
from tasks.storage.artifacts import describe

pytestmark = pytest.mark.timeout(900)
COPYING = {"suite": "tiny_copying", "num_items": 60, "data": {"size": 60}}


def campaign(name, tiny_model, guards, *, overrides=None, **knobs):
    """A short campaign of the tiny recipe at a rate at which it learns sums, and forgets to copy."""
    settings = {
        "model": {"source": str(tiny_model)},
        "evaluation": {"num_items": 150},
        "promotion": {"guards": guards},
        "rehearsal": {"share": 0.0, "data": []},
    }
    knobs = {"iterations": 1, "num_prompts": 64, "num_steps": 2} | knobs
    return iterate(recipe="tiny", name=name, overrides=settings | (overrides or {}), **knobs)


def evaluations_kept():
    return {info.key.split("/")[1] for info in store().list("evaluations/")}


def test_a_candidate_that_learns_the_task_and_forgets_another_is_refused_by_name_of_the_guard(stack, tiny_model):
    supervised = {"rollout": {"on_policy_fraction": 0.0}, "distillation": {"divergence": "cross_entropy"}}
    supervised |= {"promotion": {"guards": [COPYING], "alpha_per": "model"}}
    text = campaign("forgets", tiny_model, [COPYING], num_prompts=1600, num_steps=100, learning_rate=2e-3, overrides=supervised)
    version = tracker().aliased("forgets", "candidate")
    before, after = (float(x) for x in version.tags["gate.numbers"].split(" (")[0].removeprefix("accuracy ").split(" -> "))
    assert after - before > 0.05 and version.tags["gate.numbers"].split("p=")[1].startswith("0.0")
    assert version.tags["opsd.gate"] == "refused" and tracker().version_by_alias("forgets", "champion") == 1
    assert version.tags["gate.reason"].startswith("Guard tiny_copying against champion (version 1) is violated: 100.0 →")
    assert "guards: tiny_copying violated (drop +" in text and "Guards: tiny_copying violated" in version.description
    (decision,) = tracker().decisions("forgets")
    assert decision.promote is True, "the held-out items have said it, and are worn for it, whatever a guard says"
    metrics = mlflow.MlflowClient().get_run(version.run_id).data.metrics
    assert metrics["guard/tiny_copying/drop_low"] > 0.5 and metrics["guard/tiny_copying/before"] == 1.0
    # The first version stays for the comparisons to come, and so do the answers that a version was judged by.
    gc(dry_run=False, min_age_hours=0)
    known = lineage(version.tags)["guards"]["tiny_copying"]
    assert describe(store(), tracker().get_version("forgets", 1).tags["opsd.model_uri"])
    assert describe(store(), known["stored"]) and describe(store(), known["champion_evaluation"])


def test_what_champion_and_anchor_answered_is_found_again_and_changed_items_are_answered_anew(stack, tiny_model, tmp_path):
    file = tmp_path / "suites.jsonl"

    def write(seed):
        pairs = [(pair, "copy") for pair in tiny.copying(60, seed)] + [(pair, "facts") for pair in tiny.facts(100, 0)]
        rows = [{"question": q, "answer": a, "suite": suite} for (q, a), suite in pairs]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    guards = [
        {"name": suite, "suite": suite, "data": {"source": str(file), "grader": "exact"}, "num_items": 60, "inconclusive": "warn"}
        for suite in ("copy", "facts")
    ]
    write(1)
    start = evaluations_kept()
    own = {"evaluation": {"num_items": 149}}  # no other test has asked these items
    campaign("suites", tiny_model, guards, iterations=2, overrides=own)
    first = evaluations_kept() - start
    assert len(first) == 9  # of the champion, which is the anchor too, and of two candidates: task and two guards each
    version = tracker().aliased("suites", "candidate")
    known = lineage(version.tags)["guards"]
    assert known["copy"]["items"] != known["facts"]["items"] and known["copy"]["source"] == str(file)
    write(2)
    campaign("suites", tiny_model, guards, iterations=2, overrides=own)  # the same settings, other items: another campaign
    second = evaluations_kept() - start - first
    assert len(second) == 3  # the champion and both candidates answer other copies; sums and facts are found


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_guard_that_cannot_decide_is_refused_by_name_before_anything_is_paid_for(stack, tiny_model, tmp_path, dry_run):
    def rows(name, pairs):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs))
        return {"name": name, "data": {"source": str(file), "grader": "exact"}}

    copies = tiny.copying(60, 3)
    taught = [(f" 0{n // 10}+0{n % 10}= ".upper(), "x") for n in range(100)]
    letters = rows("letters", copies)
    trained = r"promotion\.guards\[taught\]: \d+ of its 160 items ask what the campaign trains on \(data\.source\)"
    narrow = {"suite": "instructions", "name": "wide", "prompts": {"max_prompt_length": 5}}
    cases = [
        ({"name": "absent", "data": {"source": str(tmp_path / "no.jsonl")}}, r"\[absent\]\.data\.source=.* does not exist"),
        (rows("empty", []), r"promotion\.guards\[empty\]\.data\.source=.*(no rows|is empty|holds no)"),
        (rows("mute", [(q, "") for q, _ in copies]), r"promotion\.guards\[mute\].*answer"),
        (rows("few", copies[:40]), r"promotion\.guards\[few\]: with 40 items it can never hold.* fewer than 52 items"),
        (rows("taught", [*copies, *taught]) | {"num_items": 160}, trained),
        (letters | {"data": letters["data"] | {"grader": "choice"}}, r"promotion\.guards\[letters\].*cannot judge"),
        (rows("other", copies) | {"suite": "nothing"}, r"promotion\.guards\[other\]\.suite='nothing': .* no row of it"),
        (rows("long", copies) | {"max_completion_length": 510}, r"promotion\.guards\[long\] exceeds the model's context of 512"),
        (narrow, r"promotion\.guards\[wide\]\.prompts\.max_prompt_length=5"),
    ]
    evaluations = evaluations_kept()
    for guard, said in cases:
        with pytest.raises((ConfigError, DataError), match=said):
            iterate(
                recipe="tiny", name="undecided", dry_run=dry_run,
                overrides={"model": {"source": str(tiny_model)}, "promotion": {"guards": [guard]}},
            )  # fmt: skip
    assert evaluations_kept() == evaluations and tracker().version_by_alias("undecided", "champion") is None


def test_an_anchor_that_does_not_exist_is_refused_with_the_versions_that_do(stack, tiny_model):
    with pytest.raises(ConfigError, match=r"promotion\.anchor=7: anchored has no version 7; it has 1\."):
        campaign("anchored", tiny_model, [COPYING], overrides={"promotion": {"guards": [COPYING], "anchor": 7}})

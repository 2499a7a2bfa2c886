"""pytest tests/tasks/test_retention.py — what goes and what stays, on a store with two generations of versions."""

import ast
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.runtime.settings import load_settings
from tasks.storage.artifacts import describe, discard, publish
from tasks.storage.manifest import MANIFEST_NAME
from tasks.storage.s3 import open_store
from tasks.tracking.registry import Version
from tasks.upkeep.retention import ALWAYS_KEPT, FOLLOWED, STUDIES, kept_versions, make_plan, survey

DAY = 24 * 3600.0


class Line:
    """A campaign's artifacts as the stages make them, with contents of known length."""

    def __init__(self, store, folder):
        self.store, self.folder = store, folder
        self.initial = self.made("models", {"source": "tiny"}, 1000)
        self.data = self.made("datasets", {"data": "sums"}, 100)
        self.config = self.made("campaigns", {"initial": self.initial.digest, "data": self.data.key.split("/")[1]}, 10)
        self.versions = [self.version(1, self.initial, {"opsd.role": "initial"}, ["champion"])]

    def made(self, kind, identity, num_bytes):
        folder = self.folder / f"{kind}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        (folder / "file").write_bytes(os.urandom(num_bytes))
        return publish(self.store, kind, identity, folder, {})

    def version(self, number, model, tags, aliases=()):
        return Version("line", number, model.uri, "run", {"opsd.model_uri": model.uri} | tags, tuple(aliases), "")

    def iteration(self, number, before):
        """One iteration's artifacts; `before` are those of the iteration it starts from."""
        prompts = self.made("prompts", {"iteration": number}, 50)
        files = prompts.uri.rsplit("/", 1)[-1]
        policy = before["model"].digest if before else self.initial.digest
        rollouts = self.made("rollouts", {"prompts": files, "policy": policy, "iteration": number}, 500)
        grades = self.made("grades", {"rollouts": [rollouts.digest]}, 60)
        targets = self.made("targets", {"rollouts": rollouts.digest, "teacher": self.initial.digest}, 400)
        recipe = {
            "initial": self.initial.digest,
            "teacher": self.initial.digest,
            "policy": policy,
            "state": before["state"].uri if before else None,
            "rollouts": [rollouts.digest],
            "grades": grades.digest,
            "targets": [targets.digest],
        }
        checkpoint = self.made("checkpoints", {"distil": recipe, "step": 1}, 3000)
        state = self.made("states", recipe, 3000)
        model = self.made("models", {"state": state.digest}, 1000)
        evaluation = self.made("evaluations", {"policy": model.digest}, 70)
        verdict = self.made(
            "verdicts", {"campaign": "c", "versions": [number + 2, 1], "evaluations": [evaluation.digest]}, 20
        )
        tags = {
            "opsd.role": "candidate",
            "opsd.campaign": "c",
            "opsd.state_uri": state.uri,
            "opsd.rollouts": json.dumps([rollouts.uri]),
            "opsd.grades": grades.uri,
            "opsd.targets": json.dumps([targets.uri]),
            "opsd.config": self.config.uri,
            "opsd.data": self.data.uri,
            "opsd.evaluation": evaluation.uri,
        }
        self.versions.append(self.version(number + 2, model, tags))
        made = locals()
        return {
            name: made[name]
            for name in ["prompts", "rollouts", "grades", "targets", "checkpoint", "state", "model", "evaluation", "verdict"]
        }

    def plan(self, running=(), **settings):
        settings = {"keep_candidates": 1, "min_age_s": 0.0} | settings
        return make_plan(self.store, {"line": self.versions}, running=running, **settings)


@pytest.fixture
def line(tmp_path):
    settings = load_settings({"OPSD_HOME": str(tmp_path), "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"})
    (tmp_path / "made").mkdir()
    store = open_store(f"file://{tmp_path}/objects", settings)
    store.ensure_bucket()
    made = Line(store, tmp_path / "made")
    made.turns = [made.iteration(0, None)]
    for number in (1, 2):
        made.turns.append(made.iteration(number, made.turns[-1]))
    return made


def keys(turn, *names):
    return {turn[name].key for name in names}


def test_the_newest_candidate_and_what_it_needs_stay_the_ancestors_rollouts_go(line):
    plan = line.plan()
    going = ["prompts", "rollouts", "grades", "targets", "checkpoint", "state", "model", "evaluation"]
    assert set(plan.deletable) == keys(line.turns[0], *going) | keys(line.turns[1], *going) | keys(
        line.turns[2], "checkpoint"
    )
    total = plan.rows()[-1]
    assert total["deletable"] == 17 and total["protected"] == 0
    assert total["kept"] == 3 + 7 + 3  # initial, data, configuration; the last turn; every verdict
    contents = 2 * (50 + 500 + 60 + 400 + 3000 + 3000 + 1000 + 70) + 3000
    assert total["deletable bytes"] > contents


def test_what_stays_is_whole_and_a_second_run_finds_nothing(line):
    plan = line.plan()
    for key in plan.deletable:
        assert discard(line.store, key) == plan.stored[key].num_bytes
    for name in ("model", "state", "rollouts", "targets"):
        assert describe(line.store, line.turns[2][name].uri).key == line.turns[2][name].key
    again = line.plan()
    assert again.deletable == [] and again.kept == plan.kept
    assert set(survey(line.store)) == set(plan.kept)


@pytest.mark.parametrize("aliases, tags", [(("previous",), {}), ((), {"opsd.pinned": "true"})])
def test_aliased_and_pinned_versions_stay(line, aliases, tags):
    old = line.versions[1]
    line.versions[1] = Version(old.name, old.version, old.source, old.run_id, old.tags | tags, aliases, "")
    gone = set(line.plan().deletable)
    assert not gone & keys(line.turns[0], "prompts", "rollouts", "grades", "targets", "state", "model", "evaluation")
    assert keys(line.turns[1], "model", "state") <= gone


def test_what_a_stored_lineage_names_stays_as_what_tags_name(line):
    """Versions of both kinds stand in one line: the lineage of the newer ones is a file of the store."""
    before = line.plan()
    lineages = []
    for index, version in enumerate(line.versions[1:], 1):
        moved = {tag.removeprefix("opsd."): text for tag, text in version.tags.items()}
        moved |= {name: json.loads(moved[name]) for name in ("rollouts", "targets")}
        folder = line.folder / f"lineage-{index}"
        folder.mkdir()
        (folder / "lineage.json").write_text(json.dumps(moved, indent=1))
        lineages.append(publish(line.store, "lineage", {"lineage": moved}, folder, {}))
        few = {tag: version.tags[tag] for tag in ("opsd.role", "opsd.campaign", "opsd.model_uri")}
        line.versions[index] = replace(version, tags=few | {"opsd.lineage": lineages[-1].uri})
    after = line.plan()
    assert set(after.deletable) == set(before.deletable) | {lineage.key for lineage in lineages[:-1]}
    assert lineages[-1].key in after.kept


def test_young_artifacts_and_running_campaigns_are_left_alone(line):
    assert line.plan(min_age_s=DAY).deletable == []
    assert line.plan(min_age_s=DAY).rows()[-1]["protected"] == 17
    orphan = line.made("rollouts", {"prompts": "0" * 16, "iteration": 3}, 500)
    assert orphan.key in line.plan().deletable
    assert line.plan(running=["line"]).deletable == []
    other = line.plan(running=["another model"])
    assert orphan.key not in other.deletable and keys(line.turns[0], "model") <= set(other.deletable)
    assert len(kept_versions(line.versions, 2, running=False)) == 3


def test_unfinished_and_foreign_objects(line):
    line.store.put("rollouts/" + "ab" * 16 + "/" + "c" * 16 + "/rollouts.parquet", b"x" * 9)
    line.store.put("states/" + "ab" * 16 + f"/{MANIFEST_NAME}", b"not a manifest")
    line.store.put("leases/campaign/line", b"{}")
    line.store.put("mine/notes.txt", b"mine")
    plan = line.plan()
    assert {"rollouts/" + "ab" * 16, "states/" + "ab" * 16} <= set(plan.deletable)
    assert not any(key.startswith(("leases", "mine")) for key in plan.stored)
    assert plan.stored["rollouts/" + "ab" * 16].modified == pytest.approx(time.time(), abs=60)


def kinds_in_code():
    """Every kind that a stage stores, with the files that do; None for one that is no literal."""
    root, found = Path(__file__).resolve().parents[2], {}
    for path in [*(root / "tasks").rglob("*.py"), *(root / "flows").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if name in ("produce", "publish"):
                kind = node.args[0 if name == "produce" else 1]
                found.setdefault(kind.value if isinstance(kind, ast.Constant) else None, set()).add(path.name)
    return found


def test_retention_knows_every_kind_that_is_stored():
    found = kinds_in_code()
    assert found.pop(None) == {"context.py"}  # `produce` itself passes its kind on
    assert len(found) > 10 and set(found) == set(FOLLOWED), "say in tasks/upkeep/retention.py what the new kind needs"
    assert set(ALWAYS_KEPT) | set(STUDIES) <= set(FOLLOWED)


def test_an_unknown_kind_is_never_touched(line):
    novel = line.made("novel", {"x": 1}, 10)
    hyphen = line.made("novel-kind", {"x": 1}, 10)
    plan = line.plan()
    assert not {novel.key, hyphen.key} & set(plan.stored) and len(plan.deletable) == 17


def test_records_of_stopped_iterations_and_peers_stay(line):
    kept = [line.made(kind, {"step": 1}, 5).key for kind in ("stopped", "peers")]
    gone = line.made("solved", {"prompts": "0" * 16, "peers": []}, 5)
    plan = line.plan()
    assert set(kept) <= plan.kept and gone.key in plan.deletable


def test_a_study_stays_with_all_that_its_arms_made(line):
    turn = line.turns[0]
    folder = line.folder / "arm"
    folder.mkdir()
    policy = {"uri": turn["model"].uri, "state": {"uri": turn["state"].uri}}
    made = {"policy": policy, "shards": [{"uri": turn["rollouts"].uri}]}
    (folder / "training.json").write_text(json.dumps({"checkpoints": [made], "failed": ""}, indent=1))
    identity = {"initial": line.initial.digest, "data": line.data.key.split("/")[1]}
    arm = publish(line.store, "study-arms", identity, folder, {})
    report = line.made("study-reports", {"study": "s"}, 10)
    plan = line.plan()
    assert {arm.key, report.key, line.data.key} | keys(turn, "state", "model", "rollouts", "prompts", "grades") <= plan.kept
    assert keys(turn, "checkpoint", "evaluation") <= set(plan.deletable)

"""pytest tests/tasks/test_identities.py — whatever a stage reads is in its identity: change it, and the identity is another."""

import ast
import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from opsd_core.config import resolve
from opsd_core.data import load_examples
from opsd_core.graders import get_grader, grader_identity
from opsd_core.judgement.evaluation import evaluate_policy
from opsd_core.models.policy import load_policy
from opsd_core.prompts.budgets import fitting_in_every_stage
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.teacher import teacher_prompts
from opsd_core.rollout.sample import sample_rollouts
from opsd_core.selection.grading import grade_rollouts
from opsd_core.selection.teacher_probe import probe_grades
from opsd_core.teacher.kinds import teacher_before_training, teacher_in_training
from opsd_core.teacher.parts import Models, Parts
from opsd_core.teacher.scoring import score_rollouts
from opsd_core.training.items import training_items
from opsd_core.training.trainer import Schedule, distil
from tasks import context
from tasks.context import store
from tasks.identities import IDENTITIES
from tasks.refs import Campaign, CurriculumRef, GradedRef, Held, Iteration, PolicyRef, PromptSet, Ref, Sampled, ShardRef
from tasks.stages.distil import distil_identity
from tasks.stages.evaluate import evaluation_identity
from tasks.stages.grade import grade_identity, probe_identity
from tasks.stages.prepare import campaign_identity, data_identity
from tasks.stages.renewal.judge import renewal_identity
from tasks.stages.rollout import rollout_identity
from tasks.stages.score import score_identity
from tasks.storage.artifacts import artifact_key, publish

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token if m['role'] == 'assistant' else '' }}{% endfor %}"
)
SMALL = {
    "data": {"size": 60, "validation_fraction": 0.3},
    "rollout": {"num_prompts": 6, "group_size": 2},
    "optimizer": {"batch_size": 4, "num_steps": 1},
    "evaluation": {"num_items": 4, "num_samples": 1},
    "execution": {"num_shards": 1},
}
VARIANTS = {
    "plain": {},
    "online": {
        "distillation": {"targets": "online", "top_k_of": "union"},
        "teacher": {"context": "other_problem", "template": ""},
    },
    "sibling": {
        "teacher": {"context": "feedback", "template": "", "missing_context": "student_prompt", "temperature": 0.7},
        "token_weights": {"position": "late", "entropy": "down"},
        "filter": {"route": "incorrect_only"},
    },
    "groups": {
        "teacher": {"context": "other_attempt", "template": "", "missing_context": "student_prompt"},
        "filter": {"keep_per_prompt": "random"},
    },
    "environment": {
        "model": {"chat_template": TEMPLATE},
        "rollout": {"environment": "calculator", "max_turns": 2},
        "filter": {"teacher_probe": "answer"},
    },
    "references": {"rollout": {"on_policy_fraction": 0.5}, "filter": {"teacher_probe": "answer"}, "teacher": {"top_p": 0.9}},
}
NO_PART = {"execution", "name", "promotion", "alarms"}
"""Sections that decide how fast work is done, or what is done with an outcome."""


class Traced:
    """A section of settings that notes the path of every setting that is read of it."""

    def __init__(self, real: BaseModel, path: str, seen: set[str]) -> None:
        object.__setattr__(self, "_of", (real, path, seen))

    def __getattr__(self, name: str) -> Any:
        real, path, seen = self._of
        found = getattr(type(real), name, None)
        if isinstance(found, property):
            return found.fget(self)
        if name == "model_dump":
            return self._dump
        if name == "model_copy":
            return lambda update: Traced(real.model_copy(update={k: _bare(v) for k, v in update.items()}), path, seen)
        value = getattr(real, name)
        if name in type(real).model_fields:
            if isinstance(value, BaseModel):
                return Traced(value, f"{path}{name}.", seen)
            seen.add(path + name)
        return value

    def _dump(self, **options: Any) -> dict[str, Any]:
        real, path, seen = self._of
        dumped = real.model_dump(**options)
        seen.update(path + name for name in dumped)
        return dumped


def _bare(value: Any) -> Any:
    return value._of[0] if isinstance(value, Traced) else value


class Work:
    """The stages of one iteration of the tiny model, done with traced settings, and their identities for any settings."""

    def __init__(self, folder: Path, overrides: dict[str, Any]) -> None:
        self.config = resolve("tiny", SMALL, overrides)
        made = publish(store(), "models", {"test": "identities"}, folder, {})
        self.initial = PolicyRef(uri=made.uri, digest=made.digest)
        self.policy, self.student = (load_policy(folder, self.config.model) for _ in range(2))
        self.data = load_examples(self.config.data)
        self.reads = {name: self._reads(getattr(self, f"_{name}")) for name in ("datasets", "rollouts", "grades", "targets")}
        self.reads |= {"evaluations": self._reads(self._evaluations), "states": self._reads(self._states)}
        if self.config.filter.teacher_probe != "off":
            self.reads["probes"] = self._reads(self._probes)

    def _reads(self, work: Any) -> set[str]:
        seen: set[str] = set()
        work(Traced(self.config, "", seen))
        return {path for path in seen if path.partition(".")[0] not in NO_PART}

    def _datasets(self, config: Any) -> None:
        load_examples(config.data)
        fitting_in_every_stage(self.data.train, self.policy.tokenizer, config)

    def _rollouts(self, config: Any) -> None:
        self.rollouts = sample_rollouts(self.policy, self.data.train[:6], 0, config)

    def _grades(self, config: Any) -> None:
        self.graded = grade_rollouts(self.rollouts, {e.id: e for e in self.data.train}, config)

    def _prompts(self, config: Any) -> dict:
        correct = {row.key: row.correct for row in self.graded.rows} if config.context_from_rollouts else {}
        builder = PromptBuilder.of(self.policy.tokenizer, config)
        return teacher_prompts(builder, self.rollouts, correct, self.data.train).ids

    def _parts(self, config: Any) -> Parts:
        models = Models(self.policy, self.policy, policy=self.policy)
        return Parts(config, models, load=lambda p: p, load_copy=copy.deepcopy, student=self.student)

    def _targets(self, config: Any) -> None:
        self.targets = score_rollouts(teacher_before_training(self._parts(config)), self.rollouts, self._prompts(config), config)

    def _probes(self, config: Any) -> None:
        answers = {e.id: e.answer for e in self.data.train}
        sides = teacher_before_training(self._parts(config)), self.policy
        probe_grades(self.graded, self.rollouts, self._prompts(config), answers, sides, config)

    def _evaluations(self, config: Any) -> None:
        builder = PromptBuilder.of(self.policy.tokenizer, config)
        evaluate_policy(self.policy, self.data.validation[:4], builder, get_grader(config.data), config)

    def _states(self, config: Any) -> None:
        examples = {e.id: e for e in self.data.train}
        kept = [replace(row, keep=True) for row in self.graded.rows]
        targets = self.targets if config.distillation.records_targets else []
        prompts = self._prompts(config)
        items = training_items(self.rollouts, kept, targets, prompts, examples, self.student, config)
        distil(self.student, teacher_in_training(self._parts(config)), items, config, Schedule(0, 1), 0)

    def identities(self, config: Any, **refs: str) -> dict[str, str]:
        """Kind -> key under `config`; `refs` replaces addresses and digests of what the stages are made of."""
        names = ("data", "prompts", "shard", "grades", "champion")
        of = {name: f"{number}" * 8 for number, name in enumerate(names)} | refs
        data, nowhere = Ref(uri=f"{store().root}/datasets/{of['data']}/0"), Ref(uri="x/y/z")
        initial = self.initial.model_copy(update={"digest": of.get("initial", self.initial.digest)})
        policy = self.initial.model_copy(update={"digest": of.get("policy", self.initial.digest)})
        champion = policy.model_copy(update={"digest": of["champion"]})
        campaign = Campaign(
            id="c", config=config, record=nowhere, data=data, initial=initial, champion=champion, run_id=""
        )
        state = Ref(uri=f"x/states/{of['state']}/{of['state']}") if "state" in of else None
        begun = Iteration(
            campaign=campaign, number=int(of.get("number", 0)), config=config, run_id="", champion=champion,
            policy=policy.model_copy(update={"state": state}),
            solved=Ref(uri=f"x/solved/{of['solved']}/0") if "solved" in of else None,
            curriculum=CurriculumRef(uri="x/curricula/a/b", digest=of.get("curriculum", "c")),
        )  # fmt: skip
        prompts = PromptSet(uri=f"x/prompts/0/{of['prompts']}", num_prompts=1, num_shards=1)
        shard = ShardRef(uri="x/rollouts/a/b", iteration=0, shard=0, digest=of["shard"], num_rollouts=1, num_tokens=1, seconds=0)
        graded = GradedRef(uri="x/grades/a/b", digest=of["grades"], num_kept=1, num_dropped=0, reasons={}, seconds=0)
        sampled = Sampled(prompts=prompts, shards=[shard], graded=graded)
        found = {
            "datasets": data_identity(config, self.policy.tokenizer),
            "rollouts": rollout_identity(begun, prompts, 0),
            "grades": grade_identity(begun, [shard]),
            "targets": score_identity(begun, shard, graded),
            "evaluations": evaluation_identity(config, policy, self.data.validation[: config.evaluation.num_items]),
            "states": distil_identity(begun, sampled),
            "probes": probe_identity(begun, graded),
        }
        for kind, identity in found.items():
            table = IDENTITIES["grades" if kind == "probes" else kind]
            assert "*" in table or identity.keys() <= table.keys(), f"{kind}: {identity.keys() - table.keys()}"
        return {kind: artifact_key(kind, identity) for kind, identity in found.items()}


@pytest.fixture(scope="module", params=list(VARIANTS))
def work(request, tiny_model, tmp_path_factory):
    """A variant's work, with a store in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp(request.param)
        patch.setenv("OPSD_STORE", f"file://{folder}/objects")
        patch.setenv("OPSD_CACHE", str(folder / "cache"))
        for cached in (context.settings, context.store):
            cached.cache_clear()
        yield Work(tiny_model, VARIANTS[request.param])
    for cached in (context.settings, context.store):
        cached.cache_clear()


def other(value: Any, annotation: Any) -> Any:
    """Another value of the setting's type."""
    choices = [c for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal for c in get_args(part)]
    if choices:
        return next(choice for choice in choices if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    models = [part for part in get_args(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
    if value == () and models:
        required = {name: 2 for name, field in models[0].model_fields.items() if field.is_required()}
        return (models[0](**required),)
    return f"{value or ''} other" if isinstance(value, str) or value is None else ({**value, "other": 1} if value == {} else ())


def changed(config: BaseModel, path: str) -> BaseModel:
    """The settings with another value at `path`, whatever the rules between settings say."""
    name, _, rest = path.partition(".")
    value = getattr(config, name)
    new = changed(value, rest) if rest else other(value, type(config).model_fields[name].annotation)
    return config.model_copy(update={name: new})


TELLS_STAGES_APART = [
    "curriculum.length_start", "rollout.on_policy_fraction", "distillation.divergence", "distillation.beta",
    "teacher.ema_decay", "teacher.attempt", "teacher.min_agreement", "teacher.missing_context", "teacher.mixture",
    "teacher.mixture_weights", "teacher.only_unsuccessful", "teacher.peers", "teacher.require_privilege_gain",
    "teacher.student_noise", "teacher.temperature", "teacher.top_k", "teacher.top_p", "teacher.trust_region_lambda",
    "teacher.weights", "teacher.peer_filter", "teacher.source", "teacher.members",
]  # fmt: skip
ASKS_FOR_A_TEACHER = dict.fromkeys(("distillation.divergence", "distillation.beta"), "say whether there is a teacher at all")
ELSEWHERE = {
    "rollouts": {
        "prompts.max_prompt_length": "decides which items the data set keeps",
        "data.columns.solution": "in the template of references, where the source has that column",
    },
    "grades": {"data.source": "the items are held by content"},
    "targets": {
        "prompts.max_prompt_length": "decides which items the data set keeps",
        "distillation.merge_stop": "only where several tokens end a side, and then with these tokens",
    } | ASKS_FOR_A_TEACHER,
    "probes": {"prompts.max_prompt_length": "decides which items the data set keeps"} | ASKS_FOR_A_TEACHER,
    "evaluations": {
        "evaluation.num_items": "the items are held by content",
        "prompts.max_prompt_length": "decides which items the data set keeps",
    },
    "states": {
        "rollout.temperature": "digest of the rollouts", "rollout.top_p": "the same", "rollout.top_k": "the same",
        "model.chat_template": "template in the digest of the rollouts",
        "data.columns.solution": "content of the prompts", "data.grader": "its words are content of the grades",
    },
    "datasets": dict.fromkeys(TELLS_STAGES_APART, "compared between iterations, so that a prompt is measured once"),
}  # fmt: skip
"""Settings that a stage reads, and where its identity has them."""
BUDGETS = {"prompts.max_teacher_prompt_length", "prompts.overflow"}
NOT_YET_SHOWN = {"teacher.context_fraction", "teacher.reference", "teacher.system"}
"""Of contexts that are made when there are completions."""


def test_what_a_stage_reads_is_in_its_identity(work):
    before, missing = work.identities(work.config), []
    assert work.identities(work.config) == before and work.identities(work.config.model_copy(deep=True)) == before
    for kind, paths in work.reads.items():
        assert len(paths) >= 5, f"{kind} reads {paths}"
        allowed = set(ELSEWHERE.get(kind, {}))
        if not work.config.context_from_rollouts and kind in ("targets", "probes"):
            allowed |= BUDGETS  # what the data set shows was measured with them when it was made
        if work.config.context_from_rollouts and kind == "datasets":
            allowed |= NOT_YET_SHOWN
        for path in sorted(paths - allowed):
            try:
                same = work.identities(changed(work.config, path))[kind] == before[kind]
            except Exception:  # a value that nothing can be made of
                same = False
            if same:
                missing.append(f"{kind} reads {path}")
    assert not missing, "; ".join(missing)


MADE_OF = {
    "data": {"targets"},
    "prompts": {"rollouts"},
    "shard": {"grades", "targets", "states"},
    "grades": {"states", "probes"},
    "policy": {"rollouts", "evaluations", "states", "probes"},
    "initial": {"targets", "states"},
    "state": {"states"},
    "number": {"rollouts", "states"},
    "solved": {"grades", "targets"},
}


@pytest.mark.parametrize("name", MADE_OF)
def test_what_a_stage_is_made_of_is_in_its_identity(work, name):
    before, after = work.identities(work.config), work.identities(work.config, **{name: "7" * 8})
    differing = {kind for kind in before if before[kind] != after[kind]}
    assert differing >= MADE_OF[name]
    assert "datasets" not in differing and (name in ("data", "initial", "policy") or "evaluations" not in differing)


def test_until_when_prompts_are_asked_again_is_no_part_of_what_a_round_is_but_how_many_were_asked_first_tells_grades_apart(work):
    def identity(**rollout):
        changed = work.config.rollout.model_copy(update=rollout)
        return work.identities(work.config.model_copy(update={"rollout": changed}))

    plain, refill = work.identities(work.config), work.config.rollout.refill
    often, seldom = (refill.model_copy(update={"share": share, "max_rounds": 2}) for share in (0.9, 0.1))
    assert identity(refill=often) == identity(refill=seldom)
    assert {kind for kind, key in identity(refill=often).items() if key != plain[kind]} == {"grades"}
    assert identity(refill=often)["grades"] != identity(refill=often, group_size=3)["grades"]
    assert identity(group_size=3)["grades"] == plain["grades"]


def test_the_choice_of_a_group_stands_in_no_identity_while_there_is_none():
    def written(**overrides):
        return json.dumps(resolve("tiny", {"rollout": {"group_size": 2}}, overrides).deciding())

    assert not any(name in written() for name in ("keep_per_prompt", "refill", "attempt"))
    assert "keep_per_prompt" in written(filter={"keep_per_prompt": "random"}) and "attempt" in written(teacher={"attempt": "any"})
    assert "refill" in written(rollout={"refill": {"share": 0.5}})


def test_end_tokens_are_in_the_identity_of_targets_where_they_are_merged(work, monkeypatch, tiny_model, tmp_path):
    """A second end token makes other targets, unless nothing is merged; one alone leaves the identity as it was."""
    folder = tmp_path / "two"
    shutil.copytree(tiny_model, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    made = publish(store(), "models", {"test": "two ends"}, folder, {})
    two = work.initial.model_copy(update={"uri": made.uri})  # with the digest of the other: only the end tokens differ
    off = work.config.model_copy(update={"distillation": work.config.distillation.model_copy(update={"merge_stop": "off"})})
    one = [work.identities(config)["targets"] for config in (work.config, off)]
    monkeypatch.setattr(work, "initial", two)
    both = [work.identities(config)["targets"] for config in (work.config, off)]
    assert one[0] == one[1] == both[1] != both[0]


def test_how_fast_work_is_done_is_in_no_identity(work):
    before, config = work.identities(work.config), work.config
    for field in type(config.execution).model_fields.keys() - {"engine"}:
        assert work.identities(changed(config, f"execution.{field}")) == before
    assert work.identities(config.model_copy(update={"name": "other"})) == before


def test_what_a_campaign_rehearses_is_in_its_identity_by_its_present_state(tmp_path):
    path, seen = tmp_path / "prompts.jsonl", []
    rehearsal = {"share": 0.25, "num_prompts": 8, "data": [{"source": str(path), "columns": {"answer": ""}}]}
    for text in ("1+1=", "1+2=", "1+1="):
        path.write_text(f'{{"question": "{text}"}}\n')
        initial, data = PolicyRef(uri="a/b/c", digest="d"), Ref(uri="a/b/c")
        seen.append(campaign_identity(resolve("tiny", {"rehearsal": rehearsal}), initial, data, [], []))
        assert seen[-1].keys() <= IDENTITIES["campaigns"].keys()
    assert seen[0] == seen[2] != seen[1]


def test_sampling_ahead_is_in_a_campaigns_identity_and_all_else_of_execution_is_not():
    def identity(**execution):
        initial, data = PolicyRef(uri="a/b/c", digest="d"), Ref(uri="a/b/c")
        return campaign_identity(resolve("tiny", {"execution": execution}), initial, data, [], [])

    assert identity(overlap=True) != identity() == identity(overlap=False) == identity(num_shards=7, ranks=2)
    assert identity(overlap=True).keys() <= IDENTITIES["campaigns"].keys()


LIMITS = [
    "rollout.refresh", "rollout.min_overlap", "rollout.min_effective_sample_size", "token_weights.importance_clip",
    "token_weights.max_staleness",
]  # fmt: skip
"""Settings that decide when completions are kept."""


def test_when_completions_are_kept_is_no_part_of_what_they_are(work):
    before = work.identities(work.config)
    for path in LIMITS[1:3]:
        assert work.identities(changed(work.config, path)) == before


def test_all_that_decides_whether_completions_are_kept_is_in_the_decisions_identity():
    kept = {"rollout": {"refresh": "overlap"}, "token_weights": {"importance_correction": True, "max_staleness": 9}}
    config = resolve("tiny", kept)
    changes = [{"config": changed(config, path)} for path in (*LIMITS, "rollout.temperature", "rollout.record_top_k")]
    changes += [{"number": 2}, {"shard": 2}, {"policy": 2}]
    identities = [renewal_identity(*judging(**({"config": config} | change))) for change in ({}, *changes)]
    assert all(identity.keys() == IDENTITIES["renewals"].keys() for identity in identities)
    assert len({artifact_key("renewals", identity) for identity in identities}) == len(changes) + 1


def judging(config, number=1, shard=0, policy=0):
    """An iteration, and completions of the first one that it could keep."""
    nowhere, initial = Ref(uri="x/y/z"), PolicyRef(uri="a/b/c", digest=f"{policy}")
    campaign = Campaign(id="c", config=config, record=nowhere, data=nowhere, initial=initial, champion=initial, run_id="")
    made = ShardRef(uri="x/rollouts/a/b", iteration=0, shard=0, digest=f"{shard}", num_rollouts=1, num_tokens=1, seconds=0)
    prompts = PromptSet(uri="x/prompts/0/0", num_prompts=1, num_shards=1)
    begun = Iteration(campaign=campaign, number=number, config=config, run_id="", champion=initial, policy=initial)
    return begun, Held(prompts=prompts, shards=[made], sampling=resolve("tiny").rollout.sampling)


def test_every_kind_that_is_stored_stands_in_the_table():
    kinds = set()
    for path in Path(__file__).parents[2].glob("tasks/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("produce", "publish")
            kinds |= {arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant)} if named else set()
    assert kinds == IDENTITIES.keys()


def test_a_function_of_the_users_is_in_every_identity_that_it_decides_by_its_content(tmp_path):
    """And in that of the campaign; settings that are younger than stored work are in none where they change nothing."""
    path, seen = tmp_path / "mine.py", []
    data = {"grader": "python", "grader_function": f"{path}:judge"}
    for word in ("'a'", "'b'", "'a'"):
        path.write_text(f"def judge(text, item):\n    return {word} in text\n")
        config, initial = resolve("tiny", {"data": data}), PolicyRef(uri="a/b/c", digest="d")
        begun, _ = judging(config)
        found = [campaign_identity(config, initial, Ref(uri="a/b/c"), [], []), grade_identity(begun, [])]
        seen.append(json.dumps([*found, grader_identity(config.data)]))
    assert seen[0] == seen[2] != seen[1]
    plain = json.dumps(resolve("tiny", {"promotion": {"guards": ["tiny_copying"]}}).deciding())
    assert "grader_function" not in plain and "grader_function" in seen[0]


def test_an_environment_is_in_the_identity_of_what_it_answers_and_nowhere_while_there_is_none(tmp_path, work):
    """By its content where it is the user's; the campaign's, rollouts' and evaluations' identities are otherwise as they were."""
    path, seen = tmp_path / "mine.py", []
    group = {"rollout": {"group_size": 2}}
    place = {"rollout.environment": "python", "rollout.environment_function": f"{path}:reply"}
    for word in ("a", "b", "a"):
        path.write_text(f"def reply(messages):\n    return {word!r}, True\n")
        config = resolve("tiny", group, {"rollout": {name.partition(".")[2]: value for name, value in place.items()}})
        mine = work.config.model_copy(update={"rollout": config.rollout})
        found = work.identities(mine)
        campaign = campaign_identity(config, PolicyRef(uri="a/b/c", digest="d"), Ref(uri="a/b/c"), [], [])
        assert campaign["functions"].keys() == {"rollout.environment_function"}
        seen.append((found["rollouts"], found["evaluations"], json.dumps(campaign)))
    assert seen[0] == seen[2] and all(one != other for one, other in zip(seen[0], seen[1], strict=True))
    plain = resolve("tiny", group)
    written = json.dumps([plain.deciding(), plain.rollout.sampling])
    assert not any(name in written for name in ("environment", "max_turns"))
    asked = work.identities(work.config.model_copy(update={"rollout": plain.rollout}))
    unread = plain.rollout.model_copy(update={"max_turns": 9, "environment_function": "a.b:c"})
    assert work.identities(work.config.model_copy(update={"rollout": unread})) == asked

"""pytest -m slow tests/tasks/test_changed_in_place.py — what changed under its name is another campaign."""

import json
import uuid

import pytest
from prefect import flow

from flows.iterate import begin
from opsd_core.config import resolve
from opsd_core.models import tiny
from tasks.context import settings, store, tracker
from tasks.runtime.side_by_side import Here
from tasks.stages.prepare import prepare_data, prepare_model
from tasks.storage.artifacts import publish
from tasks.storage.s3 import open_store

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]
SMALL = {
    "data": {"size": 200, "validation_fraction": 0.3}, "rollout": {"num_prompts": 8}, "optimizer": {"batch_size": 8},
    "evaluation": {"num_items": 20}, "teacher": {"require_privilege_gain": False},
}  # fmt: skip


@flow(name="opsd-test-begin")
def triggered(overrides):
    """A campaign as it is before its first iteration."""
    config = resolve("tiny", SMALL, overrides, {"name": "changes"})
    initial = prepare_model(config)
    return begin(config, initial, prepare_data(config, initial), Here())


def made_of(campaign):
    """Everything that the campaign's iterations will read, and its id."""
    return campaign.model_dump(mode="json", exclude={"flow_run_id", "git_revision"})


class Place:
    """Addresses under which things lie, each in an old and a new state."""

    def __init__(self, folder, tiny_model):
        self.remote, self.name, self.folder = open_store("s3://opsd", settings()), f"mine/{uuid.uuid4().hex}", folder
        self.models = {"old": tiny_model, "new": tiny.build_tiny(folder / "other", seed=5)}
        self.versions = {}

    def rows(self, state):
        numbers = range(80) if state == "old" else range(100, 180)
        text = "".join(json.dumps({"question": f"{a}+1=", "answer": f"{a + 1:03d}"[::-1]}) + "\n" for a in numbers)
        self.remote.put(f"{self.name}/rows.jsonl", text.encode())
        return f"s3://opsd/{self.name}/rows.jsonl"

    def model(self, state):
        for path in self.models[state].iterdir():
            self.remote.put(f"{self.name}/model/{path.name}", path)
        return f"s3://opsd/{self.name}/model"

    def alias(self, state):
        """A registered model whose alias moves from one version to another."""
        if not self.versions:
            name = f"aliased-{uuid.uuid4().hex[:8]}"
            tracker().ensure_model(name)
            for of in self.models:
                made = publish(store(), "models", {"test": f"changes {of}"}, self.models[of], {})
                run = tracker().campaign_run(name, f"of-{of}", {})
                tags = {"opsd.model_uri": made.uri, "opsd.model_digest": made.digest}
                self.versions[of] = (name, tracker().register(name, made.uri, run, tags))
        name, number = self.versions[state]
        tracker().set_alias(name, "best", number)
        return f"models:/{name}@best"

    def template(self, state):
        (path := self.folder / "template.jinja").write_text(f"{{{{ question }}}} ({state}: {{{{ answer }}}})")
        return str(path)

    def chat_template(self, state):
        shown = "{% for m in messages %}{{ m.content }}{% endfor %}"
        (path := self.folder / "chat.jinja").write_text(shown if state == "old" else f"{shown} ")
        return str(path)


DATA = {"size": None, "validation_fraction": 0.3}
QUESTIONS = {"size": None, "columns": {"answer": ""}}
ATTACKS = {
    "rehearsed prompts": lambda place, state: {
        "rehearsal": {"share": 0.25, "num_prompts": 8, "data": [{"source": place.rows(state), **QUESTIONS}]}
    },
    "data": lambda place, state: {"data": {"source": place.rows(state), **DATA}},
    "model": lambda place, state: {"model": {"source": place.model(state)}},
    "model by alias": lambda place, state: {"model": {"source": place.alias(state)}},
    "teacher": lambda place, state: {"teacher": {"weights": "external", "source": place.model(state)}},
    "teacher by alias": lambda place, state: {"teacher": {"weights": "external", "source": place.alias(state)}},
    "template": lambda place, state: {"teacher": {"template": place.template(state)}},
    "chat template": lambda place, state: {"model": {"chat_template": place.chat_template(state)}},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_changed_between_two_triggers_is_another_campaign_and_changed_back_the_first(stack, tiny_model, tmp_path, attack):
    store().ensure_bucket()
    place = Place(tmp_path, tiny_model)
    overrides = ATTACKS[attack](place, "old")
    first = made_of(triggered(overrides))
    assert ATTACKS[attack](place, "new") == overrides, "the name stays"
    second = made_of(triggered(overrides))
    assert second["id"] != first["id"] and second["run_id"] != first["run_id"]
    ATTACKS[attack](place, "old")
    again = made_of(triggered(overrides))
    assert again == first

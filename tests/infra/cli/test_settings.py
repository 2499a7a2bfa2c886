"""pytest tests/infra/cli/test_settings.py — FILE|RECIPE and key=value: types, paths, variables, refusals in words."""

import json
import re
from pathlib import Path

import pytest

from infra.cli.app import run
from infra.cli.settings.request import asked_study, read_request
from infra.cli.settings.values import assignments, parse
from opsd_core.config import resolve
from opsd_core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("3", 3), ("010", 10), ("-2", -2), (".5", 0.5), ("true", True), ("null", None), ("", None),
        ("on", "on"), ("no", "no"), ("1:30", "1:30"), ("2026-11-27", "2026-11-27"), ("0x10", "0x10"), ("'5'", "5"), ('""', ""),
        ("[1, a]", [1, "a"]), ("{a: 1}", {"a": 1}), ("a: b", "a: b"), ("a # b", "a # b"), ("- a", "- a"), ("*.jsonl", "*.jsonl"),
        ("{{ question }}", "{{ question }}"), ("!!python/object:os.system x", "!!python/object:os.system x"), ("a=b", "a=b"),
    ],
)  # fmt: skip
def test_a_value_has_the_type_that_yaml_gives_it_and_text_stays_whole(text, value):
    assert parse(text, "key") == value and type(parse(text, "key")) is type(value)


def test_dotted_keys_nest_and_the_last_one_wins():
    given = assignments(["a.b=1", "a.c.d=x", "a.b=2", "iterations=3"])
    assert given == {"a": {"b": 2, "c": {"d": "x"}}, "iterations": 3}


@pytest.mark.parametrize("text", ["rollout", "=3", "a..b=1", ".a=1", "a b=1", "[a]=1", "--x=1"])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(ConfigError, match="is not key=value"):
        assignments([text])


SAME = {
    "mine.yaml": "recipe: tiny\nname: mine\nrollout:\n  temperature: 8e-1\noptimizer: {num_steps: 3}\n",
    "mine.toml": 'recipe = "tiny"\nname = "mine"\n[rollout]\ntemperature = 0.8\n[optimizer]\nnum_steps = 3\n',
    "mine.json": '{"recipe": "tiny", "name": "mine", "rollout": {"temperature": 0.8}, "optimizer": {"num_steps": 3}}',
    "mine.yml": "﻿# with a byte order mark\nrecipe: tiny\nname: mine\nrollout: {temperature: 0.8}\noptimizer: {num_steps: 3}\n",
}


@pytest.mark.parametrize("name", SAME)
def test_a_file_says_the_same_in_every_format(name, tmp_path):
    (tmp_path / name).write_text(SAME[name])
    request = read_request(str(tmp_path / name), ["optimizer.num_steps=4"])
    assert request.config() == resolve(
        "tiny", {"name": "mine", "rollout": {"temperature": 0.8}, "optimizer": {"num_steps": 4}}
    )
    parameters = request.parameters()
    assert parameters.pop("overrides") == {"rollout": {"temperature": 0.8}, "optimizer": {"num_steps": 4}}
    assert parameters == {"recipe": "tiny", "name": "mine"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "rollout: [1", r"a\.yaml is not valid YAML: line \d"),
        ("a.yaml", "seed: 1\nname: a\nseed: 2\n", r"line 3: 'seed' stands twice"),
        ("a.yaml", "- 1\n- 2\n", "holds list, not settings"),
        ("a.yaml", "a: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        (
            "a.yaml",
            "\n".join([f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}" if i else "x"] * 9) + "]" for i in range(9)]),
            "more than",
        ),
        ("a.yaml", "a: &a [*a]", "stands in"),
        ("a.yaml", "[" * 3000, "nested too deeply"),
        ("a.yaml", "? [1]\n: 2\n", "YAML"),
        ("a.yaml", "1: 2\n", "keys of settings are text"),
        ("a.toml", "a = \n", r"a\.toml is not valid TOML"),
        ("a.toml", "seed = 1\nseed = 2\n", "TOML"),
        ("a.json", "{", "is not valid JSON"),
        ("a.yaml", "seed: " + "9" * 5000, "YAML|too large"),
        ("a.yaml", "optimiser: {num_steps: 3}\nrecipe: tiny\n", r"Did you mean optimizer\?"),
        ("a.yaml", "recipe: tinny\n", "Did you mean 'tiny'"),
        ("a.yaml", "recipe: [tiny]\n", "recipe="),
        ("a.yaml", "rollout: 3\nrecipe: tiny\n", "rollout: must be an object"),
        ("a.yaml", "recipe: tiny\noptimizer: {schedule: cosin}\n", "'cosine'"),
        ("a.yaml", "", "no model of its own"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(name, text, message, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    assert run(["config", str(tmp_path / name)]) == 1
    said = capsys.readouterr()
    assert re.search(message, said.err) and "Traceback" not in said.err and said.out == ""


def test_binary_bytes_and_what_is_no_file_are_refused_in_words(tmp_path, capsys):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "b.yaml").mkdir()
    for what, message in (
        (tmp_path / "a.yaml", "not valid YAML"),
        (tmp_path / "b.yaml", "no settings file"),
        ("c.toml", "no settings"),
    ):
        assert run(["config", str(what)]) == 1
        assert message in capsys.readouterr().err
    for what in ("tinny", str(tmp_path), "a.txt", ""):
        assert run(["config", what]) == 1
        assert "neither a recipe nor a settings file" in capsys.readouterr().err


def test_paths_are_those_of_the_file_and_of_the_folder_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "project" / "models" / "checkpoint").mkdir(parents=True)
    (tmp_path / "project" / "train.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "other.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "project"))
    monkeypatch.setenv("DATA_OF_MINE", "../project")
    settings = tmp_path / "project" / "mine.yaml"
    settings.write_text("model: {source: models/checkpoint}\ndata: {source: train.jsonl}\n")
    config = read_request("../project/mine.yaml", []).config()
    assert config.model.source == str(tmp_path / "project/models/checkpoint")
    assert config.data.source == str(tmp_path / "project/train.jsonl")
    for given, place in (
        ("other.jsonl", "elsewhere/other.jsonl"),
        ("./other.jsonl", "elsewhere/other.jsonl"),
        ("*.jsonl", "elsewhere/*.jsonl"),
        ("~/train.jsonl", "project/train.jsonl"),
        ("${DATA_OF_MINE}/train.jsonl", "project/train.jsonl"),
        (str(tmp_path / "project/train.jsonl"), "project/train.jsonl"),
    ):
        request = read_request("../project/mine.yaml", [f"data.source={given}"])
        assert request.config().data.source == str(tmp_path / place), given
    (tmp_path / "project" / "mine.py").write_text("")
    request = read_request("../project/mine.yaml", ["data.grader=python", "data.grader_function=../project/mine.py:judge"])
    assert request.config().data.grader_function == f"{tmp_path / 'project/mine.py'}:judge"
    request = read_request("../project/mine.yaml", ["data.grader=python", "data.grader_function=mine.grading:judge"])
    assert request.config().data.grader_function == "mine.grading:judge"
    for untouched in ("openai/gsm8k", "s3://bucket/a.jsonl", "https://host/a.jsonl", "reasoning_gym:gcd", "tiny:addition"):
        assert read_request("base", [f"data.source={untouched}"]).overrides["data"]["source"] == untouched


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.source=missing.jsonl", r"data\.source='missing\.jsonl': there is no .*missing\.jsonl.*relative to"),
        ("data.grader_function=missing.py:judge", r"data\.grader_function='missing\.py': there is no .*missing\.py"),
        ("data.source=./missing", r"data\.source='\./missing': there is no"),
        ("model.source=~/missing", r"model\.source=.*there is no .*missing"),
        ("model.source=~nobody_at_all/x", r"model\.source=.*no path"),
        ("data.source=${NOT_SET_AT_ALL}/x.jsonl", "NOT_SET_AT_ALL, which is not set"),
        ("data.source=https://h/${AWS_SECRET_ACCESS_KEY}", "secret AWS_SECRET_ACCESS_KEY"),
        ("prompts.system=${OPSD_API_TOKEN}", "secret OPSD_API_TOKEN"),
        (f"model.source=./{'x' * 5000}", r"model\.source="),
    ],
)
def test_a_path_or_variable_that_does_not_exist_is_refused_by_its_setting(setting, message):
    with pytest.raises(ConfigError, match=message):
        read_request("base", [setting])


def test_templates_and_escaped_variables_stay_as_they_are():
    given = ["prompts.student={{ question }} costs ${NOT_SET}", "prompts.system=$${HOME} and $5"]
    overrides = read_request("tiny", given).overrides
    assert overrides["prompts"] == {"student": "{{ question }} costs ${NOT_SET}", "system": "${HOME} and $5"}


def test_a_folder_named_as_a_built_in_model_does_not_hide_it(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_request("tiny", ["model.source=tiny"]).config().model.source == "tiny"


def test_config_shows_every_value_with_its_origin_and_is_read_again(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("recipe: tiny\nrollout: {temperature: 0.8}\ndata: {options: {a: 1}}\n")
    assert run(["config", str(tmp_path / "mine.yaml"), "optimizer.num_steps=3", "name=mine"]) == 0
    shown = capsys.readouterr().out
    lines = {line.split(":")[0].strip(): line for line in shown.splitlines()}
    assert lines["temperature"].strip().startswith("temperature:")
    assert "  temperature: 0.8  # file mine.yaml" in shown.splitlines()
    assert "  num_steps: 3  # command line" in shown.splitlines()
    assert "  num_prompts: 1600  # recipe tiny" in shown.splitlines()
    assert "  ema_decay: 0.99  # default" in shown.splitlines()
    assert 'name: "mine"  # command line' in shown.splitlines()
    (tmp_path / "again.yaml").write_text(shown)
    assert (
        read_request(str(tmp_path / "again.yaml"), []).config()
        == read_request(str(tmp_path / "mine.yaml"), ["optimizer.num_steps=3", "name=mine"]).config()
    )
    assert run(["config", "tiny", "--changed"]) == 0
    assert "default" not in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["demo", "tiny", "opsd_paper_v3", "sdft", "null_control"])
def test_the_shown_configuration_of_a_recipe_is_that_recipe(recipe, tmp_path, capsys):
    assert run(["config", recipe]) == 0
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
    assert read_request(str(tmp_path / "again.yaml"), []).config() == resolve(recipe)


def test_recipes_are_listed_with_studies(capsys):
    assert run(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("demo", "base", "opsd_paper_v3", "null_control", "tiny_labels"))


def test_parameters_of_the_deployment_are_json():
    request = read_request("tiny", ["seed=3", "iterations=2", "curriculum.sampling=uniform"])
    assert json.loads(json.dumps(request.parameters()))["seed"] == 3 and Path.cwd().is_dir()


def test_a_study_is_a_name_or_a_file_with_the_command_lines_settings_over_it(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    (tmp_path / "mine.yaml").write_text("arms: [base, opsd]\nseeds: [0, 1]\ndata: {source: data.jsonl}\n")
    recipe, values = asked_study(str(tmp_path / "mine.yaml"), ["seeds=[3]", "optimizer.num_steps=4"])
    assert recipe == "base" and values["seeds"] == [3] and values["arms"] == ["base", "opsd"]
    assert values["data"]["source"] == str(tmp_path / "data.jsonl") and values["optimizer"] == {"num_steps": 4}
    (tmp_path / "tiny.yaml").write_text("recipe: tiny\n")
    assert asked_study(str(tmp_path / "tiny.yaml"), []) == ("tiny", {}) == asked_study("tiny", [])
    with pytest.raises(ConfigError, match=r"'tinny' is neither a recipe nor a settings file .* Did you mean 'tiny'"):
        asked_study("tinny", [])
    with pytest.raises(ConfigError, match=r"recipe='demo' does not exist\. Available: base, opsd_gsm8k, smollm2"):
        asked_study("tiny", ["recipe=demo"])

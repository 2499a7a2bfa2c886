"""pytest tests/test_docs.py — pages say what the code does: generated reference, commands and paths in prose."""

import re
from pathlib import Path

import pytest

from flows.gc import gc
from flows.iterate import iterate
from flows.pretrain import pretrain
from flows.promote import promote, rollback
from flows.replay import replay
from flows.study import study
from flows.watch_data import watch_data
from infra.generated_docs import PAGE, README, _json, _short, readme_with_tree, render, render_tree
from opsd_core.config import resolve
from opsd_core.config.recipes_papers import PAPERS
from opsd_core.config.rules.effects import READ_WHEN
from tests.doc_names import stale

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]


@pytest.mark.parametrize(
    "flow", [iterate, pretrain, promote, rollback, replay, study, gc, watch_data], ids=lambda flow: flow.fn.__name__
)
def test_every_parameter_is_explained_in_the_form(flow):
    """Prefect's form shows what the docstring's Args say; a Field's description does not reach it."""
    properties = flow.parameters.model_dump()["properties"]
    assert properties and all(value.get("description") for value in properties.values())


def test_configuration_reference_is_current():
    assert PAGE.read_text() == render(), "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_make_targets_in_prose_exist(page):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    paths = re.findall(r"`((?:flows|tasks|opsd_core|infra|tests|docs|benchmarks)/[\w./-]+)`", text)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
    links = [link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) if not (page.parent / link).exists()]
    assert not links


def test_readme_tree_is_current():
    assert README.read_text() == readme_with_tree(), "run: make docs"


def test_configuration_says_when_each_setting_is_read():
    rows = {row.split("`")[1]: row for row in PAGE.read_text().splitlines() if row.startswith("| `")}
    assert READ_WHEN.keys() <= rows.keys()
    assert [path for path, condition in READ_WHEN.items() if not rows[path].endswith(f"| {condition.words} |")] == []
    assert [path for path, row in rows.items() if path not in READ_WHEN and not row.endswith("|  |")] == []


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_a_published_recipe_lists_what_it_changes_and_nothing_else(name):
    listed = PAGE.read_text().split(f"#### {name}\n")[1].split("\n#")[0]
    method = [line for line in listed.splitlines() if line.startswith("- `")]
    tiny, changed = (resolve(recipe).model_dump() for recipe in ("tiny", name))
    for path, value in re.findall(r"`([\w.]+)=([^`]*)`", "\n".join(method)):
        section, _, leaf = path.rpartition(".")
        before, after = (values[section][leaf] if section else values[leaf] for values in (tiny, changed))
        written = _short(_json(PAPERS[name].method[section][leaf])) if isinstance(after, tuple) else str(after)
        assert before != after and written.lower() == value.lower(), path
    assert all(len(line) <= 800 for line in listed.splitlines())


def test_readme_tree_is_read_in_a_minute():
    assert len(render_tree().splitlines()) <= 48


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_prose_are_names_of_the_code(page):
    """Settings and their values, metrics, deployments and their parameters, modules, functions, classes, variables."""
    assert stale(page.read_text(), history=page.name == "CHANGELOG.md") == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != PAGE], ids=lambda page: page.name)
def test_pages_spell_the_terms_of_the_glossary_in_one_way(page):
    assert "artefact" not in page.read_text().replace(render_tree(), "").lower()


STALE = [
    "`teacher.warmth` decides",
    "`weights.position` and `rollout.batch_size` had other names",
    "`weights.*`",
    "`distillation.divergence=kl` is too short",
    "`optimizer.beta1=2` is out of bounds",
    "`route=best`",
    "`no_such_setting=3`",
    "`control=maybe`",
    '`curriculum.schedules={"rollout.heat": [1, 2]}` names nothing',
    '`{"token_weights": {"position": "middle"}}`',
    '`{"weights": {"position": "late"}}`',
    '`{"distillation.divergence": ["forward_kl", "kl"]}`',
    "call `opsd_core.trainer.distil`",
    "`opsd_core.training.trainer.distill` has one l too many",
    "`no_such_function()` and `NoSuchClass`",
    "a `NoSuchPolicy.load` method",
    "`no_such_call(1, 2)` takes two numbers",
    "start it with `-p speed=3`",
    "start it with `-p seed=-1`",
    "`make study RECIPE=small`",
    "`kl/median` is not logged",
    "`no_such_family/p50` is not logged either",
    "`benchmarks/no_such_file_*.md`",
    "`opsd/train` is no deployment",
    "`python -m infra.reference`",
    "`python benchmarks/speed.py`",
    "ends with SlownessError",
    "set OPSD_SPEED",
    "```bash\nmake fly\n```",
    "    make fly\n",
    "```bash\nprefect deployment run opsd/iterate -p speed=3\n```",
    "```bash\nprefect deployment run opsd/iterate -p recipe=small \\\n  -p iterations=0\n```",
    "```bash\nprefect deployment run opsd/replay -p name=a -p 'overrides={\n  \"weights\": {}}'\n```",
]


@pytest.mark.parametrize("text", STALE)
def test_a_name_that_the_code_does_not_have_is_found(text):
    assert stale(text)


def test_what_is_right_is_not_taken_for_stale():
    text = """`token_weights.position=late`, `route=correct_only`, `rollout_corr/*`, `kl/p99`, `opsd_core.objective`,
    `forward_kl`, `distillation.gold_share=.25`, `rollout.on_policy_fraction` λ, `opsd_core.training.trainer.distil`,
    `opsd/study`, `side=2`,
    `initial.hint`, ConfigError, OPSD_STATE, `{"curriculum": {"schedules": {"teacher.context": ["reference", "none"]}}}`
    """
    assert stale(text) == []
    assert stale("`rollout.batch_size`", history=True) == []


def test_every_measurement_says_first_what_it_shows():
    """Three lines at most below the title, before any command or table."""
    for page in sorted((ROOT / "benchmarks").rglob("*.md")):
        title, blank, *lines = page.read_text().splitlines()
        assert title.startswith("# ") and not blank, page.name
        summary = lines[: lines.index("")]
        assert 1 <= len(summary) <= 3 and all(len(line) <= 130 for line in summary), page.name
        assert summary[0].startswith("**Shows:**"), page.name

"""pytest tests/test_docs.py — pages say what the code does: generated reference, commands and paths in prose."""

import re
from pathlib import Path

import pytest

from flows.gc import gc
from flows.iterate import iterate
from flows.pretrain import pretrain
from flows.promote import promote, rollback
from flows.study import study
from infra.generated_docs import PAGE, README, readme_with_tree, render

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("flow", [iterate, pretrain, promote, rollback, study, gc], ids=lambda flow: flow.fn.__name__)
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

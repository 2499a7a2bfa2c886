"""pytest tests/flows/test_refused_early.py — what cannot work is refused by its field before a completion is paid for."""

import json

import pytest

from flows.iterate import iterate
from opsd_core.errors import OpsdError
from tasks.context import store, tracker

pytestmark = pytest.mark.timeout(600)
SMALL = {"data": {"size": 100, "validation_fraction": 0.3}, "rollout": {"num_prompts": 8}, "optimizer": {"batch_size": 4}}


@pytest.fixture
def few(tmp_path):
    """Data of which one item is held out."""
    rows = [{"question": f"{i}+1=", "answer": str(i + 1)} for i in range(12)]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "few.jsonl")


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_campaign_and_its_dry_run_refuse_the_same(stack, few, dry_run):
    store().ensure_bucket()
    before = {kind: len(store().list(f"{kind}/")) for kind in ("rollouts", "evaluations")}
    cases = [
        ({"evaluation": {"max_completion_length": 510}}, r"evaluation\.max_completion_length=510 exceeds .*512"),
        ({"model": {"lora": {"rank": 2, "target_modules": "q_prj"}}}, r"model\.lora\.target_modules='q_prj': .* has no module"),
        ({"data": {"source": few, "size": None, "validation_fraction": 0.05}}, r"1 held-out item is|leave a split empty"),
        ({"data": {"source": few, "size": None, "grader": "choice"}}, r"data\.grader=choice cannot judge"),
    ]
    for overrides, said in cases:
        with pytest.raises(OpsdError, match=said):
            iterate(recipe="tiny", name="early", dry_run=dry_run, overrides=SMALL | overrides)
    assert before == {kind: len(store().list(f"{kind}/")) for kind in ("rollouts", "evaluations")}
    assert tracker().version_by_alias("early", "champion") is None


def test_an_engine_that_is_not_installed_is_refused_before_anything_is_stored(stack, tmp_path, monkeypatch):
    monkeypatch.setenv("OPSD_VLLM_ENV", str(tmp_path / "nowhere"))
    for dry_run in (True, False):
        with pytest.raises(OpsdError, match=r"execution\.engine=vllm is not installed.*make engine-vllm"):
            iterate(recipe="tiny", name="engineless", dry_run=dry_run, overrides=SMALL | {"execution": {"engine": "vllm"}})
    assert tracker().version_by_alias("engineless", "champion") is None


def test_a_dry_run_of_what_works_reports_and_registers_nothing(stack):
    text = iterate(recipe="tiny", name="tried", dry_run=True, overrides=SMALL)
    assert "No problem found" in text and "An iteration takes about" in text
    assert tracker().version_by_alias("tried", "champion") is None

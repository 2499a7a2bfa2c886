"""pytest tests/flows/test_answers.py — the page of answers, lineage and version page of a real campaign; any two versions."""

import json
from pathlib import Path

import mlflow
import pytest
from mlflow.artifacts import download_artifacts
from prefect.client.orchestration import get_client

from flows.iterate import iterate
from infra.summary import mlflow_addresses
from opsd_core.errors import ConfigError
from tasks.answers import answers_of, answers_table, export_answers
from tasks.context import lineage, local, tracker

pytestmark = pytest.mark.timeout(600)
SMALL = {"evaluation": {"num_items": 60}, "rollout": {"num_prompts": 48}, "optimizer": {"num_steps": 4}}


@pytest.fixture(scope="module")
def version(stack):
    """The version that one iteration of a tiny campaign made."""
    text = iterate(recipe="tiny", name="answers", iterations=1, overrides=SMALL)
    made = tracker().aliased("answers", "candidate")
    assert f"before and after: {tracker().artifact_url(made.run_id, 'answers.html')}" in text
    return made


def _data(html):
    block = html.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    return json.loads(block)


def test_the_page_is_stored_shown_in_mlflow_and_holds_what_was_recorded(version):
    page = answers_of("answers")
    assert page.parent == local(version.tags["opsd.answers"]) and len(page.read_bytes()) < 5_000_000
    shown = Path(download_artifacts(run_id=version.run_id, artifact_path="answers.html"))
    assert shown.read_text() == page.read_text()
    data = _data(page.read_text())
    assert data["verdict"] == version.tags["gate.verdict"] and data["sentences"]
    assert data["num_items"] == len(data["items"]) == 60 and sum(data["totals"]["1"]["kinds"].values()) == 60
    assert data["num_completions"] == 48 and data["completions"][0]["privileged"]
    assert all(row["t"] and row["s"] for row in data["completions"]) and data["curve"]["points"]
    facts = dict(data["facts"])
    assert facts["of the held-out, measured"] == "60" and facts["prompts of this iteration"] == "48"
    assert {"training items", "test items, not touched", "completions trained on", "completions dropped"} <= facts.keys()


def test_a_version_has_few_short_tags_and_its_lineage_is_one_file(version):
    own = {tag: text for tag, text in version.tags.items() if tag.startswith("opsd.")}
    assert len(own) <= 12 and max(map(len, version.tags.values())) <= 250
    known = lineage(version.tags)
    shown = json.loads(Path(download_artifacts(run_id=version.run_id, artifact_path="lineage.json")).read_text())
    assert shown.items() <= known.items() and known["rollouts"][0].startswith("s3://") and known["targets"]
    assert known["model_uri"] == version.tags["opsd.model_uri"] and known["champion_version"] == 1


def test_versions_registered_with_tags_alone_are_read_as_before():
    old = {"opsd.rollouts": '["s3://b/rollouts/1"]', "opsd.grades": "s3://b/g", "opsd.targets": "[]", "gate.verdict": "refused"}
    assert lineage(old) == {"rollouts": ["s3://b/rollouts/1"], "grades": "s3://b/g", "targets": []}


def test_the_version_page_says_verdict_guards_slices_and_links_in_ten_lines(version):
    text = tracker().get_version("answers", version.version).description
    assert len(text.splitlines()) <= 10 and text.lower().startswith(f"**{version.tags['gate.verdict']}**")
    assert "Guards: " in text and "lices" in text and text.count("](http") == 3
    assert "- Level (promotion.alpha_per=campaign) 0.05: p = " in text and "- Decided by the gate" in text
    assert f"- Made from version 1 in iteration 0 of campaign {version.tags['opsd.campaign']}" in text


def test_the_report_begins_with_the_verdict_and_the_link(version):
    with get_client(sync_client=True) as client:
        (report,) = [a for a in client.read_artifacts(limit=200) if a.key == "opsd-answers-it0"]
    link = tracker().artifact_url(version.run_id, "answers.html")
    first = report.data.splitlines()[0]
    assert first == f"# answers: iteration 0 — version {version.version} {version.tags['gate.verdict']}"
    assert f"]({link})" in report.data.partition("## ")[0]
    data = _data(answers_of("answers").read_text())
    for row in data["slices"]["1"][:3]:
        assert f"| {row['dimension']} = {row['value']} | {row['n']} | {100 * row['before'][0]:.1f} % [" in report.data
    inputs = tracker().client.get_run(version.run_id).inputs.dataset_inputs
    assert [tag.value for given in inputs if given.dataset.name == "held-out-it0" for tag in given.tags] == ["evaluation"]


def test_point_zero_of_every_curve_is_the_model_before(version):
    client = mlflow.MlflowClient()
    parent = client.get_run(version.run_id).data.tags["mlflow.parentRunId"]
    for run in (version.run_id, parent):
        points = sorted((p.step, p.value) for p in client.get_metric_history(run, "eval/accuracy"))
        assert [step for step, _ in points] == [0, 1]
        assert points[0][1] == client.get_run(version.run_id).data.metrics["champion/eval/accuracy"]


def test_two_versions_stand_next_to_each_other_and_what_was_never_measured_is_refused_in_words(version):
    page = answers_of("answers", version.version, against=1)
    data = _data(page.read_text())
    assert data["sides"] == ["version 1", f"version {version.version}"] and data["num_items"] == 60
    assert answers_of("answers", version.version, against=1) == page
    rows = answers_table("answers")
    assert len(rows) == 60 and set(rows[0]) > {"question", "reference", "before_right", "after_text"}
    assert sum(row["after_right"] for row in rows) == round(60 * data["totals"]["1"]["after"][0])
    with pytest.raises(ConfigError, match="no version 7; it has 1, 2"):
        answers_of("answers", 2, against=7)
    with pytest.raises(ConfigError, match="no version 1 that a campaign measured"):
        answers_of("answers", 1)


def test_exports_hold_every_completion_and_both_evaluations(version, tmp_path):
    paths = export_answers("answers", None, tmp_path)
    assert all(path.exists() for path in paths)
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 48 and all(len(row["teacher_logprobs"]) == len(row["token_ids"]) for row in rows)
    logs = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("before", "after")]
    accuracy = [log["results"]["scores"][0]["metrics"]["accuracy"]["value"] for log in logs]
    data = _data(answers_of("answers").read_text())
    assert accuracy == pytest.approx([data["totals"]["1"][side][0] for side in ("before", "after")])


def test_the_closing_lines_open_the_table_of_runs_and_only_what_there_is(version):
    class Run:
        parameters = {"name": "answers"}  # noqa: RUF012

    report = f"x\n{tracker().artifact_url(version.run_id, 'answers.html')}\n"
    found = mlflow_addresses(Run(), "iterate", report)
    experiment = mlflow.get_experiment_by_name("answers").experiment_id
    assert found["metrics and plots"].endswith(f"/#/experiments/{experiment}/runs?workflowType=machine_learning")
    assert found["answers, before and after"] == report.split()[1]
    assert found["the registered versions"].endswith("/models/answers")
    assert "the registered versions" not in mlflow_addresses(Run(), "study", "")

"""pytest tests/infra/test_client.py — `import opsd` and its notebook: campaigns, versions, answers, errors in words."""

import datetime
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

import opsd
from infra.cli.settings.python import plain_settings
from infra.cli.settings.request import read_request, request_of
from opsd_core.errors import BusyError, ConfigError, DataError, OpsdError, RefusedError

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "own_model.ipynb"


def test_importing_it_loads_nothing_heavy_and_its_names_are_there():
    code = (
        "import sys, opsd\nassert 'opsd.client' not in sys.modules\nassert opsd.client.run is opsd.run\n"
        "heavy = {'torch', 'prefect', 'mlflow', 'pandas', 'pydantic', 'yaml'} & set(sys.modules)\nassert not heavy, heavy\n"
        "assert all(getattr(opsd, name) is getattr(opsd.client, name) for name in opsd.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with pytest.raises(AttributeError, match="no attribute 'runs'; it has Run, Version, answers"):
        opsd.runs  # noqa: B018


def test_settings_of_python_are_those_of_a_file_whatever_their_spelling(tmp_path):
    nested = {"rollout": {"temperature": 0.5, "top_k": 3}, "token_weights": {"position": "late"}, "seed": 4}
    spellings = [
        {"rollout.temperature": np.float64(0.5), "rollout": {"top_k": np.int32(3)}, "token_weights.position": "late", "seed": 4},
        {"rollout": {"temperature": np.array(0.5), "top_k": 3}, "token_weights": {"position": np.str_("late")}, "seed": 4},
    ]
    assert [plain_settings(given) for given in spellings] == [nested, nested]
    assert plain_settings({"a.b.x": 1, "a": {"b": {"y": 2}}}) == {"a": {"b": {"x": 1, "y": 2}}}
    assert plain_settings({"a": (1, [np.True_, None]), "b": np.arange(2), "c": Path("x/y")}) == {
        "a": [1, [True, None]], "b": [0, 1], "c": "x/y",
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text("recipe: tiny\nrollout: {temperature: 0.5}\n")
    by_file = read_request(str(tmp_path / "mine.yaml"), ["seed=4"]).config()
    assert request_of({"recipe": "tiny", "rollout": {"temperature": 0.5}}, {"seed": 4}, "Python").config() == by_file
    assert request_of({"rollout": {"temperature": 0.5}}, {"seed": 4, "recipe": "tiny"}, "Python").config() == by_file


def _circle():
    value: dict = {}
    value["again"] = value
    return value


@pytest.mark.parametrize(
    "value",
    [{1, 2}, b"text", object(), print, datetime.date(2020, 1, 1), 1j, pd.DataFrame({"a": [1]}), (n for n in "ab"), _circle()],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_no_file_could_hold_is_refused_by_its_setting(value):
    with pytest.raises(ConfigError, match=r"rollout\.temperature"):
        opsd.run("tiny", rollout={"temperature": value})


@pytest.mark.parametrize(
    ("what", "overrides", "message"),
    [
        ("tinny", {}, "Did you mean 'tiny'"),
        ("mine.yaml", {}, "no settings file"),
        (Path("~/no/such.yaml"), {}, "no settings file .*/no/such.yaml"),
        (7, {}, "neither a recipe, a settings file nor settings"),
        (None, {}, "neither a recipe"),
        ({}, {}, "no model of its own"),
        ({"recipe": "tinny"}, {}, "tinny"),
        ("tiny", {"rolout": {}}, "rollout"),
        ("tiny", {"rollout": 3}, "rollout"),
        ("tiny", {"rollout": {"temperature": float("nan")}}, "temperature"),
        ("tiny", {"data": {"source": Path("missing.jsonl")}}, "there is no .*missing.jsonl"),
        ({3: 4}, {}, "keys of settings are text"),
    ],
)
def test_a_wrong_request_is_refused_before_any_server_is_asked(what, overrides, message, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(ConfigError, match=message):
        opsd.run(what, **overrides)


def test_servers_that_do_not_answer_are_named_by_every_call_also_where_prefect_knew_another_address(tmp_path):
    """In a process of its own, which has loaded Prefect and its settings before it hears of the servers."""
    code = """
import os, time
import prefect
from prefect.settings import PREFECT_API_URL
assert not PREFECT_API_URL.value()
import opsd
from opsd_core.errors import OpsdError
calls = [lambda: opsd.run("tiny"), lambda: opsd.check("tiny"), lambda: opsd.wait("mine"), lambda: opsd.versions("mine"),
         lambda: opsd.champion("mine"), lambda: opsd.answers("mine"), lambda: opsd.answers("mine", 2, against="champion"),
         lambda: opsd.promote("mine", 2), lambda: opsd.rollback("mine")]
def asked(call):
    try:
        call()
    except OpsdError as error:
        return str(error)
for call in calls:
    said = asked(call)
    assert said and ("no Prefect server is known" in said or "MLFLOW_TRACKING_URI" in said), said
os.environ |= {"PREFECT_API_URL": "http://127.0.0.1:9/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
               "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
for call in calls:
    said = asked(call)
    assert said and "127.0.0.1:9" in said and "does not answer" in said, said
"""
    ours = ("PREFECT_", "MLFLOW_", "AWS_", "OPSD_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environ |= {"OPSD_STATE": str(tmp_path / "state"), "PREFECT_HOME": str(tmp_path / "prefect")}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def executed(worker, tmp_path_factory):
    """The notebook after all its cells, run in a kernel in an empty folder."""
    folder = tmp_path_factory.mktemp("notebook")
    own = {"IPYTHONDIR": "ipython", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_CONFIG_DIR": "config"}
    with pytest.MonkeyPatch.context() as patch:
        for name, part in own.items():
            patch.setenv(name, str(folder / part))
        patch.setenv("PYTHONPATH", str(ROOT))
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        place = {"metadata": {"path": str(folder)}}
        return NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()


@pytest.fixture(scope="module")
def learned(executed):
    """The campaign that the notebook ran."""
    return opsd.wait("sums", quiet=True)


def shown(cell):
    """What a cell printed, and its value as text."""
    outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return "".join(output.get("text") or output["data"]["text/plain"] for output in outputs)


def test_the_notebook_is_stored_without_outputs_and_is_valid():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert len(NOTEBOOK.read_bytes()) < 8_000


def test_the_notebook_ends_with_a_champion_and_its_answers(executed):
    data, campaign, table, counts, champion, answer = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert "prompt" in shown(data)
    assert "Promoted: version 2 of sums is champion" in shown(campaign) and "\x1b" not in shown(campaign)
    assert "before_answer" in shown(table) and "after_right" in shown(counts)
    assert "version=2" in shown(champion) and "outcome='promoted'" in shown(champion)
    assert len(shown(answer).strip("'")) == 3


def test_a_run_says_its_state_its_reports_and_where_it_is(learned):
    assert learned.state == "Completed" and learned.name == "sums" and learned.id in learned.url
    (report,) = learned.reports
    assert (report.iteration, report.version, report.outcome) == (0, 2, "promoted")
    assert report.markdown.startswith("# sums: iteration 0") and learned.report.startswith("# sums: ")
    assert opsd.wait(learned.id, quiet=True).id == learned.id == opsd.wait(learned.id[:8], quiet=True).id


def test_what_became_of_it_is_printed_unless_it_is_to_be_quiet(learned, capsys):
    assert learned.wait() is learned
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("iteration 0: version 2 ") and last.startswith("Promoted: version 2 of sums")
    learned.wait(quiet=True)
    assert capsys.readouterr().out == ""


def test_versions_have_address_digest_accuracy_and_a_verified_folder(learned):
    from transformers import AutoModelForCausalLM

    from tasks.context import tracker

    first, second = opsd.versions("sums")
    assert second == opsd.champion("sums") and second.aliases == ("candidate", "champion")
    assert (first.aliases, first.outcome, second.outcome) == (("previous",), "initial", "promoted")
    stored = tracker().get_version("sums", 2)
    assert second.uri == stored.source and second.digest == stored.tags["opsd.model_digest"] != first.digest
    assert f"{first.accuracy:.4f} -> {second.accuracy:.4f}" in stored.tags["gate.numbers"]
    assert AutoModelForCausalLM.from_pretrained(second.path()).config.model_type == "llama"


def test_answers_are_a_table_of_both_versions(learned):
    table = opsd.answers("sums")
    parts = [f"{side}_{part}" for side in ("before", "after") for part in ("right", "answer", "text", "tokens")]
    assert isinstance(table, pd.DataFrame) and [*table.columns] == ["id", "question", "reference", *parts]
    versions = opsd.versions("sums")
    assert len(table) == 100
    assert [table["before_right"].mean(), table["after_right"].mean()] == pytest.approx([v.accuracy for v in versions])
    pd.testing.assert_frame_equal(table, opsd.answers("sums@champion", against="previous"))
    pd.testing.assert_frame_equal(table, opsd.answers("sums", np.int64(2), against=1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: opsd.champion("clint"), "no registered model 'clint'. There are: [a-z]"),
        (lambda: opsd.versions(""), "no registered model ''"),
        (lambda: opsd.answers("clint"), "clint"),
        (lambda: opsd.answers("sums", 7), "it has 1 @previous, 2 @candidate @champion"),
        (lambda: opsd.answers("sums", "champion "), "neither a number nor an alias"),
        (lambda: opsd.answers("sums/2", 2), "two versions"),
        (lambda: opsd.promote("sums", 9), "it has 1 @previous, 2 @candidate @champion"),
        (lambda: opsd.promote("clint"), "clint"),
        (lambda: opsd.rollback("clint"), "clint"),
        (lambda: opsd.wait("nobody"), "no run of 'nobody'"),
        (lambda: opsd.Run("x", "x", "", None).state, "'x' is not the id of a run"),
    ],
)
def test_a_wrong_name_is_refused_in_words(learned, call, message):
    with pytest.raises(OpsdError, match=message):
        call()


@pytest.mark.slow
def test_a_person_moves_the_champion_and_back(learned):
    assert opsd.rollback("sums", who="ada").version == 1
    with pytest.raises(OpsdError, match="no earlier champion"):
        opsd.rollback("sums")
    moved = opsd.promote("sums", 2, reason="read it", who="ada")
    assert moved.version == 2 and moved == opsd.champion("sums")


def test_a_failed_run_raises_what_it_met_and_a_cancelled_one_says_so(learned, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"q": 1}\n' * 20)
    with pytest.raises(DataError, match="question"):  # seen here, before there is a run
        opsd.run("tiny", name="fails", data={"source": rows})
    rows.write_text("".join(f'{{"question": "1+{number}", "answer": "{number + 1}"}}\n' for number in range(3)))
    failed = opsd.run("tiny", name="fails", data={"source": rows})
    stopped = opsd.run({"recipe": "tiny", "name": "stops"}, iterations=50)
    with pytest.raises(BusyError, match="has not ended after 0 s"):
        stopped.wait(0, quiet=True)
    stopped.cancel()
    with pytest.raises(OpsdError, match="was cancelled"):
        opsd.wait("stops", quiet=True)
    assert stopped.state == "Cancelled"
    with pytest.raises(RefusedError, match="has ended already"):
        stopped.cancel()
    with pytest.raises(DataError, match="split"):
        failed.wait(quiet=True)

"""pytest tests/infra/cli/test_campaigns.py — the command line on real servers: run, check, look at, ship, export."""

import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta

import pytest
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.filters import LogFilter
from prefect.states import Scheduled
from pyarrow.parquet import read_table
from safetensors.torch import load_file

from infra.cli import settling
from infra.cli.app import run
from infra.cli.server import find_run, prefect
from opsd_core.digest import file_digest
from opsd_core.models.tiny import build_tiny

pytestmark = pytest.mark.timeout(600)
SETTINGS = """
recipe: tiny
name: shell
iterations: 1
model: {lora: {rank: 4, alpha: 8}}
data: {size: 400}
rollout: {num_prompts: 32}
optimizer: {num_steps: 2, batch_size: 8}
evaluation: {num_items: 12}
execution: {num_shards: 1}
promotion: {mode: manual}
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "mine.yaml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def learned(worker, settings):
    """What `opsd run` printed of a small campaign."""
    shown = io.StringIO()
    with redirect_stdout(shown):
        assert run(["run", str(settings), "evaluation.num_items=10"]) == 0
    return shown.getvalue()


def test_a_campaign_is_watched_in_plain_lines_and_its_outcome_is_in_words(learned):
    lines = learned.splitlines()
    assert any(line.startswith("iteration 0: version 2 ") and "accuracy" in line for line in lines)
    assert any(
        line.startswith(("Not promoted: the champion of shell stays", "Waits for a person: version 2")) for line in lines
    )
    assert "To look at:" in lines and any("/runs/flow-run/" in line for line in lines)
    assert "INFO" not in learned and "Finished in state" not in learned and "prefect" not in lines[0]


AUTHORS = re.compile(r"\d\d:\d\d:\d\d\.\d{3} \| (INFO|WARNING|ERROR) +\| (Flow run|Task run|prefect\.\S+ -) ")
NOISE = re.compile(
    r"it/s\]|\d+%\||hook '|Deprecat|FutureWarning|UserWarning|\[transformers\]|telemetry|analytics|promotion.*cloud|Traceback"
    r"|database is locked",
    re.IGNORECASE,
)


def test_a_campaign_says_only_what_a_person_would_write(learned, stack):
    """Its lines in Prefect and in the worker's log have known authors, and no library speaks between them."""
    with prefect() as client:
        found = find_run(client, "shell", active=False)
        said = client.read_logs(LogFilter(flow_run_id={"any_": [found.id]}), limit=200)
    assert {line.name for line in said} <= {"prefect.flow_runs", "prefect.task_runs", "prefect.flow_runs.worker"}
    assert [line.message for line in said if NOISE.search(line.message)] == []
    logs, deadline = stack.state.root / "logs", time.monotonic() + 60
    while not (ours := _lines_of_a_run((logs / "worker.log").read_text().splitlines())):
        assert time.monotonic() < deadline  # the last line is written after the server knows the state
        time.sleep(0.5)
    assert len(ours) > 15 and [line for line in ours if NOISE.search(line)] == []
    strange = [line for line in ours if not AUTHORS.match(line)]
    assert all(line.startswith(("what it answers", "model compute ", "iteration ")) for line in strange), strange
    assert "database is locked" not in (logs / "prefect.log").read_text()
    assert "is deprecated" not in (logs / "mlflow.log").read_text()


def _lines_of_a_run(written: list[str]) -> list[str]:
    """Of the worker's log, from the last beginning of the run to its end; empty while that is not written."""
    begin = max(number for number, line in enumerate(written) if "Flow run 'shell-seed0' - Beginning" in line)
    ends = (number for number, line in enumerate(written) if number > begin and "Finished in state Completed()" in line
            and "Flow run" in line)  # fmt: skip
    return written[begin : next(ends, begin)]


def test_versions_show_aliases_and_what_became_of_them(learned, capsys):
    assert run(["versions", "shell"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[:3] == ["1", "champion", "initial"] and shown[2].split()[:2] == ["2", "candidate"]
    assert run(["versions", "shell@candidate"]) == 0
    assert "champion" not in capsys.readouterr().out
    assert run(["versions", "shel"]) == 1
    assert "There are: " in capsys.readouterr().err
    assert run(["versions", "shell/7"]) == 1
    assert "it has 1 @champion, 2 @candidate" in capsys.readouterr().err


def test_a_version_is_promoted_by_name_and_reason(learned, capsys):
    assert run(["promote", "shell/2", "--reason", "read it", "--who", "ada"]) == 0
    assert capsys.readouterr().out.strip() == "shell: version 2 is champion (before: 1)"
    assert run(["versions", "shell"]) == 0
    assert "version 2, by ada: read it" in capsys.readouterr().out
    assert run(["approve", "shell"]) == 1
    assert "no promotion of 'shell' waits" in capsys.readouterr().err


def test_a_version_is_exported_whole_with_its_adapters(learned, tmp_path, capsys):
    from tasks.context import local, tracker

    target = tmp_path / "out" / "shell-2"
    assert run(["export", "shell/2", "--to", str(target), "--adapter"]) == 0
    stored = local(tracker().get_version("shell", 2).source)
    for path in (path for path in stored.rglob("*") if path.is_file()):
        assert file_digest(target / path.relative_to(stored)) == file_digest(path)
    assert str(target) in capsys.readouterr().out and not list(target.parent.glob(".*"))
    assert any("lora_B" in name for name in load_file(target / "adapter" / "adapter_model.safetensors"))

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(target / "base", dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, target / "adapter").merge_and_unload()
    whole = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(merged(ids).logits, whole(ids).logits, rtol=1e-4, atol=1e-5)

    assert run(["export", "shell", "--to", str(target)]) == 1
    assert "not an empty folder" in capsys.readouterr().err
    assert run(["export", "shell/1", "--to", str(tmp_path / "first"), "--adapter"]) == 1
    assert "no adapters" in capsys.readouterr().err
    assert run(["export", "nobody", "--to", str(tmp_path / "none")]) == 1
    assert "no registered model 'nobody'" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_answers_before_and_after_are_one_file(learned, tmp_path, capsys):
    assert run(["answers", "shel"]) == 1
    said = capsys.readouterr().err
    assert "there is no registered model 'shel'. There are: " in said and "Did you mean 'shell'?" in said
    page = tmp_path / "pages" / "answers.html"
    assert run(["answers", "shell@candidate", "--to", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page) and "</html>" in page.read_text()
    assert run(["answers", "shell", "2", "--against", "1", "--to", str(page)]) == 0
    assert "version 1" in page.read_text()
    capsys.readouterr()
    assert run(["answers", "shell", "--against", "7"]) == 1
    assert "model 'shell' has no such version" in capsys.readouterr().err
    assert run(["answers", "shell", "2", "--to", str(tmp_path)]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_answers_are_exported_for_other_tools(learned, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["answers", "shell", "--export", "out"]) == 0
    written = [tmp_path / "out" / name for name in ("completions.jsonl", "dataset", "before.json", "after.json")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in written]
    rows = [json.loads(line) for line in written[0].read_text().splitlines()]
    assert len(rows) == 32 and rows[0]["messages"][1]["role"] == "assistant"
    assert read_table(written[1] / "data").num_rows == 32
    assert [json.loads(path.read_text())["eval"]["dataset"]["samples"] for path in written[2:]] == [10, 10]
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no page was asked for, and nothing half written is left"
    assert run(["answers", "shell", "--export", "out"]) == 1
    assert "not an empty folder. Name another one with --export" in capsys.readouterr().err
    assert run(["answers", "shell", "2", "--against", "1", "--export", "both", "--to", "page.html"]) == 0
    assert (tmp_path / "both" / "after.json").is_file() and (tmp_path / "page.html").is_file()


def test_a_name_that_no_model_has_waits_in_no_queue(learned, capsys):
    for command in ("replay", "rollback", "promote", "approve", "refuse"):
        assert run([command, "shel"]) == 1
        assert "Did you mean 'shell'?" in capsys.readouterr().err, command


def test_what_cannot_be_served_or_converted_here_is_refused_with_what_to_install(learned, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["export", "shell", "--to", str(tmp_path / "folder"), "--gguf"]) == 1
    assert "llama.cpp" in capsys.readouterr().err and (tmp_path / "folder" / "config.json").exists()


def test_a_dry_run_reports_and_registers_nothing(learned, settings, capsys):
    status = run(["check", str(settings), "name=tried"])
    shown = capsys.readouterr().out
    assert "campaign    tried (recipe tiny), 1 iteration(s)" in shown and "# tried: dry run" in shown
    assert status == ("**Problem:**" in shown)
    assert run(["versions", "tried"]) == 1


def test_a_run_goes_on_after_control_c_and_can_be_cancelled(learned, settings, capsys):
    """The watching ends with status 130 and says how to cancel; status lists the run; logs and cancel find it by its name."""
    command = [sys.executable, "-m", "infra.cli.app", "run", str(settings), "name=stopped", "iterations=50"]
    watching = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's children ignore it
    )  # fmt: skip
    assert watching.stdout.readline().startswith(("waiting", "starting", "checking"))
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=60)
    assert watching.returncode == 130 and "goes on" in said and "opsd cancel" in said and "Traceback" not in said

    assert run(["status"]) == 0
    shown = capsys.readouterr().out
    assert "prefect" in shown and "stopped" in shown
    assert run(["cancel", "stopped"]) == 0
    with prefect() as client:
        found = find_run(client, "stopped", active=False)
        deadline = time.monotonic() + 120
        while not found.state.is_final() and time.monotonic() < deadline:
            time.sleep(0.5)
            found = client.read_flow_run(found.id)
    assert found.state.is_cancelled()
    assert run(["cancel", str(found.id)]) == 1
    assert "has ended already" in capsys.readouterr().err
    assert run(["cancel", "stopped"]) == 1
    assert "no run that has not ended" in capsys.readouterr().err
    assert run(["logs", str(found.id)[:8]]) == 0


def test_a_run_that_waits_for_its_time_is_cancelled(learned, capsys):
    """It has no process yet: Prefect answers no to `Cancelling` and makes it `Cancelled` at once."""
    with prefect() as client:
        deployment = client.read_deployment_by_name("opsd/iterate").id
        later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(hours=9))
        waits = client.create_flow_run_from_deployment(deployment, parameters={"recipe": "tiny", "name": "later"}, state=later)
        assert run(["cancel", "later"]) == 0 and str(waits.id) in capsys.readouterr().out
        assert client.read_flow_run(waits.id).state.is_cancelled()
    assert run(["cancel", "later"]) == 1 and "no run that has not ended" in capsys.readouterr().err


def test_a_run_that_was_suspended_says_what_its_last_start_says(learned, monkeypatch):
    """Lines reach the server in batches: until the last start's have, the first one's are not its answer."""
    monkeypatch.setattr(settling, "_LOGS_S", 0.8)
    with prefect() as client:
        deployment = client.read_deployment_by_name("opsd/promote").id
        later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(hours=9))
        asked = client.create_flow_run_from_deployment(deployment, parameters={"name": "shell", "reason": "x"}, state=later)

        def wrote(*lines):
            now = datetime.now(UTC)
            times = [now + timedelta(milliseconds=at) for at in range(len(lines))]
            entries = zip(times, lines, strict=True)
            client.create_logs(
                [LogCreate(name="prefect.flow_runs", level=20, message=m, timestamp=t, flow_run_id=asked.id) for t, m in entries]
            )
            return settling.said(client, asked)

        asks = "Suspending flow run, execution will be rescheduled when this flow run is resumed."
        assert wrote("Beginning flow run 'promote-shell'", asks) == ""
        assert wrote("Beginning flow run 'promote-shell'") == ""
        assert wrote("version 2 approved", "Finished in state Completed()") == "version 2 approved"
        client.delete_flow_run(asked.id)


def test_logs_are_found_by_the_campaign_and_leave_out_the_machinery(learned, capsys):
    assert run(["logs", "shell"]) == 0
    shown = capsys.readouterr()
    assert "Finished in state" not in shown.out and shown.err
    assert run(["logs", "nobody"]) == 1
    assert "there is no run of 'nobody'" in capsys.readouterr().err


def test_the_doctor_finds_nothing_missing_where_everything_runs(learned, capsys):
    status = run(["doctor"])
    shown = capsys.readouterr().out
    checks = {line[5:].split()[0] for line in shown.splitlines() if line[:4] in ("ok  ", "note", "FAIL")}
    assert {"python", "packages", "cores", "memory", "gpu", "disk", "ports", "s3", "prefect", "mlflow", "worker"} <= checks
    assert status == 0, shown


@pytest.mark.slow
def test_the_champion_is_rolled_back_and_a_refusal_is_in_words(learned, capsys):
    assert run(["promote", "shell/2"]) == 0
    assert run(["rollback", "shell"]) == 0
    assert "version 1 is champion again" in capsys.readouterr().out
    assert run(["rollback", "shell"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("opsd: ") and "no earlier champion" in said and "Traceback" not in said


@pytest.mark.slow
def test_unneeded_artifacts_are_counted_and_a_failure_on_the_worker_is_in_words(learned, tmp_path, capsys):
    assert run(["gc"]) == 0
    assert "to delete" in capsys.readouterr().out
    build_tiny(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])  # nobody reads weights before the worker
    assert run(["run", "tiny", "name=fails", f"model.source={tmp_path / 'model'}"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("opsd: ") and "Traceback" not in said.err and "is cut off" in said.err
    assert run(["logs", "fails"]) == 0
    assert "ModelError" in (shown := capsys.readouterr().out) and "Traceback" not in shown
    assert run(["logs", "fails", "--all"]) == 0
    assert "Traceback" in capsys.readouterr().out


@pytest.mark.slow
def test_rows_without_the_columns_are_refused_before_there_is_a_run(learned, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"q": 1}\n' * 20)
    assert run(["run", "tiny", "name=never", f"data.source={rows}"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("opsd: ") and "Traceback" not in said.err and "question" in said.err
    assert run(["logs", "never"]) == 1


def test_a_doctor_names_the_remedy_of_what_is_missing(tmp_path, monkeypatch, capsys):
    """A state folder of its own, in which nothing runs."""
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPSD_STATE", str(tmp_path / "state"))
    assert run(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "FAIL prefect" in shown and "-> Start it: opsd up" in shown
    assert run(["status"]) == 1
    assert "Start it: opsd up" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_served_answers_under_its_registered_name(learned, capsys, monkeypatch):
    pytest.importorskip("openai", reason="transformers serve needs the extra `serve`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen([sys.executable, "-m", "infra.cli.app", "serve", "shell/2", "--port", port])
    try:
        deadline = time.monotonic() + 300
        while run_chat(monkeypatch, port) != 0:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(2)
    finally:
        server.terminate()
        server.wait(timeout=60)
    assert "shell> " in capsys.readouterr().out


def run_chat(monkeypatch, port):
    """One question to the server; the exit status of `opsd chat`."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("12+34=\n\n"))
    return run(["chat", "shell", "--port", port])

"""Runs, metrics and outages against a real MLflow server."""

import http.server
import json
import logging
import math
import socket
import subprocess
import sys
import threading
import time
import uuid

import pytest

from opsd_core.errors import ConfigError, ServiceError
from tasks.runtime.settings import Settings
from tasks.tracking import Tracker

CONFIG = {"name": "t", "optimizer": {"lr": 1e-3, "steps": 4}, "empty": {}}


def changed(settings: Settings, **values) -> Settings:
    return Settings.model_validate({**settings.model_dump(), **values})


@pytest.fixture
def tracker(settings) -> Tracker:
    return Tracker(settings)


@pytest.fixture
def run_id(tracker) -> str:
    return tracker.campaign_run("tests", uuid.uuid4().hex, CONFIG)


def history(tracker: Tracker, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in tracker.client.get_metric_history(run_id, name)]


def test_a_campaign_and_its_iterations_keep_their_runs(settings, tracker):
    campaign = uuid.uuid4().hex
    run_id = tracker.campaign_run("tests", campaign, CONFIG, {"opsd.git": "abc"})
    child = tracker.iteration_run(run_id, 0, {"opsd.policy": "def"})
    tracker.end_run(child)
    again = Tracker(settings)
    assert again.campaign_run("tests", campaign, CONFIG) == run_id
    assert again.iteration_run(run_id, 0) == child != again.iteration_run(run_id, 1)
    run = again.client.get_run(run_id)
    assert run.data.params == {"name": "t", "optimizer.lr": "0.001", "optimizer.steps": "4", "empty": "{}"}
    assert run.data.tags["opsd.git"] == "abc" and run.data.tags["opsd.campaign_id"] == campaign
    assert again.client.get_run(child).data.tags["mlflow.parentRunId"] == run_id
    assert again.client.get_run(child).info.status == "RUNNING"
    assert again.run_url(child).endswith(f"/runs/{child}?workflowType=machine_learning")
    with pytest.raises(ConfigError, match="cannot identify a run"):
        tracker.campaign_run("tests", "x' or '1'='1", CONFIG)


def test_metrics_arrive_once_in_order_and_finite(settings, tracker, run_id, caplog):
    rows = [(step, {"loss": 1.0 / (step + 1), "kl": math.nan if step == 1 else 0.5}) for step in range(1200)]
    with caplog.at_level(logging.WARNING):
        tracker.log_metrics(run_id, rows)
    assert "Metric kl is nan at step 1" in caplog.text
    assert history(tracker, run_id, "loss") == [(step, 1.0 / (step + 1)) for step in range(1200)]
    assert len(history(tracker, run_id, "kl")) == 1199
    resumed = Tracker(settings)  # from a checkpoint at step 1100
    resumed.log_metrics(run_id, [(step, {"loss": 1.0 / (step + 1)}) for step in range(1100, 1205)])
    resumed.log_metrics(run_id, [(1204, {"loss": 0.0})])
    assert history(tracker, run_id, "loss") == [(step, 1.0 / (step + 1)) for step in range(1205)]


def test_params_files_datasets_and_tags_stand_in_the_run(tracker, run_id, tmp_path):
    tracker.log_params(run_id, {f"p{number}": number for number in range(150)} | {"long": "x" * 9000})
    tracker.log_dict(run_id, {"a": 1}, "report/summary.json")
    tracker.log_text(run_id, "# Report\n", "report/report.md")
    (tmp_path / "plot.png").write_bytes(b"\x89PNG")
    tracker.log_figure(run_id, tmp_path / "plot.png", "plots/loss.png")
    for _ in range(2):
        tracker.log_dataset(run_id, "rollouts-0", "s3://opsd/rollouts/ab", "c" * 64, 128, "rollouts")
    tracker.log_tags(run_id, {"opsd.note": "n"})
    tracker.end_run(run_id, "FAILED")
    run = tracker.client.get_run(run_id)
    assert run.data.params["p149"] == "149" and len(run.data.params["long"]) == 6000
    assert run.data.tags["opsd.note"] == "n" and run.info.status == "FAILED"
    assert [entry.path for entry in tracker.client.list_artifacts(run_id, "report")] == [
        "report/report.md",
        "report/summary.json",
    ]
    copy = tracker.client.download_artifacts(run_id, "report/summary.json", str(tmp_path))
    assert json.loads(open(copy).read()) == {"a": 1}  # noqa: PTH123, SIM115
    (entry,) = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("rollouts-0", "c" * 36)
    assert json.loads(entry.dataset.profile) == {"num_rows": 128} and entry.tags[0].value == "rollouts"
    with pytest.raises(ConfigError):
        tracker.log_text(run_id, "", "../escape.txt")


def test_a_refused_record_is_dropped_with_a_warning(tracker, run_id, caplog):
    with caplog.at_level(logging.WARNING):
        tracker.log_params(run_id, {"name": "another value"})
        tracker.log_metrics("0" * 32, [(0, {"loss": 1.0})])
    assert caplog.text.count("MLflow refuses a record") == 2
    assert tracker.flush()


class Gate:
    """A TCP relay in front of the real server that can be closed and opened."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("http://").split(":")
        self.target, self.open = (host, int(port)), True
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            if not self.open:
                client.close()
                continue
            upstream = socket.create_connection(self.target)
            for source, sink in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while self.open and (data := source.recv(65536)):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()


@pytest.fixture
def gate(settings):
    gate = Gate(settings.mlflow_uri)
    yield gate
    gate.server.close()


def test_an_outage_delays_metrics_and_loses_none(settings, gate, tracker):
    behind = Tracker(changed(settings, mlflow_uri=gate.url))
    run_id = behind.campaign_run("tests", uuid.uuid4().hex, CONFIG)
    behind.log_metrics(run_id, [(0, {"loss": 3.0})])
    gate.open = False
    started = time.monotonic()
    for step in range(1, 50):
        behind.log_metrics(run_id, [(step, {"loss": 3.0 - step / 100})])
    behind.log_text(run_id, "written during the outage", "note.txt")
    behind.end_run(run_id)
    assert time.monotonic() - started < 10  # one failed call, then straight to the spool
    assert not behind.flush()
    gate.open = True
    assert behind.flush()
    assert history(tracker, run_id, "loss") == [(step, 3.0 - step / 100) for step in range(50)]
    run = tracker.client.get_run(run_id)
    assert run.info.status == "FINISHED" and tracker.client.list_artifacts(run_id)[1].path == "note.txt"
    assert list((settings.state / "spool").iterdir()) == []


def test_background_sending_keeps_the_order_and_loses_nothing_at_the_end_of_a_process(settings, tracker, run_id):
    behind = Tracker(settings, background=True)
    for step in range(40):
        behind.log_metrics(run_id, [(step, {"loss": float(step)})])
    behind.log_text(run_id, "after the metrics", "note.txt")
    assert behind.flush()
    assert history(tracker, run_id, "loss") == [(step, float(step)) for step in range(40)]
    program = (
        "import sys; from tasks.tracking import Tracker; tracker = Tracker(background=True)\n"
        "for step in range(40, 60): tracker.log_metrics(sys.argv[1], [(step, {'loss': float(step)})])\n"
        "tracker.end_run(sys.argv[1]); raise SystemExit(3)"
    )
    ended = subprocess.run([sys.executable, "-c", program, run_id], check=False, timeout=120)
    assert ended.returncode == 3
    assert history(tracker, run_id, "loss") == [(step, float(step)) for step in range(60)]
    assert tracker.client.get_run(run_id).info.status == "FINISHED"


def test_a_dead_process_leaves_its_spool_to_the_next(settings, tracker, run_id):
    spool = settings.state / "spool"
    spool.mkdir(parents=True)
    record = {"op": "metrics", "run_id": run_id, "points": [["loss", 1.0, 5, 1_700_000_000_000]]}
    (spool / "1-dead.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record) + '\n{"op": "metr')
    Tracker(settings).log_metrics(run_id, [(5, {"loss": 1.0}), (6, {"loss": 0.5})])
    assert history(tracker, run_id, "loss") == [(5, 1.0), (6, 0.5)]
    assert list(spool.iterdir()) == []


def test_opening_a_run_outlasts_a_short_outage_and_names_a_long_one(settings, gate):
    behind = Tracker(changed(settings, mlflow_uri=gate.url), patience_s=20)
    gate.open = False
    threading.Timer(2, lambda: setattr(gate, "open", True)).start()
    assert behind.campaign_run("tests", uuid.uuid4().hex, CONFIG)
    gate.open = False
    behind.patience_s = 1
    with pytest.raises(ServiceError, match=r"does not answer \(trying to open the run of campaign tests for 1 s\)"):
        behind.campaign_run("tests", uuid.uuid4().hex, CONFIG)


def test_system_metrics_are_sampled_inside_the_block(tracker, run_id):
    with tracker.system_metrics(run_id, interval_s=0.2):
        time.sleep(0.7)
    assert len(history(tracker, run_id, "system/cpu_utilization_percentage")) >= 3
    assert history(tracker, run_id, "system/process_memory_megabytes")[0][1] > 10


def test_check_passes_and_names_what_is_wrong(settings, tracker):
    tracker.check()
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://user:planted-word@127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(ServiceError, match="does not answer.*MLFLOW_TRACKING_URI") as caught:  # noqa: RUF043
            Tracker(changed(settings, mlflow_uri=url)).check()
        assert "planted-word" not in str(caught.value)
    with pytest.raises(ServiceError, match="not as an MLflow tracking server"):
        Tracker(changed(settings, mlflow_uri=settings.mlflow_uri + "/wrong")).check()
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set"):
        Tracker(changed(settings, mlflow_uri=None))


@pytest.mark.parametrize(("status", "why"), [(401, "refuses the credentials"), (403, "allowed-hosts")])
def test_refusals_are_named(settings, status, why):
    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracker = Tracker(changed(settings, mlflow_uri=f"http://127.0.0.1:{server.server_address[1]}"))
        with pytest.raises(ServiceError, match=why):
            tracker.check()
        with pytest.raises(ServiceError, match=why):
            tracker.ensure_model("any")
        server.shutdown()

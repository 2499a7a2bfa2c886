"""Runs of a campaign and its iterations, and what is logged to them.

Runs are looked up by tag before they are made, so a resumed campaign continues its own. Logging never raises for an
outage: what cannot be sent waits in a spool and goes out with the next call that succeeds. Per run and metric name,
steps rise; a step at or below the last recorded one is already there and is skipped, so that a resumed stage may log
again from its checkpoint without a duplicate.
"""

import base64
import json
import logging
import math
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import requests
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from opsd_core.disk import REASONS
from opsd_core.errors import ConfigError
from tasks.runtime.settings import Settings
from tasks.storage.base import check_key
from tasks.tracking.background import Background
from tasks.tracking.connection import Connection, is_outage
from tasks.tracking.flatten import flatten
from tasks.tracking.spool import Spool
from tasks.tracking.system_metrics import sampling

_LOG = logging.getLogger(__name__)
_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100
_PARAM_CHARS, _TAG_CHARS, _DIGEST_CHARS = 6000, 8000, 36
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 120.0
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

CAMPAIGN_TAG, ITERATION_TAG, PARENT_TAG = "opsd.campaign_id", "opsd.iteration", "mlflow.parentRunId"
CHILD_TAG = "opsd.child"
FLOW_RUN_TAG = "prefect.flow_run_id"
"""The Prefect run that opened it last."""
RUNS_PAGES = "workflowType=machine_learning"  # else MLflow opens its pages for traces of applications, which are empty


class RunLog(Connection):
    """Campaign and iteration runs; all logging calls are safe from several threads."""

    def __init__(self, settings: Settings | None = None, *, patience_s: float = 90.0, background: bool = False) -> None:
        super().__init__(settings, patience_s=patience_s)
        self._background = Background(self._deliver) if background else None
        self._lock = threading.RLock()
        self._spool = Spool(self.settings.state / "spool")
        self._last_step: dict[str, dict[str, int]] = {}
        self._experiment_of: dict[str, str] = {}
        self._silent_until, self._pause_s = 0.0, _FIRST_PAUSE_S
        self._replayed = False
        self._warned: set[str] = set()

    def campaign_run(
        self, name: str, campaign_id: str, config: Mapping[str, Any], tags: Mapping[str, str] | None = None
    ) -> str:
        """Id of the campaign's run in experiment `name`, made at the first call; `config` becomes its parameters.

        Raises ServiceError when MLflow stays away or refuses.
        """

        def look_up_or_create() -> tuple[Run, bool]:
            experiment = self.client.get_experiment_by_name(name)
            if experiment is not None and experiment.lifecycle_stage == "deleted":
                self.client.restore_experiment(experiment.experiment_id)
            experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(name)
            return self._run_with(experiment_id, {CAMPAIGN_TAG: _checked_id(campaign_id)}, f"campaign {name}", tags)

        run, created = self._call(f"open the run of campaign {name}", look_up_or_create)
        if created:
            self.log_params(run.info.run_id, flatten(config))
            self.log_dict(run.info.run_id, dict(config), "config.json")
        return run.info.run_id

    def iteration_run(self, parent_run_id: str, iteration: int, tags: Mapping[str, str] | None = None) -> str:
        """Id of the child run of this iteration, made at the first call; raises ServiceError like `campaign_run`."""

        def look_up_or_create() -> tuple[Run, bool]:
            if parent_run_id not in self._experiment_of:
                self._remember(self.client.get_run(parent_run_id))
            identity = {PARENT_TAG: _checked_id(parent_run_id), ITERATION_TAG: str(int(iteration))}
            return self._run_with(self._experiment_of[parent_run_id], identity, f"iteration {iteration:03d}", tags)

        return self._call(f"open the run of iteration {iteration}", look_up_or_create)[0].info.run_id

    def child_run(self, parent_run_id: str, name: str) -> str:
        """Id of the child run of this name, made at the first call; raises ServiceError like `campaign_run`."""

        def look_up_or_create() -> tuple[Run, bool]:
            if parent_run_id not in self._experiment_of:
                self._remember(self.client.get_run(parent_run_id))
            identity = {PARENT_TAG: _checked_id(parent_run_id), CHILD_TAG: _checked_id(name)}
            return self._run_with(self._experiment_of[parent_run_id], identity, name, None)

        return self._call(f"open the run {name}", look_up_or_create)[0].info.run_id

    def run_url(self, run_id: str) -> str:
        """Address of the run in MLflow's pages."""
        if run_id not in self._experiment_of:
            self._call("read a run", lambda: self._remember(self.client.get_run(run_id)))
        return f"{self.public_uri}/#/experiments/{self._experiment_of[run_id]}/runs/{run_id}?{RUNS_PAGES}"

    def artifact_url(self, run_id: str, path: str) -> str:
        """Address at which MLflow's pages show a file of the run."""
        return self.run_url(run_id).replace("?", f"/artifacts/{path}?")

    def log_metrics(self, run_id: str, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Log (step, {name: value}) rows in as few calls as possible; non-finite values are left out with a warning.

        MLflow refuses `@` in names: avg@4 is logged as avg_at_4.
        """
        now_ms, points = int(time.time() * 1000), []
        for step, values in rows:
            for name, value in values.items():
                if math.isfinite(value):
                    points.append([name.replace("@", "_at_"), float(value), int(step), now_ms])
                elif name not in self._warned:
                    self._warned.add(name)
                    _LOG.warning("Metric %s is %s at step %d: not logged (said once per name).", name, value, step)
        if points:
            self._send({"op": "metrics", "run_id": run_id, "points": points})

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters, 100 per call; values are cut at MLflow's 6000 characters."""
        texts = {name: str(value)[:_PARAM_CHARS] for name, value in params.items()}
        self._send({"op": "params", "run_id": run_id, "params": texts})

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run in one call."""
        self._send({"op": "tags", "run_id": run_id, "tags": {name: str(value) for name, value in tags.items()}})

    def log_text(self, run_id: str, text: str, artifact_path: str) -> None:
        """Store `text` as a file of the run."""
        self.log_figure(run_id, text.encode(), artifact_path)

    def log_dict(self, run_id: str, record: Mapping[str, Any], artifact_path: str) -> None:
        """Store `record` as an indented JSON file of the run."""
        self.log_text(run_id, json.dumps(record, indent=2, sort_keys=True, default=str), artifact_path)

    def log_figure(self, run_id: str, image: Path | bytes, artifact_path: str) -> None:
        """Store a small file (an image, a page) of the run under `artifact_path`."""
        data = image if isinstance(image, bytes) else image.read_bytes()
        record = {"op": "file", "run_id": run_id, "path": check_key(artifact_path)}
        self._send({**record, "base64": base64.b64encode(data).decode()})

    def log_dataset(
        self, run_id: str, name: str, source_uri: str, digest: str, num_rows: int, context: str = "training"
    ) -> None:
        """Record an input dataset of the run; MLflow keeps the first 36 characters of `digest`."""
        record = {"op": "dataset", "run_id": run_id, "name": name[:500], "source": source_uri, "rows": int(num_rows)}
        self._send({**record, "digest": digest[:_DIGEST_CHARS], "context": context})

    def end_run(self, run_id: str, status: str = "FINISHED") -> None:
        """Mark the run FINISHED, FAILED or KILLED."""
        self._send({"op": "end", "run_id": run_id, "status": status})

    def system_metrics(self, run_id: str, interval_s: float = 5.0) -> AbstractContextManager[None]:
        """Sample CPU, memory and GPU in the background inside the `with` block (`system/...` metrics)."""
        return sampling(lambda rows: self.log_metrics(run_id, rows), interval_s)

    def flush(self) -> bool:
        """Send what waits, in the background and in the spool, now; True when nothing of this process is left."""
        if self._background:
            self._background.drain()
        with self._lock:
            self._silent_until, self._replayed = 0.0, False
            self._deliver(None)
            return self._spool.empty()

    def _remember(self, run: Run, fresh: bool = False) -> None:
        self._experiment_of[run.info.run_id] = run.info.experiment_id
        steps = {} if fresh else {metric.key: metric.step for metric in run.to_proto().data.metrics}
        self._last_step.setdefault(run.info.run_id, steps)

    def _run_with(
        self, experiment_id: str, identity: dict[str, str], name: str, tags: Mapping[str, str] | None
    ) -> tuple[Run, bool]:
        """(run, created): the oldest run that has these tags, set running again, or a new one."""
        wanted = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in identity.items())
        found = self.client.search_runs([experiment_id], wanted, max_results=1, order_by=["attributes.start_time ASC"])
        if found:
            self._remember(found[0])
            opener = (tags or {}).get(FLOW_RUN_TAG)
            if opener and found[0].data.tags.get(FLOW_RUN_TAG) != opener:
                self.client.set_tag(found[0].info.run_id, FLOW_RUN_TAG, opener)
            if found[0].info.status != "RUNNING":
                self.client.update_run(found[0].info.run_id, status="RUNNING")
            return found[0], False
        texts = {tag: str(value)[:_TAG_CHARS] for tag, value in (tags or {}).items()}
        run = self.client.create_run(experiment_id, tags={**texts, **identity}, run_name=name)
        self._remember(run, fresh=True)
        return run, True

    def _send(self, record: dict[str, Any]) -> None:
        (self._background.put if self._background else self._deliver)(record)

    def _deliver(self, record: dict[str, Any] | None) -> None:
        """Send what waits, then `record`; keep it when MLflow does not answer, drop it with a warning when it refuses."""
        with self._lock:
            if time.monotonic() < self._silent_until:
                if record is not None:
                    self._spool.append(record)
                return
            started = time.monotonic()
            try:
                if not self._replayed and self._spool.pending():
                    self._spool.replay(self._execute_or_drop)
                self._replayed, self._pause_s = True, _FIRST_PAUSE_S
                if record is not None:
                    self._execute_or_drop(record)
            except (MlflowException, requests.RequestException, OSError) as error:
                # Wait at least as long as the failed attempt took, so that an outage costs training at most half.
                pause_s = max(self._pause_s, time.monotonic() - started)
                self._silent_until, self._pause_s = time.monotonic() + pause_s, min(2 * pause_s, _LONGEST_PAUSE_S)
                self._replayed = False
                if record is not None:
                    self._spool.append(record)
                reason = self.settings.redact(str(error))[:200]
                of_disk = getattr(error, "errno", None) in REASONS
                silent = "Nothing can be handed to MLflow" if of_disk else "MLflow does not answer"
                _LOG.warning("%s; records wait in %s. (%s)", silent, self._spool.folder, reason)

    def _execute_or_drop(self, record: dict[str, Any]) -> None:
        try:
            _EXECUTE[record["op"]](self, record)
        except (MlflowException, requests.RequestException, KeyError) as error:
            if not isinstance(error, KeyError) and is_outage(error):
                raise
            reason = self.settings.redact(str(error))[:500]
            _LOG.warning("MLflow refuses a record (%s) of run %s: %s", record.get("op"), record.get("run_id"), reason)

    def _execute_metrics(self, record: dict[str, Any]) -> None:
        run_id = record["run_id"]
        if run_id not in self._last_step:
            self._remember(self.client.get_run(run_id))
        last, metrics = dict(self._last_step[run_id]), []
        for name, value, step, timestamp in record["points"]:
            if step > last.get(name, -1):
                metrics.append(Metric(name, value, timestamp, step))
                last[name] = step
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            chunk = metrics[start : start + _METRICS_PER_CALL]
            self.client.log_batch(run_id, metrics=chunk)
            self._last_step[run_id].update({metric.key: metric.step for metric in chunk})

    def _execute_params(self, record: dict[str, Any]) -> None:
        params = [Param(name, value) for name, value in record["params"].items()]
        for start in range(0, len(params), _PARAMS_PER_CALL):
            self.client.log_batch(record["run_id"], params=params[start : start + _PARAMS_PER_CALL])

    def _execute_tags(self, record: dict[str, Any]) -> None:
        tags = [RunTag(name, value[:_TAG_CHARS]) for name, value in record["tags"].items()]
        self.client.log_batch(record["run_id"], tags=tags)

    def _execute_file(self, record: dict[str, Any]) -> None:
        folder, _, name = check_key(record["path"]).rpartition("/")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, name)
            path.write_bytes(base64.b64decode(record["base64"]))
            self.client.log_artifact(record["run_id"], str(path), folder or None)

    def _execute_dataset(self, record: dict[str, Any]) -> None:
        dataset = Dataset(
            name=record["name"],
            digest=record["digest"],
            source_type="s3" if record["source"].startswith("s3://") else "local",
            source=json.dumps({"uri": record["source"]}),
            profile=json.dumps({"num_rows": record["rows"]}),
        )
        tags = [InputTag("mlflow.data.context", record["context"])]
        self.client.log_inputs(record["run_id"], datasets=[DatasetInput(dataset, tags)])

    def _execute_end(self, record: dict[str, Any]) -> None:
        self.client.set_terminated(record["run_id"], record["status"])


_EXECUTE = {
    name.removeprefix("_execute_"): function
    for name, function in vars(RunLog).items()
    if name.startswith("_execute_") and name != "_execute_or_drop"
}


def _checked_id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise ConfigError(
            f"{value!r} cannot identify a run: letters, digits, '_', '.', ':', '-', at most 128 characters."
        )
    return value

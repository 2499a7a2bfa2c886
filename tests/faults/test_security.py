"""pytest tests/faults/test_security.py — hostile weights and names, and secrets planted wherever one can be."""

import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName, LogFilter
from pydantic import ValidationError

from infra.access.child_environment import child_environment
from opsd_core.config import resolve
from opsd_core.data import make_example
from opsd_core.errors import ConfigError, ModelError
from opsd_core.models.policy import load_policy
from tasks.runtime.secrets import CREDENTIALS
from tasks.storage.base import check_key
from tasks.storage.manifest import artifact_key
from tasks.tracking.registry import Registry


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "unpickled")


def test_a_folder_with_pickled_weights_only_is_refused_and_never_opened(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "proof")))
    with pytest.raises(ModelError, match=r"pickled weights \(\.bin\) are refused"):
        load_policy(folder, resolve("tiny").model)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["../other", "a/b", "/etc", "..", "", "A", "x" * 64, "a\n", "a b", "{{ name }}"])
def test_campaign_names_cannot_leave_their_prefix(name):
    with pytest.raises(ConfigError, match="name"):
        resolve("tiny", {"name": name})


@pytest.mark.parametrize("key", ["../x", "a/../b", "/a", "a//b", "a/./b", "a\\b", "a\x00b", "a\nb", "a/" + "b" * 256, ""])
def test_object_keys_cannot_leave_their_prefix(key):
    with pytest.raises(ConfigError, match="cannot name a stored object"):
        check_key(key)


@pytest.mark.parametrize("text", ["../../etc/passwd", "a/b", "\x00", "' or 1=1 --", "{{ 7 * 7 }}"])
def test_texts_of_a_dataset_never_become_part_of_a_key(text):
    example = make_example(text, text, text)
    assert len(example.id) == 16 and set(example.id) <= set("0123456789abcdef")
    key = artifact_key("rollouts", {"text": text})
    assert check_key(key) == key and len(key.partition("/")[2]) == 32


def test_registered_names_with_filter_syntax_are_refused(tmp_path):
    registry = Registry.__new__(Registry)  # the name is checked before any server is asked
    with pytest.raises(ConfigError, match="cannot name a registered model"):
        registry.ensure_model("x' or name like '%")


def test_remote_code_is_off_unless_asked_for():
    assert resolve("tiny").model.trust_remote_code is False
    with pytest.raises((ConfigError, ValidationError)):
        resolve("tiny", {"model": {"trust_remote_code": "sure"}})


FLOW = """
import os, warnings
from flows.parameters import flow
from opsd_core.errors import ServiceError
from tasks.context import settings, tracker
from tasks.runtime.stage import task

@task(name="leak")
def leak(kind):
    import requests
    try:
        if kind == "proxy":
            requests.get("https://nowhere.invalid", proxies={"https": os.environ["HTTPS_PROXY"]}, timeout=5)
        raise OSError(5, os.environ["DB_PASSWORD"] + " at " + os.environ["PREFECT_API_URL"], os.environ["HTTPS_PROXY"])
    except OSError as cause:
        raise ServiceError("cannot use " + " ".join(os.environ.values())) from cause

@flow
def leaks():
    from prefect.logging import get_run_logger
    tracker().check()
    print("environment", dict(os.environ), settings(), repr(settings()))
    get_run_logger().warning("values %s", list(os.environ.values()))
    states = [leak.submit(kind, return_state=True) for kind in ("proxy", "other")]
    try:
        leak("other")
    except ServiceError:
        get_run_logger().exception("the stage failed")
        raise

leaks()
"""


def planted(stack) -> tuple[dict[str, str], list[str]]:
    """An environment with a distinct secret in every variable and address, the stack's own passwords in its addresses."""
    words = [f"planted-{number}-secret/word" for number in range(5)]
    coded = [quote(word, safe="") for word in words]
    own = stack.state.passwords
    environ = {name: value for name, value in {**os.environ, **stack.env}.items() if name not in CREDENTIALS}
    environ["MLFLOW_TRACKING_URI"] = stack.state.urls["mlflow"].replace("://", f"://opsd:{own['MLFLOW_PASSWORD']}@")
    environ["PREFECT_API_URL"] = stack.state.urls["prefect"].replace("://", f"://opsd:{own['PREFECT_PASSWORD']}@")
    environ |= {"DB_PASSWORD": words[0], "HF_TOKEN": words[1], "HTTPS_PROXY": f"http://me:{coded[2]}@127.0.0.1:9"}
    environ |= {"NO_PROXY": "127.0.0.1", "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql://me:{coded[3]}@db/x"}
    environ |= {"WANDB_API_KEY": words[4], "OPSD_PASS": "DB_PASSWORD,WANDB_API_KEY"}
    secrets = [*words, *coded, *own.values(), stack.env["AWS_SECRET_ACCESS_KEY"], *stack.state.server_secrets.values()]
    return environ, secrets


def shown_in_prefect(run_name: str) -> str:
    """Everything that Prefect's server keeps of the runs of this name: logs, states with their data, parameters."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[run_name])))
        ids = [run.id for run in runs]
        parts = [run.model_dump_json() for run in runs]
        for run in ids:
            tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
            parts += [one.model_dump_json() for one in tasks]
            parts += [log.model_dump_json() for log in client.read_logs(LogFilter(flow_run_id={"any_": [run]}), limit=200)]
    return "\n".join(parts)


def test_secrets_in_any_variable_or_address_are_written_nowhere(stack):
    environ, secrets = planted(stack)
    started = child_environment(environ)  # as a worker starts a run
    assert set(started) >= {"DB_PASSWORD", "WANDB_API_KEY"} and "PREFECT_API_DATABASE_CONNECTION_URL" not in started
    program = [sys.executable, "-c", FLOW]
    home = Path(__file__).parents[2]
    done = subprocess.run(program, env=started, capture_output=True, text=True, check=False, timeout=300, cwd=home)
    assert "the stage failed" in done.stderr and "cannot use" in done.stderr, done.stderr[-3000:]
    kept = shown_in_prefect("leaks")
    while "the stage failed" not in kept:  # logs are sent in the background
        time.sleep(0.5)
        kept = shown_in_prefect("leaks")
    written = {"standard output": done.stdout, "standard error": done.stderr, "Prefect": kept}
    written |= {path.name: path.read_text(errors="replace") for path in (stack.state.root / "logs").iterdir()}
    leaks = [(where, secret) for where, text in written.items() for secret in secrets if secret in text]
    assert leaks == []
    assert "***" in done.stderr and "***" in kept and "ServiceError" in kept

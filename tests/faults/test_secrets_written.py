"""pytest tests/faults/test_secrets_written.py — a whole campaign, and some that fail at each edge, write no secret anywhere."""

import base64
import gzip
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psutil
import pyarrow.parquet as pq
import pytest

from infra import processes
from infra.services import SERVICES
from infra.state import open_state
from tasks.runtime.settings import load_settings
from tasks.storage.s3 import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
TINY = ["iterations=1", "data.size=200", "rollout.num_prompts=16", "optimizer.num_steps=2", "optimizer.batch_size=4"]
TINY += ["evaluation.num_items=12", "execution.num_shards=1", "name=kept"]
OWN = {"env", "server.env"}
"""Where the stack keeps its passwords, readable by their owner alone."""
PLANTED = [f"pl4nted/{number}+s&cret'\\" for number in range(6)]
SIGNED = "X-Amz-Credential=AKIAPLANTED&X-Amz-Signature=pl4ntedsignature0123456789abcdef"


def forms(word):
    """A secret as different writers spell it, found without the product's own table."""
    yield from (word, quote(word, safe=""), quote(word), quote(quote(word, safe=""), safe=""), repr(word)[1:-1])
    yield json.dumps(word)[1:-1]
    for user in ("", "opsd:", "me:"):
        yield base64.b64encode(f"{user}{word}".encode()).decode().rstrip("=")


class Planted:
    """A stack of its own whose variables and addresses are full of secrets."""

    def __init__(self, folder: Path) -> None:
        self.state = open_state(folder / "state", home=ROOT)
        own, urls = self.state.passwords, self.state.urls
        environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TERM", "TMPDIR") if name in os.environ}
        environ |= {"OPSD_HOME": str(ROOT), "OPSD_STATE": str(self.state.root), "OMP_NUM_THREADS": "1"}
        environ["MLFLOW_TRACKING_URI"] = urls["mlflow"].replace("://", f"://opsd:{own['MLFLOW_PASSWORD']}@")
        environ["PREFECT_API_URL"] = urls["prefect"].replace("://", f"://opsd:{own['PREFECT_PASSWORD']}@")
        environ |= {"DB_PASSWORD": PLANTED[0], "HF_TOKEN": PLANTED[1], "WANDB_API_KEY": PLANTED[4]}
        environ |= {"HTTPS_PROXY": f"http://me:{quote(PLANTED[2], safe='')}@127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
        environ |= {"OPSD_PASS": "DB_PASSWORD,WANDB_API_KEY", "OPSD_LEASE_WAIT_S": "5"}
        self.environ = environ
        self.secrets = [*PLANTED, SIGNED.rpartition("=")[2], *own.values(), self.state.secret_key]
        self.secrets += self.state.server_secrets.values()
        self.printed: dict[str, str] = {}

    def opsd(self, *arguments, **more) -> subprocess.CompletedProcess:
        return self.program(" ".join(arguments), ["-m", "infra.cli.app", *arguments], more)

    def program(self, title, arguments, more) -> subprocess.CompletedProcess:
        environ = {name: value for name, value in {**self.environ, **more}.items() if value is not None}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
        self.printed[title] = f"{done.stdout}\n{done.stderr}"
        return done

    def direct(self, title, overrides, **more) -> str:
        """A campaign in a process of its own, as from a notebook; what it printed."""
        given = {"overrides": overrides, "recipe": "tiny", "name": "direct", "num_prompts": 16, "num_steps": 2}
        program = f"from flows.iterate import iterate\niterate(**{given!r})"
        assert self.program(title, ["-c", program], more).returncode != 0
        return self.printed[title]

    def triggered(self, overrides) -> tuple[str, str]:
        """State and message of a run that was asked for without the command line; both empty where the server refused it."""
        program = (
            "import json, sys, time\nfrom tasks.context import settings\nsettings()\n"
            "from infra.cli.server import prefect, submit\nfrom opsd_core.errors import OpsdError\n"
            "with prefect() as client:\n"
            f"    run = submit(client, 'iterate', {{'recipe': 'tiny', 'name': 'edge', 'overrides': {overrides!r}}})\n"
            "    while not client.read_flow_run(run.id).state.is_final():\n        time.sleep(0.5)\n"
            "    state = client.read_flow_run(run.id).state\n    print(json.dumps([state.name, state.message]))\n"
        )
        done = self.program(f"trigger {len(self.printed)}", ["-c", program], {})
        return tuple(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else ("", "")

    def written(self):
        """(where, bytes) of everything: databases by rows, files, stored objects, output, command lines."""
        for title, text in self.printed.items():
            yield f"output of {title[:60]}", text.encode()
        for name in SERVICES:
            for process in processes.family(self.state.root, name):
                yield f"command line of {name}", "\0".join(_command(process)).encode()
        for path in sorted(self.state.root.rglob("*")):
            if path.is_file() and path.name not in OWN and path.relative_to(self.state.root).parts[0] not in ("s3-certificates",):
                yield str(path.relative_to(self.state.root)), _opened(path.name, path.read_bytes())
            if path.suffix == ".db":
                with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
                    yield f"rows of {path.name}", "\n".join(base.iterdump()).encode()
        store = open_store(settings=load_settings({**self.state.client_variables({}), "OPSD_STATE": str(self.state.root)}))
        for info in store.list(""):
            yield f"object {info.key}", _opened(info.key, store.get(info.key)) + info.key.encode()


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _opened(name, data):
    """The texts in a file, those of packed ones too."""
    if name.endswith(".parquet"):
        return data + str(pq.read_table(io.BytesIO(data)).to_pylist()).encode()
    return data + gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def leaks(planted):
    """(where, secret) of every secret that is written somewhere."""
    wanted = [(secret, form.encode()) for secret in planted.secrets for form in set(forms(secret)) if len(form) > 5]
    return sorted({(where, secret) for where, data in planted.written() for secret, form in wanted if form in data})


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    made = Planted(tmp_path_factory.mktemp("planted"))
    up = made.opsd("up")
    assert up.returncode == 0, up.stderr
    yield made
    made.opsd("down")


def test_a_whole_campaign_writes_no_secret(planted):
    done = planted.opsd("run", "tiny", *TINY)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for command in (["status"], ["logs", "kept"], ["versions", "kept"], ["doctor"], ["config", "tiny"]):
        planted.opsd(*command)
    seen = [where for where, _ in planted.written()]
    assert any(where.startswith("object models/") for where in seen) and "rows of prefect.db" in seen
    assert any(where.startswith("logs/worker") for where in seen) and "rows of mlflow.db" in seen
    assert leaks(planted) == []


PASSWORD = quote(PLANTED[5], safe="")
ADDRESSES = {
    "model.source": f"https://me:{PASSWORD}@host.invalid/model",
    "data.source": f"https://host.invalid/rows.jsonl?{SIGNED}",
    "teacher.source": f"s3://me:{PASSWORD}@bucket/model",
}


@pytest.mark.parametrize("field", ADDRESSES)
def test_an_address_with_a_secret_is_refused_and_kept_nowhere(planted, field):
    section, _, leaf = field.partition(".")
    weights = {"weights": "external"} if section == "teacher" else {}
    overrides = {section: {leaf: ADDRESSES[field], **weights}}
    said = planted.opsd("run", "tiny", f"{field}={ADDRESSES[field]}")
    assert said.returncode == 1 and field in said.stderr and "password, signature or token" in said.stderr
    assert "password, signature or token" in planted.direct(f"direct {field}", overrides)
    state, message = planted.triggered(overrides)
    assert state in ("", "Failed") and (field in message if state else True)
    time.sleep(5)  # logs and the cleaned parameters arrive after the state
    assert leaks_of_kept(planted) == []


def leaks_of_kept(planted):
    """Leaks where things are kept; pages that a database freed are no record."""
    freed = (".db", ".db-wal", ".db-shm")
    return [(where, secret) for where, secret in leaks(planted) if where.startswith("rows of") or not where.endswith(freed)]


NOWHERE = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": PLANTED[5]}
EDGES = {
    "bad model": ({"model": {"source": "/nowhere/at/all"}}, {}),
    "bad data": ({"data": {"source": "/nowhere/rows.jsonl"}}, {}),
    "hub behind a proxy": ({"model": {"source": "nobody/nothing"}}, {}),
    "MLflow away": ({}, {"MLFLOW_TRACKING_URI": f"http://opsd:{PASSWORD}@127.0.0.1:9"}),
    "MLflow refuses": ({}, {"MLFLOW_TRACKING_URI": None, "MLFLOW_TRACKING_PASSWORD": PLANTED[5]}),
    "store away": ({}, NOWHERE),
    "store refuses": ({}, NOWHERE),
}


@pytest.mark.parametrize("edge", EDGES)
def test_a_campaign_that_fails_at_an_edge_writes_no_secret(planted, edge):
    overrides, more = EDGES[edge]
    if "MLFLOW_TRACKING_PASSWORD" in more:
        more = {**more, "MLFLOW_TRACKING_URI": planted.state.urls["mlflow"], "MLFLOW_TRACKING_USERNAME": "opsd"}
    if edge == "store refuses":
        more = {**more, "AWS_ENDPOINT_URL_S3": planted.state.urls["s3"]}
    said = planted.direct(edge, overrides, **more)
    assert "Error: " in said
    assert leaks_of_kept(planted) == []

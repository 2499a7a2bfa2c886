"""pytest tests/infra/test_access.py — beyond loopback nobody gets in without the generated passwords."""

import os
import stat
import subprocess
import sys

import pytest
import requests

from infra.access import check_unchanged
from infra.lifecycle import down, up
from infra.services import describe
from infra.state import PASSWORDS, open_state
from opsd_core.errors import ConfigError, ServiceError
from tasks.runtime.settings import read_env_file

OPEN = {"OPSD_BIND": "0.0.0.0"}


def test_on_loopback_nothing_is_asked_for(tmp_path):
    state = open_state(tmp_path)
    assert not {"PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD"} & set(state.client_variables({}))
    for name in ("prefect", "mlflow"):
        service = describe(name, state, {})
        assert "127.0.0.1" in service.command and "0.0.0.0" not in service.command
        assert "PREFECT_SERVER_API_AUTH_STRING" not in service.environ and "basic-auth" not in service.command


def test_elsewhere_servers_and_clients_share_generated_passwords(tmp_path):
    state, other = open_state(tmp_path / "a"), open_state(tmp_path / "b")
    prefect, mlflow = describe("prefect", state, OPEN), describe("mlflow", state, OPEN)
    client = state.client_variables(OPEN)
    assert prefect.environ["PREFECT_SERVER_API_AUTH_STRING"] == client["PREFECT_API_AUTH_STRING"]
    config = tmp_path / "a" / "mlflow" / "auth.ini"
    assert mlflow.environ["MLFLOW_AUTH_CONFIG_PATH"] == str(config) and "basic-auth" in mlflow.command
    assert client["MLFLOW_TRACKING_PASSWORD"] in config.read_text() and stat.S_IMODE(config.stat().st_mode) == 0o600
    assert "default_permission = NO_PERMISSIONS" in config.read_text()
    assert not set(state.passwords.values()) & set(other.passwords.values()) and len(set(state.passwords.values())) == 3
    assert not any(word in repr(state) + " ".join(mlflow.command + prefect.command) for word in state.passwords.values())
    assert "127.0.0.1" in describe("s3", state, OPEN).command[3]


def test_an_older_state_folder_gets_passwords_and_keeps_its_keys(tmp_path):
    before = open_state(tmp_path)
    lines = (tmp_path / "server.env").read_text().splitlines(keepends=True)
    (tmp_path / "server.env").write_text("".join(line for line in lines if not line.startswith(PASSWORDS)))
    after = open_state(tmp_path)
    assert after.secret_key == before.secret_key and after.passwords.keys() == before.passwords.keys()
    assert set(PASSWORDS) <= set(read_env_file(tmp_path / "server.env")) and open_state(tmp_path) == after


@pytest.mark.parametrize("address", ["10.0.0.5", "::", "localhost", "example.org"])
def test_other_addresses_are_refused_by_name(tmp_path, address):
    with pytest.raises(ConfigError, match=rf"OPSD_BIND='{address}' is not served"):
        describe("prefect", open_state(tmp_path), {"OPSD_BIND": address})


def test_running_servers_do_not_change_their_address_unnoticed(tmp_path):
    state = open_state(tmp_path)
    check_unchanged(state, {}, running=False)
    with pytest.raises(ServiceError, match=r"runs bound to 127.0.0.1, OPSD_BIND asks for 0.0.0.0.*make down"):
        check_unchanged(state, OPEN, running=True)
    check_unchanged(state, OPEN, running=False)
    check_unchanged(state, OPEN, running=True)


@pytest.mark.slow
def test_real_servers_refuse_strangers_and_serve_their_clients(tmp_path):
    state = open_state(tmp_path)
    environ = {**{name: value for name, value in os.environ.items() if "://" not in value}, **OPEN}
    try:
        up(state, environ, worker=False)
        client = {**environ, **state.client_variables(environ)}
        experiments = f"{state.urls['mlflow']}/api/2.0/mlflow/experiments/search?max_results=1"
        name, password = client["MLFLOW_TRACKING_USERNAME"], client["MLFLOW_TRACKING_PASSWORD"]
        assert [requests.get(experiments, auth=auth, timeout=20).status_code for auth in (None, (name, "x"))] == [401, 401]
        assert requests.get(experiments, auth=(name, password), timeout=20).status_code == 200
        flows = f"{state.urls['prefect']}/flows/count"
        assert requests.post(flows, json={}, timeout=20).status_code == 401
        assert requests.post(flows, json={}, auth=tuple(client["PREFECT_API_AUTH_STRING"].split(":")), timeout=20).ok
        program = "from tasks.tracking import Tracker; Tracker().check(); print('served')"
        done = subprocess.run([sys.executable, "-c", program], env=client, capture_output=True, text=True, check=False)
        assert done.stdout == "served\n", done.stderr[-2000:]
    finally:
        down(state)

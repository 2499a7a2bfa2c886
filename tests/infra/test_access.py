"""pytest tests/infra/test_access.py — nobody gets in without the generated passwords."""

import asyncio
import stat

import pytest
from prefect.workers.process import ProcessWorker

from infra.access.certificates import certificate_variables
from infra.access.child_environment import child_environment
from infra.access.job_template import ChildConfiguration, pool_template
from infra.access.servers import check_unchanged, login_lines
from infra.services import describe
from infra.state import PASSWORDS, open_state
from opsd_core.errors import ConfigError, ServiceError
from tasks.runtime.settings import read_env_file

OPEN = {"OPSD_BIND": "0.0.0.0"}


@pytest.mark.parametrize("environ", [{}, OPEN])
def test_servers_and_clients_share_generated_passwords_on_loopback_too(tmp_path, environ):
    state, other = open_state(tmp_path / "a"), open_state(tmp_path / "b")
    prefect, mlflow = describe("prefect", state, environ), describe("mlflow", state, environ)
    client = state.client_variables(environ)
    assert prefect.environ["PREFECT_SERVER_API_AUTH_STRING"] == client["PREFECT_API_AUTH_STRING"]
    assert prefect.environ["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert mlflow.environ["MLFLOW_TRACKING_PASSWORD"] == client["MLFLOW_TRACKING_PASSWORD"]
    assert mlflow.command[mlflow.command.index("--app-name") + 1] == "opsd"
    address = environ.get("OPSD_BIND", "127.0.0.1")
    assert all(service.command[service.command.index("--host") + 1] == address for service in (prefect, mlflow))
    assert not set(state.passwords.values()) & set(other.passwords.values()) and len(set(state.passwords.values())) == 2
    assert not any(word in repr(state) + " ".join(mlflow.command + prefect.command) for word in state.passwords.values())
    assert "-ip.bind=127.0.0.1" in describe("s3", state, environ).command


def test_credentials_never_travel_to_a_server_of_somebody_else(tmp_path):
    elsewhere = {"PREFECT_API_URL": "http://other:4200/api", "MLFLOW_TRACKING_URI": "http://other:5000"}
    given = open_state(tmp_path).client_variables(elsewhere)
    assert not {"PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"} & set(given)


def test_links_that_log_in_are_shown_to_a_person_only(tmp_path):
    state = open_state(tmp_path)
    shown, hidden = ("\n".join(login_lines(state, {}, show=show)) for show in (True, False))
    assert all(password in shown and password not in hidden for password in state.passwords.values())
    assert "make login" in hidden and state.urls["mlflow"] + "/opsd-login#opsd:" in shown


def test_certificates_are_made_once_and_private(tmp_path):
    first = certificate_variables(tmp_path / "keys")
    content = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert certificate_variables(tmp_path / "keys") == first and len(content) == 3
    assert all(path.read_bytes() == before and stat.S_IMODE(path.stat().st_mode) == 0o600 for path, before in content.items())
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


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


def test_servers_that_an_older_version_started_without_passwords_are_named(tmp_path):
    state = open_state(tmp_path)
    (state.root / "run" / "bound").write_text("127.0.0.1")
    with pytest.raises(ServiceError, match=r"older version.*make down"):
        check_unchanged(state, {}, running=True)


def test_of_an_environment_only_what_flows_need_passes():
    needed = {"OPSD_HOME": "/x", "PREFECT_API_URL": "http://a/api", "AWS_SECRET_ACCESS_KEY": "k", "HF_HOME": "/h"}
    needed |= {"https_proxy": "p", "PATH": "/bin"}
    needed |= {"LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "1", "SSL_CERT_FILE": "/c"}
    others = {"GITHUB_TOKEN": "t", "LD_PRELOAD": "/x", "SSH_AUTH_SOCK": "/s", "DB_URL": "u"}
    others |= {"PREFECT_SERVER_API_AUTH_STRING": "a:b", "WEED_JWT_SIGNING_KEY": "w", "MLFLOW_FLASK_SERVER_SECRET_KEY": "f"}
    others |= {"PREFECT_API_DATABASE_CONNECTION_URL": "d", "MLFLOW_BACKEND_STORE_URI": "postgresql://a"}
    assert child_environment(needed | others) == needed
    asked = {"OPSD_PASS": "DB_URL, WANDB_API_KEY"}
    assert child_environment(needed | others | asked) == needed | asked | {"DB_URL": "u"}


@pytest.mark.parametrize("name", ["command", "env", "env.LD_PRELOAD", "working_dir"])
def test_what_the_pools_template_does_not_offer_a_deployment_cannot_set(name):
    template = ProcessWorker.get_default_base_job_template()
    values = {name: {"LD_PRELOAD": "/x"} if name == "env" else "/tmp", "stream_output": False}

    def configured(template):
        return asyncio.run(ChildConfiguration.from_template_and_values(template, values))

    ours, theirs = configured(pool_template(template)), configured(template)
    assert (ours.command, ours.env, ours.working_dir, ours.stream_output) == (None, {}, None, False)
    assert (theirs.command, theirs.env, theirs.working_dir) != (None, {}, None), "a pool that offers it keeps it"

"""Ports, credentials and variables of the embedded stack: `pytest tests/infra/test_state.py`."""

import json
import stat
from pathlib import Path

import pytest

from infra.lifecycle import deployed_files, down, up
from infra.services import describe, scratch
from infra.state import PORTS, open_state
from opsd_core.errors import ConfigError, ServiceError
from tasks.runtime.settings import read_env_file


def test_second_opening_finds_the_same_ports_and_credentials(tmp_path: Path) -> None:
    first, second = open_state(tmp_path / "a"), open_state(tmp_path / "a")
    assert first == second
    assert first.secret_key != open_state(tmp_path / "b").secret_key


def test_ports_and_their_twins_are_distinct_and_below_the_outgoing_range(tmp_path: Path) -> None:
    ports = open_state(tmp_path).ports
    assert set(ports) == set(PORTS)
    both = [port + offset for port in ports.values() for offset in (0, 10_000)]
    assert len(set(both)) == 2 * len(PORTS)
    assert max(both) < 32_768
    assert min(both) >= 1024


def test_env_file_reads_back_even_with_spaces(tmp_path: Path) -> None:
    state = open_state(tmp_path / "a folder")
    variables = state.write_env({})
    assert read_env_file(state.root / "env") == variables
    assert variables["OPSD_STATE"].endswith("a folder")


def test_external_services_replace_their_twins_and_their_credentials_are_not_recorded(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    environ = {
        "PREFECT_API_URL": "http://prefect.example:4200/api/",
        "AWS_ENDPOINT_URL_S3": "https://s3.example",
        "AWS_ACCESS_KEY_ID": "theirs",
        "AWS_SECRET_ACCESS_KEY": "private",
    }
    assert state.external(environ) == {"prefect": "http://prefect.example:4200/api", "s3": "https://s3.example"}
    variables = state.write_env(environ)
    assert variables["PREFECT_API_URL"] == "http://prefect.example:4200/api"
    assert variables["MLFLOW_TRACKING_URI"] == state.urls["mlflow"]
    assert "AWS_ACCESS_KEY_ID" not in variables
    assert "private" not in (tmp_path / "env").read_text()


def test_own_variables_do_not_make_a_service_external(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    variables = state.write_env({})
    assert state.external(variables) == {}
    assert state.write_env(variables) == variables


@pytest.mark.parametrize("store", ["file:///data/opsd", "/data/opsd", "/data/../data/opsd"])
def test_a_folder_store_needs_no_object_server(tmp_path: Path, store: str) -> None:
    state = open_state(tmp_path)
    environ = {"OPSD_STORE": store}
    assert set(state.external(environ)) == {"s3"}
    variables = state.client_variables(environ)
    assert "AWS_ENDPOINT_URL_S3" not in variables and variables["OPSD_STORE"] == "file:///data/opsd"


def test_silent_external_server_is_named_before_anything_starts(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    with pytest.raises(ServiceError, match=r"MLFLOW_TRACKING_URI names an external mlflow server at http://127\.0\.0\.1:9,"):
        up(state, {"MLFLOW_TRACKING_URI": "http://user:word@127.0.0.1:9"}, worker=False)
    assert list((tmp_path / "run").glob("*.json")) == []


def test_temporary_files_have_a_private_folder_with_room_for_socket_names(tmp_path: Path) -> None:
    near = open_state(tmp_path)
    far = open_state(tmp_path / ("x" * 60))
    for state in (near, far):
        folder = scratch(state)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert len(str(folder)) <= 64
        assert describe("worker", state, {}).environ["TMPDIR"] == str(folder)
        assert down(state) == []
        assert not folder.exists()


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"s3": 1}), json.dumps(dict.fromkeys(PORTS, "x"))])
def test_damaged_ports_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)
    with pytest.raises(ConfigError, match=r"ports\.json is damaged"):
        open_state(tmp_path)


def test_missing_credential_is_named(tmp_path: Path) -> None:
    open_state(tmp_path)
    lines = (tmp_path / "server.env").read_text().splitlines()
    (tmp_path / "server.env").write_text("\n".join(line for line in lines if "FILER" not in line))
    with pytest.raises(ConfigError, match=r"server\.env lacks WEED_JWT_FILER_SIGNING_KEY"):
        open_state(tmp_path)


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="cannot be written"):
        open_state(tmp_path / "file" / "state")


def test_deployments_are_registered_anew_when_a_file_in_any_folder_of_the_configuration_changes(tmp_path: Path) -> None:
    for name in ("prefect.yaml", "flows/a.py", "opsd_core/config/b.py", "opsd_core/config/rules/c.py", "opsd_core/data/d.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [path.name for path in deployed_files(tmp_path)] == ["a.py", "b.py", "c.py", "prefect.yaml"]

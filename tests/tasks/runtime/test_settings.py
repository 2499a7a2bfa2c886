"""Environment first, then the stack's file; a service is taken whole; secrets never show."""

import pytest

from opsd_core.errors import ConfigError
from tasks.runtime.settings import load_settings, public_url

FILE = """# written by the stack
export AWS_ENDPOINT_URL_S3=http://127.0.0.1:8333
AWS_ACCESS_KEY_ID=stack-key
AWS_SECRET_ACCESS_KEY='stack secret'
MLFLOW_TRACKING_URI=http://127.0.0.1:5000
MLFLOW_TRACKING_PASSWORD=stack-password
OPSD_STORE=s3://from-file
"""


def environment(tmp_path, **variables):
    (tmp_path / ".opsd").mkdir(exist_ok=True)
    (tmp_path / ".opsd" / "env").write_text(FILE)
    return {"OPSD_HOME": str(tmp_path), **variables}


def test_absent_services_come_from_the_file_and_reach_the_environment(tmp_path):
    environ = environment(tmp_path)
    settings = load_settings(environ)
    assert settings.s3_endpoint == "http://127.0.0.1:8333"
    assert settings.s3_secret_key.get_secret_value() == "stack secret"
    assert settings.store == "s3://from-file"
    assert settings.cache == tmp_path / ".opsd" / "cache"
    assert environ["AWS_SECRET_ACCESS_KEY"] == "stack secret"
    assert environ["MLFLOW_TRACKING_PASSWORD"] == "stack-password"


def test_the_state_folder_may_lie_elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "env").write_text(FILE.replace("from-file", "from-elsewhere"))
    settings = load_settings(environment(tmp_path, OPSD_STATE=str(tmp_path / "elsewhere")))
    assert settings.store == "s3://from-elsewhere" and settings.cache == tmp_path / "elsewhere" / "cache"


@pytest.mark.parametrize("text", ["0", "-1", "soon", "1e9", "nan"])
@pytest.mark.parametrize("name", ["OPSD_S3_TIMEOUT_S", "OPSD_CACHE_GB"])
def test_bounds_are_numbers(tmp_path, name, text):
    with pytest.raises(ConfigError, match=f"{name}='{text}' must be a number above 0"):
        load_settings({"OPSD_HOME": str(tmp_path), name: text})


def test_a_service_with_its_own_address_gets_no_foreign_credentials(tmp_path):
    environ = environment(tmp_path, MLFLOW_TRACKING_URI="https://mlflow.example", OPSD_STORE="s3://mine")
    settings = load_settings(environ)
    assert settings.mlflow_uri == "https://mlflow.example" and settings.mlflow_password is None
    assert settings.store == "s3://mine" and settings.s3_endpoint == "http://127.0.0.1:8333"


def test_credentials_of_another_account_are_not_sent_to_the_stack(tmp_path):
    environ = environment(tmp_path, AWS_ACCESS_KEY_ID="cloud-key", AWS_SESSION_TOKEN="cloud-token")
    assert load_settings(environ).s3_access_key.get_secret_value() == "stack-key"
    assert "AWS_SESSION_TOKEN" not in environ


def test_without_a_file_the_defaults_stand(tmp_path):
    settings = load_settings({"OPSD_HOME": str(tmp_path)})
    assert settings.store == "s3://opsd" and settings.s3_endpoint is None and settings.mlflow_uri is None


def test_secrets_do_not_show(tmp_path):
    settings = load_settings(environment(tmp_path))
    for text in (repr(settings), str(settings), settings.model_dump_json(), f"{settings.model_dump()}"):
        assert "stack secret" not in text and "stack-password" not in text and "stack-key" not in text
    assert settings.redact("PUT with stack secret failed") == "PUT with *** failed"
    assert public_url("https://user:word@host:5000/path?token=x#y") == "https://host:5000/path"


@pytest.mark.parametrize("line", ["no equals sign", "1NAME=x", "A='unclosed", "A=b c"])
def test_a_broken_line_is_named_without_its_value(tmp_path, line):
    environ = environment(tmp_path)
    (tmp_path / ".opsd" / "env").write_text(f"A=b\n{line}\n")
    with pytest.raises(ConfigError, match=r"env:2: the line is not NAME=VALUE"):
        load_settings(environ)

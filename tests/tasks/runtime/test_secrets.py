"""pytest tests/tasks/runtime/test_secrets.py — a secret planted in any variable or address reaches no message, log or error."""

import logging
import traceback
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd_core.errors import ConfigError, ServiceError
from tasks.runtime.secrets import redact, redact_error, redact_logs, secrets_of, without_credentials
from tasks.runtime.settings import load_settings
from tasks.runtime.stage import task, without_secrets

SECRET = "hunter2-4f1d/@:x%"
CODED = quote(SECRET, safe="")
VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")
VARIABLES += ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "WANDB_API_KEY", "DB_PASSWORD", "WEED_JWT_SIGNING_KEY")
ADDRESSES = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "AWS_ENDPOINT_URL_S3", "OPSD_STORE", "HTTPS_PROXY", "http_proxy")
ADDRESSES += ("ALL_PROXY", "PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_that_holds_a_secret_is_known(name):
    for value in (SECRET, f"opsd:{SECRET}" if name.endswith("AUTH_STRING") else SECRET):
        secrets = secrets_of({name: value})
        for spelling in (SECRET, CODED):
            assert SECRET not in redact(f"a {spelling} b", secrets) and CODED not in redact(f"a {spelling} b", secrets)


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize("user", ["opsd", ""])
def test_every_password_in_an_address_is_known(name, user):
    environ = {name: f"https://{user}:{CODED}@host.example:5000/path"}
    for text in (environ[name], f"cannot reach {SECRET}", f"{CODED}"):
        assert SECRET not in redact(text, secrets_of(environ)) and CODED not in redact(text, secrets_of(environ))
    assert redact("see https://host.example:5000/path", secrets_of(environ)) == "see https://host.example:5000/path"


def test_an_unknown_address_with_a_password_is_redacted_too():
    assert redact("GET https://me:word@host/x failed", []) == "GET https://***@host/x failed"
    assert redact("mail me@host.example, s3://bucket/a@b", []) == "mail me@host.example, s3://bucket/a@b"


def test_settings_take_the_password_out_of_an_address_before_any_client_reads_it(tmp_path):
    environ = {"OPSD_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": f"https://me:{CODED}@ml.example/"}
    environ["PREFECT_API_URL"] = f"https://you:{CODED}@pre.example/api"
    settings = load_settings(environ)
    assert (settings.mlflow_uri, settings.mlflow_username) == ("https://ml.example/", "me")
    assert settings.mlflow_password.get_secret_value() == SECRET
    assert (settings.prefect_api_url, settings.prefect_auth.get_secret_value()) == ("https://pre.example/api", f"you:{SECRET}")
    assert environ["MLFLOW_TRACKING_URI"] == "https://ml.example/" and environ["MLFLOW_TRACKING_PASSWORD"] == SECRET
    assert SECRET not in repr(settings) + settings.model_dump_json() and CODED not in repr(settings)


@pytest.mark.parametrize("name", ["OPSD_STORE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_a_password_in_the_stores_address_is_refused_without_being_shown(name, tmp_path):
    scheme = "s3" if name == "OPSD_STORE" else "http"
    with pytest.raises(ConfigError, match=rf"{name} holds a user name or password.*AWS_SECRET_ACCESS_KEY") as refused:
        load_settings({"OPSD_HOME": str(tmp_path), name: f"{scheme}://me:{CODED}@host/x"})
    assert SECRET not in repr(refused.value) and CODED not in "".join(traceback.format_exception(refused.value))


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=6, max_size=30))
def test_credentials_survive_the_move_out_of_an_address(password):
    moved = without_credentials({"MLFLOW_TRACKING_URI": f"http://u:{quote(password, safe='')}@[::1]:5000"})
    assert moved["MLFLOW_TRACKING_PASSWORD"] == password and moved["MLFLOW_TRACKING_URI"] == "http://[::1]:5000"
    assert without_credentials(moved) == moved


def test_logs_hold_no_secret_in_messages_arguments_or_tracebacks_with_causes(monkeypatch, caplog):
    monkeypatch.setenv("DB_PASSWORD", SECRET)
    before = logging.getLogRecordFactory()
    redact_logs()
    redact_logs()
    try:
        logger = logging.getLogger("opsd.test")
        logger.warning("sent %s to %s", SECRET, {"url": f"http://u:{CODED}@h"})
        try:
            try:
                raise OSError(f"connect to {SECRET}")
            except OSError as cause:
                raise ServiceError("does not answer") from cause
        except ServiceError:
            logger.exception("failed with %r", SECRET)
        logger.warning("odd %s %s", "one")
    except TypeError:
        pass
    finally:
        logging.setLogRecordFactory(before)
    assert len(caplog.records) >= 2
    assert SECRET not in caplog.text and CODED not in caplog.text and "connect to ***" in caplog.text


def test_errors_of_a_stage_hold_no_secret_nor_do_their_causes(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    @without_secrets
    def stage():
        try:
            raise OSError(5, f"http://u:{CODED}@h and {SECRET}")
        except OSError as cause:
            raise ServiceError(f"refused {SECRET}") from cause

    with pytest.raises(ServiceError) as raised:
        stage()
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value) + repr(raised.value.__cause__)
    assert SECRET not in shown and CODED not in shown and "refused ***" in shown
    circle = ValueError(SECRET)
    circle.__cause__ = circle
    redact_error(circle)
    assert circle.args == ("***",)
    noted = KeyError({"url": [f"https://u:{CODED}@h"]})
    noted.add_note(f"while {SECRET} was used")
    redact_error(noted)
    assert SECRET not in "".join(traceback.format_exception(noted)) and CODED not in repr(noted)


def test_a_stage_keeps_its_name_and_its_parameters():
    @task(name="named", task_run_name="named-{number}")
    def stage(number: int) -> int:
        """What it does."""
        return number + 1

    assert (stage.name, stage.fn(1), stage.__doc__) == ("named", 2, "What it does.")

"""pytest tests/infra/test_commands.py — what every command of infra answers to --help, to typing errors and to nothing."""

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra import approve, bootstrap, generated_docs, stack, summary

COMMANDS = {
    "approve": approve.main,
    "bootstrap": bootstrap.main,
    "generated_docs": generated_docs.main,
    "stack": stack.main,
    "summary": summary.main,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_given_and_nothing_is_done(name, capsys, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(SystemExit) as ended:
        COMMANDS[name](["--help"])
    assert ended.value.code == 0 and f"python -m infra.{name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_refused_by_name(name, capsys, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(SystemExit) as ended:
        COMMANDS[name](["status", "--chekc"] if name == "stack" else ["--chekc"])
    assert ended.value.code == 2 and "--chekc" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["opsd/study"]])
def test_a_summary_of_a_server_that_is_not_there_is_one_line(arguments, capsys):
    """Without a deployment it looks at campaigns; a refused connection is no traceback."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert summary.main(arguments) == 1
    assert capsys.readouterr().err.startswith("opsd: Prefect does not answer")

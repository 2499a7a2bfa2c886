"""pytest tests/infra/test_commands.py — what every command of infra answers to --help, to typing errors and to nothing."""

import pytest

from infra import bootstrap, generated_docs, reconcile, stack

COMMANDS = {
    "bootstrap": bootstrap.main,
    "generated_docs": generated_docs.main,
    "reconcile": reconcile.main,
    "stack": stack.main,
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

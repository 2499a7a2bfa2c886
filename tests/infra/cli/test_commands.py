"""pytest tests/infra/cli/test_commands.py — every command's help, its fast start, and its words where no server answers."""

import io
import os
import resource
import socket
import subprocess
import sys
import time

import click
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.cli.app import cli, run
from infra.cli.names import Named, named
from infra.cli.observing import _without_trace
from opsd_core.errors import ConfigError

COMMANDS = {
    "check", "run", "status", "logs",
    "notify", "cancel", "versions", "promote", "rollback", "approve", "refuse", "answers", "export",
    "serve", "chat", "recipes", "config", "schedule", "pretrain", "study", "replay", "gc", "up", "down", "login", "doctor",
}  # fmt: skip


def test_every_command_is_there():
    assert set(cli.commands) == COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_says_what_a_command_does_and_does_nothing(name, capsys):
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: opsd {name}") and len(shown.splitlines()) > 3
    short = cli.commands[name].get_short_help_str(60)
    assert short.endswith(".") and not short.endswith("...")


def test_the_summary_has_examples_and_every_command_in_it_exists(capsys):
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    named = {line.split()[1] for line in shown.splitlines() if line.startswith("    opsd ")}
    assert named and named <= COMMANDS and "Completion" in shown


@pytest.mark.parametrize(
    "arguments", [["rnu"], ["run"], ["run", "tiny", "--wacth"], ["promote"], ["gc", "--keep-candidates", "0"]]
)
def test_a_wrong_call_is_refused_by_name_with_status_2(arguments, capsys):
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert "Usage: opsd" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("option", "meant"),
    [("--iterations", "iterations"), ("--learning-rate", "optimizer.learning_rate"), ("--rollout.temp", "rollout.temperature")],
)
def test_a_setting_written_as_an_option_is_answered_with_how_it_is_written(option, meant, capsys):
    assert run(["run", "tiny", option, "3"]) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"Settings have no dashes: opsd run ... {meant}=VALUE")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_starts_without_torch_prefect_or_mlflow(arguments):
    code = (
        "import sys\nfrom infra.cli.app import run\n"
        f"assert run({arguments!r}) == 0\n"
        "heavy = {'torch', 'prefect', 'mlflow', 'transformers', 'pydantic', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.5  # seconds of one core


def test_a_shell_completes_commands():
    environ = os.environ | {"_OPSD_COMPLETE": "bash_complete", "COMP_WORDS": "opsd ro", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "infra.cli.app"], env=environ, capture_output=True, text=True)
    assert "rollback" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "tiny"], ["run", "tiny"], ["run", "tiny", "--no-watch"], ["logs"], ["cancel"], ["gc"], ["study", "tiny"],
        ["pretrain", "tiny"],
    ],
)  # fmt: skip
def test_a_prefect_that_does_not_answer_is_one_line(arguments, capsys):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert run(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("opsd: Prefect at http://127.0.0.1:9/api does not answer") and said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["versions", "demo"], ["answers", "demo"], ["answers", "demo", "--export", "out"], ["promote", "demo"],
        ["rollback", "demo"], ["approve", "demo"], ["refuse", "demo", "3"], ["export", "demo", "--to", "out"], ["replay", "demo"],
    ],
)  # fmt: skip
def test_an_mlflow_that_does_not_answer_is_one_line_at_once(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.monotonic()
    assert run(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("opsd: MLflow at http://127.0.0.1:9 does not answer") and said.count("\n") == 1
    assert time.monotonic() - began < 60 and not list(tmp_path.iterdir()), "a stage waits 90 s for MLflow, a person does not"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "tiny", "optimiser.num_steps=3"], "Did you mean optimizer?"),
        (["check", "tiny", "rollout.num_prompts=0"], "greater than or equal to 1"),
        (["run", "base"], "no model of its own"),
        (["study", "tiny", "arms=[opsdd]"], "opsdd"),
        (["schedule", "tiny"], "say when: --cron"),
        (["schedule", "tiny", "--cron", "0 2 * * *", "--new-data"], "not both"),
        (["schedule", "tiny", "--cron", "tonight"], "--cron 'tonight' in --timezone 'UTC' is not a time"),
        (["schedule", "tiny", "--cron", "0 2 * * *", "--timezone", "Mars"], "in --timezone 'Mars' is not a time"),
        (["schedule", "tiny", "optimiser.num_steps=3", "--cron", "0 2 * * *"], "Did you mean optimizer?"),
        (["schedule", "tiny", "--new-data"], "data.source=tiny:addition has no state that could change"),
        (["study", "tinny"], "Did you mean 'tiny'"),
        (["pretrain", "tiny", "iterations=x"], "iterations"),
        (["promote", "demo/0", "3"], "names no version"),
        (["versions", "a/b/c"], "names no version"),
    ],
)
def test_what_is_refused_is_refused_before_any_server_is_asked(arguments, message, capsys):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert run(arguments) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("opsd: ") and "Traceback" not in said


@pytest.mark.parametrize("address", ["foo", "http://", "http://[", "http://h:x/api", " http://h/api"])
def test_an_address_that_is_none_is_refused_by_its_variable(address, capsys, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", address)
    assert run(["logs"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"opsd: PREFECT_API_URL={address!r} is no address. Write http://host:port") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (("demo", None), Named("demo", None, None)),
        (("demo@champion", None), Named("demo", "champion", None)),
        (("demo/3", None), Named("demo", None, 3)),
        (("models:/demo/3", None), Named("demo", None, 3)),
        (("models:/demo@previous", None), Named("demo", "previous", None)),
        (("demo", "3"), Named("demo", None, 3)),
        (("demo", "champion"), Named("demo", "champion", None)),
        (("demo", "@candidate"), Named("demo", "candidate", None)),
    ],
)
def test_a_version_is_named_in_every_way(given, found):
    assert named(*given) == found


@pytest.mark.parametrize(
    "given", [("demo@", None), ("demo/x", None), ("", None), ("demo/3", "4"), ("demo", "0"), ("demo", "3.5"), ("demo", "")]
)
def test_what_names_no_version_is_refused(given):
    with pytest.raises(ConfigError):
        named(*given)


def test_serving_on_a_port_that_is_taken_is_refused(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run(["serve", "demo", "--port", str(taken.getsockname()[1])]) == 1
    assert "is taken by another program" in capsys.readouterr().err


def test_a_conversation_without_a_server_is_refused_in_words(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run(["chat", "demo", "--port", "9"]) == 1
    said = capsys.readouterr()
    assert "Start it: opsd serve" in said.err and "you>" not in said.out, "said before anybody has typed"


@pytest.mark.parametrize(
    ("head", "error", "shown"),
    [
        ("Met DataError('no column')", "opsd_core.errors.DataError: no column", "Met DataError('no column')"),
        ("Ended by an exception", "opsd_core.errors.DataError: no column", "Ended by an exception: no column"),
        ("Met KeyError('x')", "KeyError: 'x'", None),
    ],
)  # fmt: skip
def test_logs_leave_out_the_trace_of_an_error_in_words_and_of_no_other(head, error, shown):
    trace = f'{head}\nTraceback (most recent call last):\n  File "a.py", line 3, in f\n    g()\n{error}\n'
    assert _without_trace(trace) == (trace if shown is None else shown)
    assert _without_trace("said: nothing") == "said: nothing"


def test_every_parameter_of_a_command_has_help_or_is_named_in_it():
    for command in cli.commands.values():
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, (command.name, parameter.name)

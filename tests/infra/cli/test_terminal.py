"""pytest tests/infra/cli/test_terminal.py — the live line in terminals of all widths and without colours; a full disk."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

SHOWN = """
import time
from infra.cli.watching import display
with display() as shown:
    for part in range(4):
        shown.show(f"iteration 1 of 4: asking the teacher {part * 20} %, accuracy so far 0.7733", part / 4, "about 10 min left")
        time.sleep(0.25)
    shown.keep("iteration 0: version 2 promoted, accuracy 0.4733 -> 0.7733")
"""


def in_a_terminal(width, **environ):
    """What a terminal of this width gets, escape sequences included."""
    pid, terminal = pty.fork()
    if pid == 0:
        clean = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8"} | environ
        os.execve(sys.executable, [sys.executable, "-c", f"input(){SHOWN}"], clean)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 20, width, 0, 0))
    os.write(terminal, b"\n")
    received = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        received += part
    assert os.waitpid(pid, 0)[1] == 0, received
    return received.decode()


def live_lines(text):
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if "%" in line]


@pytest.mark.parametrize("width", [40, 80, 140])
def test_percent_and_the_time_that_is_left_are_seen_at_any_width(width):
    text = in_a_terminal(width)
    last = live_lines(text)[-1]
    assert len(last) <= width and "75 %" in last and last.endswith("about 10 min left") and "iteratio" in last
    assert ("━" in text) == (width >= 120)
    assert "iteration 0: version 2 promoted, accuracy 0.4733 -> 0.7733\r\n" in text


def test_there_are_no_colours_where_none_are_wanted_and_no_live_line_where_none_can_be():
    assert re.search(r"\x1b\[[0-9;]*m", in_a_terminal(140))
    assert not re.search(r"\x1b\[[0-9;]*[1-9][0-9;]*m", in_a_terminal(140, NO_COLOR="1"))
    dumb = in_a_terminal(80, TERM="dumb")
    assert "\x1b" not in dumb and "asking the teacher 60 %, accuracy so far 0.7733 (75% done, about 10 min left)" in dumb


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_output_that_takes_no_more_is_no_fault_of_opsd():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "infra.cli.app", "recipes"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert done.returncode == 1 and done.stderr.startswith("opsd: the output cannot be written: No space left")


def test_a_reader_that_stops_reading_ends_a_command_quietly():
    command = f"{sys.executable} -m infra.cli.app config demo | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("recipe: demo") and done.stderr == ""

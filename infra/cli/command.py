"""Commands that know where the servers are, and words that several commands share."""

import os
from typing import Any

import click

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Command(click.Command):
    """A command; before it begins, the environment holds the addresses and credentials of the servers."""

    def invoke(self, ctx: click.Context) -> Any:
        know_the_servers()
        return super().invoke(ctx)


def know_the_servers() -> None:
    """Addresses and credentials: the environment's, else those of the embedded stack."""
    from infra.state import project_home
    from tasks.runtime.quiet import quiet
    from tasks.runtime.settings import load_settings

    os.environ.setdefault("OPSD_HOME", str(project_home()))
    load_settings()
    quiet()


def table(rows: list[tuple[str, ...]], indent: str = "") -> str:
    """Columns as wide as their longest cell."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(indent + line for line in lines)

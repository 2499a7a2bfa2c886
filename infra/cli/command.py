"""Commands that know where the servers are, and words that several commands share."""

import os
from typing import Any
from urllib.parse import urlsplit

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
    for name in ("PREFECT_API_URL", "AWS_ENDPOINT_URL_S3"):
        _check_address(name, os.environ.get(name, ""))


def _check_address(name: str, address: str) -> None:
    """ConfigError where an address is none, before a library stumbles over it."""
    from opsd_core.errors import ConfigError

    try:
        parts = urlsplit(address)
        whole = not address or (parts.scheme and (parts.hostname or not parts.scheme.startswith("http")) and parts.port != 0)
    except ValueError:
        whole = False
    if not whole or address != address.strip():
        raise ConfigError(f"{name} is no address: write http://host:port, and for Prefect also /api. Correct or unset {name}.")


def table(rows: list[tuple[str, ...]], indent: str = "") -> str:
    """Columns as wide as their longest cell."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(indent + line for line in lines)

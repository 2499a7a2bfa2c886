"""Serving by programs that others maintain, and a conversation with what they serve."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import httpx

from infra.cli.folders import Kept
from infra.processes import program
from infra.state import HOST, port_is_free
from opsd_core.errors import ConfigError, ServiceError
from tasks.runtime.settings import load_settings

_NEEDED = ("fastapi", "uvicorn", "openai")
"""What `transformers serve` imports."""
_INSTALL = "Install one of them: pip install vllm (with a GPU), or pip install 'transformers[serving]'."


def command(port: int) -> Sequence[str]:
    """The program that serves, without the folder. ConfigError when none is installed or the port is taken."""
    if not port_is_free(port):
        raise ConfigError(f"--port {port} is taken by another program on this machine. Choose another one.")
    if vllm := program("vllm"):
        return (vllm, "serve", "{folder}", "--host", HOST, "--port", str(port), "--served-model-name", "{name}")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    found = program("transformers")
    if found is None or missing:
        raise ConfigError(
            f"vllm is not installed, and `transformers serve` lacks {', '.join(missing) or 'its program'}. {_INSTALL}"
        )
    return (found, "serve", "{folder}", "--host", HOST, "--port", str(port))


def start(words: Sequence[str], found: Kept, port: int) -> int:
    """Become the server; it calls the model by its registered name."""
    name, place = found.version.name, load_settings().state / "serving"
    words = [word.format(folder=name, name=name) for word in words]
    click.echo(f"Serving {name}/{found.version.version} at http://{HOST}:{port}/v1 by {Path(words[0]).name}; Ctrl-C ends it.")
    click.echo(f"To talk to it: opsd chat {name} --port {port}")
    sys.stdout.flush()
    try:
        (place / "hub").mkdir(parents=True, exist_ok=True)  # an empty cache: transformers lists what is in it
        link = place / name
        link.unlink(missing_ok=True)
        link.symlink_to(found.folder)
        os.environ |= {"HF_HUB_CACHE": str(place / "hub"), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        os.chdir(place)
        os.execv(words[0], words)
    except OSError as error:
        raise ServiceError(f"{words[0]} cannot serve {name} from {place}: {error.strerror or error}") from error


def talk(url: str, name: str, system: str | None) -> int:
    """Ask and print until an empty line or the end of input."""
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    with httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
        _sent(client, "GET", "/v1/models")  # before anybody has typed
        while True:
            try:
                question = click.prompt("you", default="", show_default=False, prompt_suffix="> ").strip()
            except click.Abort:
                return 0
            if not question:
                return 0
            messages.append({"role": "user", "content": question})
            answer = _asked(client, {"model": name, "messages": messages})
            messages.append({"role": "assistant", "content": answer})
            click.echo(f"{name}> {answer}")


def _asked(client: httpx.Client, request: dict[str, Any]) -> str:
    answer = _sent(client, "POST", "/v1/chat/completions", json=request)
    try:
        return str(answer["choices"][0]["message"]["content"]).strip()
    except (KeyError, IndexError, TypeError) as error:
        raise ServiceError(
            f"the server at {client.base_url} answers, but not as an OpenAI-compatible one: {answer!s:.200}"
        ) from error


def _sent(client: httpx.Client, method: str, path: str, **body: Any) -> dict[str, Any]:
    try:
        response = client.request(method, path, **body)
        response.raise_for_status()
        return response.json()
    except httpx.HTTPStatusError as error:
        said = error.response.text[:200]
        raise ServiceError(
            f"the server at {client.base_url} refuses {path} (status {error.response.status_code}): {said}"
        ) from error
    except (httpx.HTTPError, ValueError) as error:
        raise ServiceError(
            f"nothing that serves a model answers at {client.base_url} ({type(error).__name__}). Start it: opsd serve NAME"
        ) from error

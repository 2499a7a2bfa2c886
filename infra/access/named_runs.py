"""Runs have their name and their campaign's tag from the moment of submission, whoever submits them.

Prefect's form and `prefect deployment run` give a run two words by chance. On a server without this, the worker gives waiting
runs their names within seconds (`infra.telling`).
"""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import UUID

from prefect.server.database.dependencies import provide_database_interface
from prefect.server.models.deployments import read_deployment

from infra.access.door import Receive, Scope
from infra.recovery import WATCHED
from tasks.runtime.run_names import run_name, run_tags

_SUBMIT = re.compile(r"/api/deployments/([0-9a-fA-F-]{36})/create_flow_run/?")
_MOST_BYTES = 1 << 20
"""Of a submission that is looked at; a larger one passes as it is."""


class NamedRuns:
    """An ASGI application in front of Prefect's that names the runs of this project's deployments."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Callable[..., Awaitable[None]]) -> None:
        match = _SUBMIT.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if match and (length := _length(scope)) is not None and length <= _MOST_BYTES:
            body = await _read(receive)
            named = await _named(match[1], body)
            headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
            scope = {**scope, "headers": [*headers, (b"content-length", str(len(named)).encode())]}
            receive = _once(named, receive)
        await self._app(scope, receive, send)


def _length(scope: Scope) -> int | None:
    text = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
    return int(text) if text.isascii() and text.isdigit() else None


async def _read(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
    return b"".join(parts)


def _once(body: bytes, receive: Receive) -> Receive:
    """`body` as the request's, and after it whatever the connection brings."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return next_message


async def _named(deployment: str, body: bytes) -> bytes:
    """The submission with the run's name and tags; as it is when it is none of this project's, or no submission at all."""
    try:
        given, number = json.loads(body), UUID(deployment)
    except (ValueError, RecursionError):  # Prefect says what is wrong with it
        return body
    db = provide_database_interface()
    async with db.session_context() as session:
        found = await read_deployment(session=session, deployment_id=number)
    parameters = given.get("parameters") or {} if isinstance(given, dict) else None
    if found is None or found.name not in WATCHED or not isinstance(parameters, dict):
        return body
    parameters = {**found.parameters, **parameters}
    tags = given.get("tags") or []
    if not isinstance(tags, list):
        return body
    own = {"name": run_name(found.name, parameters), "tags": [*tags, *run_tags(found.name, parameters)]}
    return json.dumps({**given, **own}).encode()

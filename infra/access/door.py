"""Who may talk to Prefect's and MLflow's servers: the check in front of both, before anything of theirs runs.

    host       the Host header is an address, `localhost`, this machine's name or one of OPSD_HOSTS; a foreign name that
               was made to point here (DNS rebinding) is refused
    origin     a browser's request comes from a page of this very server: Origin names the host that is asked, and
               Sec-Fetch-Site is not another site, except for a link that opens the page itself
    password   HTTP Basic, where the server behind has no check of its own (MLflow); everything but `open_paths` needs it

Programs send neither Origin nor Sec-Fetch-Site; for them only host and password count. Listening on loopback is no check:
every user and every web page of this machine reaches it.
"""

import base64
import binascii
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOGIN_PATH = "/opsd-login"
_CHALLENGE = (b"www-authenticate", b'Basic realm="opsd", charset="UTF-8"')
_PRIVATE = [(b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY")]
_LOGIN_PAGE = """<!doctype html><meta charset="utf-8"><title>opsd</title><noscript>Needs JavaScript.</noscript><script>
const given = decodeURIComponent(location.hash.slice(1));
history.replaceState(null, "", location.pathname);
%s
</script>"""


@dataclass(frozen=True)
class Refusal:
    """Status and reason of a request that does not get in."""

    status: int
    reason: str


class Door:
    """An ASGI application that lets only the owners' requests reach `app`.

    names        host names besides addresses and `localhost`
    password     `user:password` to ask for; None leaves that to `app`
    open_paths   served to everybody by GET and HEAD
    login_script JavaScript of the page at LOGIN_PATH; `given` is `user:password` from the link's fragment, which a
                 browser never sends
    """

    def __init__(
        self,
        app: App,
        names: frozenset[str],
        login_script: str,
        password: str | None = None,
        open_paths: frozenset[str] = frozenset(),
    ) -> None:
        self.app, self.names, self.password = app, names | {"localhost"}, password
        self.open_paths = open_paths | {LOGIN_PATH}
        self._page = (_LOGIN_PAGE % login_script).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection: the login page, a refusal, or what `app` answers."""
        refusal = None if scope["type"] == "lifespan" else self.refusal(scope)
        if refusal is not None:
            await _refuse(scope, refusal, send)
        elif scope["type"] == "http" and scope["path"] == LOGIN_PATH:
            await _answer(send, 200, [(b"content-type", b"text/html; charset=utf-8"), *_PRIVATE], self._page)
        else:
            await self.app(scope, receive, send)

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why this request does not get in; None when it does."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        if any(len(headers.get(name, ())) > 1 for name in ("host", "origin", "authorization", "sec-fetch-site")):
            return Refusal(400, "A header that may occur once occurs twice.")
        one = {name: values[0] for name, values in headers.items()}
        return self._foreign(scope, one) or self._without_password(scope, one)

    def _foreign(self, scope: Scope, headers: Mapping[str, str]) -> Refusal | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return Refusal(403, "This host name is not served here. Name it in OPSD_HOSTS to allow it.")
        if "origin" in headers and urlsplit(headers["origin"]).netloc.lower() != host.lower():
            return Refusal(403, "A page of another origin asks.")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not _is_link(scope, headers):
            return Refusal(403, "A page of another site asks.")
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, _ = parts.hostname or "", parts.port
        except ValueError:
            return False
        if parts.netloc != host or "@" in host or not name:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True

    def _without_password(self, scope: Scope, headers: Mapping[str, str]) -> Refusal | None:
        if self.password is None or (scope["path"] in self.open_paths and scope.get("method") in ("GET", "HEAD")):
            return None
        scheme, _, coded = headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(coded.strip(), validate=True)
        except (binascii.Error, ValueError):
            given = b""
        if scheme.lower() == "basic" and hmac.compare_digest(given, self.password.encode()):
            return None
        return Refusal(401, "Name and password are needed: `make login` tells them.")


def host_names(environ: Mapping[str, str]) -> frozenset[str]:
    """Names under which this machine is asked: its own, and those of OPSD_HOSTS, separated by commas."""
    own = socket.gethostname().lower()
    more = (name.strip().lower() for name in environ.get("OPSD_HOSTS", "").split(","))
    return frozenset({own, own.partition(".")[0], *more} - {""})


def _is_link(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether a link on another page opens this page as a whole: it can be seen by its user, and reads nothing back."""
    whole = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return whole and scope.get("method") in ("GET", "HEAD")


async def _refuse(scope: Scope, refusal: Refusal, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.reason})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_PRIVATE]
    await _answer(send, refusal.status, headers + [_CHALLENGE] * (refusal.status == 401), refusal.reason.encode())


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""A proxy in front of a real HTTP server that injects faults, drawn from a seed whatever order threads ask in.

    error     503 SlowDown            before the server sees the request
    lost      503                     after the server has done it: the answer is lost
    reset     connection reset        before;   gone: after
    timeout   no answer for `stall_s` seconds
    slow      the answer dribbles in pieces over about a second
    torn      half of the body under the full Content-Length, then the connection ends
    wrong     one byte of an object's body flipped on its way to the client
    upload    one byte of an object's body flipped on its way to the server
"""

import http.client
import http.server
import socket
import struct
import threading
import time
from collections import Counter
from hashlib import sha256
from urllib.parse import urlsplit

FAULTS = ("error", "lost", "reset", "gone", "timeout", "slow", "torn", "wrong", "upload")
_NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding", "expect"}
_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>injected</Message></Error>"


class FaultProxy:
    """`with FaultProxy(url, {"error": 0.1, "torn": 0.05}, seed=1) as proxy:` clients use `proxy.url` in place of `url`."""

    def __init__(self, upstream: str, rates: dict[str, float], seed: int = 0, stall_s: float = 3.0) -> None:
        assert set(rates) <= set(FAULTS) and sum(rates.values()) <= 1
        self.upstream, self.rates, self.seed, self.stall_s = urlsplit(upstream).netloc, rates, seed, stall_s
        self.injected: Counter[str] = Counter()
        self.num_requests = 0
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            fault_proxy = proxy

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FaultProxy":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def draw(self, method: str, path: str) -> tuple[str, int]:
        """The fault of the next request of this kind ('' for none), and a number that chooses a byte."""
        with self._lock:
            self.num_requests += 1
            key = f"{method} {path}"
            self._asked[key] += 1
            number = int.from_bytes(sha256(f"{self.seed} {key} {self._asked[key]}".encode()).digest()[:16], "big")
        share, rest = number % 10**6 / 10**6, number // 10**6
        for fault, rate in self.rates.items():
            if share < rate:
                return fault, rest
            share -= rate
        return "", rest

    def note(self, fault: str) -> None:
        """Count a fault that was really injected."""
        with self._lock:
            self.injected[fault] += 1


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fault_proxy: FaultProxy

    def _serve(self) -> None:
        proxy = self.fault_proxy
        fault, number = proxy.draw(self.command, self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault in ("error", "reset", "timeout"):
            proxy.note(fault)
        if fault == "error":
            return self._answer(503, [("Content-Type", "application/xml")], _SLOW_DOWN)
        if fault == "reset":
            return self._reset()
        if fault == "timeout":
            time.sleep(proxy.stall_s)
            return self._reset()
        if fault == "upload" and body and self.command == "PUT":
            proxy.note(fault)
            body = _flipped(body, number)
        status, headers, content = self._ask(body)
        is_object = status in (200, 206) and self.command == "GET" and "list-type" not in self.path
        if fault in ("lost", "gone"):
            proxy.note(fault)
            return self._answer(503, [("Content-Type", "application/xml")], _SLOW_DOWN) if fault == "lost" else self._reset()
        if fault == "wrong" and is_object and content:
            proxy.note(fault)
            content = _flipped(content, number)
        if fault == "torn" and content and self.command == "GET":
            proxy.note(fault)
            self._answer(status, headers, content[: len(content) // 2], len(content))
            self.close_connection = True
            return None
        if fault == "slow":
            proxy.note(fault)
            return self._answer(status, headers, content, pieces=8)
        return self._answer(status, headers, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _serve

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.fault_proxy.upstream, timeout=120)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _NOT_PASSED_ON:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        except OSError:  # the server is down: so is its proxy
            return 502, [], b""
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, length: int | None = None, pieces: int = 1
    ) -> None:
        self.send_response_only(status)
        given = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in _NOT_PASSED_ON | {"content-length"} or (
                name.lower() == "content-length" and self.command == "HEAD"
            ):
                self.send_header(name, value)
        if self.command != "HEAD" or "content-length" not in given:
            self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command == "HEAD":
            return
        size = max(1, -(-len(content) // pieces))
        for start in range(0, len(content), size):
            self.wfile.write(content[start : start + size])
            self.wfile.flush()
            if pieces > 1:
                time.sleep(0.1)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        self.rfile, self.wfile = _Closed(), _Closed()

    def finish(self) -> None:
        if not isinstance(self.wfile, _Closed):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass


class _Closed:
    closed = True

    def close(self) -> None:
        pass

    flush = close


def _flipped(data: bytes, number: int) -> bytes:
    changed = bytearray(data)
    changed[number % len(data)] ^= 1 << (number // len(data)) % 8
    return bytes(changed)

"""pytest tests/infra/test_attacks.py — another user of the machine and web pages of other origins against a real stack.

Every attack has its twin: the same request with the password, or on the same page, does what it asks for. So a test fails
when the door opens, and also when the attack stops being one.
"""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from infra import processes
from infra.services import SERVERS
from tasks.runtime.settings import load_settings
from tasks.storage.s3 import open_store
from tests.infra import browser
from tests.stack import Stack

FOREIGN = "http://evil.example"
PARAMETER = re.compile(r"{[^}]*}|<[^>]*>")
NEW_EXPERIMENT = "/api/2.0/mlflow/experiments/create"
_FETCH = {"Origin": FOREIGN, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
# What a page of another origin can make a browser send without asking first, and what programs of another user can.
DISGUISES = {
    "another user": {},
    "a wrong password": {"Authorization": "Basic b3BzZDpvcHNk"},
    "a page, by fetch": {**_FETCH, "Content-Type": "text/plain"},
    "a page without a type": {"Origin": FOREIGN, "Content-Type": ""},
    "a page, by a form": {**_FETCH, "Origin": "null", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    "a page of this machine": {"Origin": "http://127.0.0.1:9", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    "a page of localhost": {**_FETCH, "Origin": "http://localhost:9", "Sec-Fetch-Mode": "cors"},
    "a rebound name": {"Host": "evil.example", "Origin": FOREIGN, "Sec-Fetch-Site": "same-origin"},
    "a rebound name, no origin": {"Host": "127.0.0.1.evil.example:80"},
    "a confusing host": {"Host": "evil.example/@127.0.0.1"},
}
# With the password the door still refuses these: a browser that knows the password sends it along.
BROWSERS = [name for name in DISGUISES if name.startswith("a page") or name == "a rebound name"]


def _page(stack: Stack, name: str) -> str:
    return stack.state.urls[name].removesuffix("/api")


def _auth(stack: Stack, name: str) -> tuple[str, str]:
    return "opsd", stack.state.passwords[f"{name.upper()}_PASSWORD"]


def _ask(method: str, url: str, headers: dict[str, str], auth: tuple[str, str] | None = None, body: str = "{}") -> int:
    session = requests.Session()
    session.trust_env = False
    data = None if method == "GET" else body
    return session.request(method, url, headers=headers, auth=auth, data=data, timeout=60, allow_redirects=False).status_code


def _prefect_routes(stack: Stack) -> list[tuple[str, str]]:
    answer = requests.get(f"{_page(stack, 'prefect')}/openapi.json", timeout=60).json()
    return [(m.upper(), "/api" + PARAMETER.sub("x", path)) for path, methods in answer["paths"].items() for m in methods]


def _mlflow_routes() -> list[tuple[str, str]]:
    program = """
import json, warnings; warnings.simplefilter("ignore")
import mlflow.server.fastapi_app as served
from mlflow.server import app
routes = [(m, r.rule) for r in app.url_map.iter_rules() for m in r.methods - {"HEAD", "OPTIONS"}]
print(json.dumps(routes + [(m, r.path) for r in served.app.routes for m in getattr(r, "methods", None) or ()]))
"""
    environ = {**os.environ, "MLFLOW_TRACKING_URI": "", "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True, timeout=120)
    return [(method, PARAMETER.sub("x", path)) for method, path in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.parametrize("disguise", DISGUISES)
def test_prefect_gives_strangers_no_run_no_automation_and_no_word(stack: Stack, disguise: str) -> None:
    page, headers = _page(stack, "prefect"), DISGUISES[disguise]
    attacks = ("automations/", "flow_runs/", "deployments/", "work_pools/", "block_documents/", "flow_runs/filter", "logs/")
    assert {_ask("POST", f"{page}/api/{path}", headers) for path in attacks} <= {401, 403}
    assert _ask("PATCH", f"{page}/api/work_pools/opsd", headers) in (401, 403)
    assert _ask("GET", f"{page}/api/admin/settings", headers) in (401, 403)
    if disguise in BROWSERS:
        assert _ask("POST", f"{page}/api/flow_runs/filter", headers, _auth(stack, "prefect")) == 403


@pytest.mark.parametrize("disguise", DISGUISES)
def test_mlflow_gives_strangers_no_version_and_no_word(stack: Stack, disguise: str) -> None:
    page, headers = _page(stack, "mlflow"), DISGUISES[disguise]
    attacks = [("POST", NEW_EXPERIMENT), ("POST", "/api/2.0/mlflow/registered-models/create"), ("POST", "/graphql")]
    attacks += [("DELETE", "/api/2.0/mlflow/model-versions/delete"), ("PUT", "/api/2.0/mlflow-artifacts/artifacts/x")]
    attacks += [("GET", "/api/2.0/mlflow/experiments/search?max_results=1"), ("GET", "/")]
    assert {_ask(method, page + path, headers) for method, path in attacks} <= {401, 403}
    if disguise in BROWSERS:
        body = '{"name": "made by a stranger"}'
        assert _ask("POST", page + NEW_EXPERIMENT, headers, _auth(stack, "mlflow"), body) == 403


def test_the_same_requests_with_the_password_are_served(stack: Stack) -> None:
    json_type, api = {"Content-Type": "application/json"}, stack.state.urls["prefect"]
    assert _ask("GET", f"{api}/admin/settings", {}, _auth(stack, "prefect")) == 200
    assert _ask("POST", f"{api}/flow_runs/filter", json_type, _auth(stack, "prefect")) == 403, "no CSRF token"
    token = requests.get(f"{api}/csrf-token?client=owner", auth=_auth(stack, "prefect"), timeout=60).json()["token"]
    owner = {**json_type, "Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "owner"}
    assert _ask("POST", f"{api}/flow_runs/filter", owner, _auth(stack, "prefect")) == 200
    name = '{"name": "made by its owner"}'
    assert _ask("POST", _page(stack, "mlflow") + NEW_EXPERIMENT, json_type, _auth(stack, "mlflow"), name) == 200
    own = {"Origin": _page(stack, "mlflow"), "Sec-Fetch-Site": "same-origin", **json_type}
    assert _ask("POST", _page(stack, "mlflow") + NEW_EXPERIMENT, own, _auth(stack, "mlflow"), name) == 400, "it exists already"


def test_no_path_of_prefect_is_served_without_the_password_except_its_pages_and_health(stack: Stack) -> None:
    routes = _prefect_routes(stack)
    assert len(routes) > 150
    json_type = {"Content-Type": "application/json"}
    answers = {(method, path): _ask(method, _page(stack, "prefect") + path, json_type) for method, path in routes}
    served = {route for route, status in answers.items() if status not in (401, 403)}
    assert served <= {("GET", "/api/health"), ("GET", "/api/ready")}


OTHERS = ("/graphql", "/v1/traces", "/gateway/x/invocations", "/ajax-api/3.0/jobs", "/ajax-api/3.0/mlflow/assistant/message")
OTHERS += ("/get-artifact?path=x&run_uuid=x", "/model-versions/get-artifact", "/docs", "/openapi.json", "/mcp", "/signup")
OTHERS += ("//health", "/health/", "/health/x", "/HEALTH", "/health%2f..%2fapi/2.0/mlflow/x", "/version/../", "/metrics")


def test_odd_paths_of_mlflow_are_not_served_without_the_password(stack: Stack) -> None:
    for path in OTHERS:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert _ask(method, _page(stack, "mlflow") + path, {}) == 401, f"{method} {path}"
    assert _ask("POST", f"{_page(stack, 'mlflow')}/health", {}) == 401
    assert _ask("GET", f"{_page(stack, 'mlflow')}/health", {}) == 200


@pytest.mark.slow
def test_no_path_of_mlflow_is_served_without_the_password_except_health_and_version(stack: Stack) -> None:
    routes = _mlflow_routes()
    assert len(routes) > 100
    answers = {(method, path): _ask(method, _page(stack, "mlflow") + path, {}) for method, path in routes}
    assert {path for (_, path), status in answers.items() if status != 401} <= {"/health", "/version"}
    assert _ask("GET", f"{_page(stack, 'mlflow')}/static-files/static/%2e%2e/index.html", {}) == 401


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out"])
@pytest.mark.parametrize("origin", [None, FOREIGN, "http://127.0.0.1:9"])
def test_prefects_sockets_close_on_strangers(stack: Stack, path: str, origin: str | None) -> None:
    url = f"ws{stack.state.urls['prefect'].removeprefix('http')}/{path}"
    with pytest.raises(WebSocketException), connect(url, origin=origin, subprotocols=["prefect"], proxy=None) as connection:
        connection.send('{"type": "auth", "token": "opsd:opsd"}')
        while True:  # ends by the server's closing
            assert '"auth_success"' not in str(connection.recv(timeout=60))


def test_a_run_cannot_choose_its_command_its_variables_or_its_folder(worker: Stack) -> None:
    with get_client(sync_client=True) as client:
        gc = client.read_deployment_by_name("opsd/gc").id
        wishes = {"command": "id", "env": {"LD_PRELOAD": "/x"}, "env.LD_PRELOAD": "/x", "working_dir": "/"}
        for name, value in wishes.items():
            with pytest.raises(PrefectHTTPStatusError, match="Additional properties are not allowed"):
                client.create_flow_run_from_deployment(gc, job_variables={name: value})
        run = client.create_flow_run_from_deployment(gc, parameters={"dry_run": True})
        child = None
        while child is None or child.is_running():
            family = processes.family(worker.state.root, "worker")
            found = [p for p in family if str(run.id) in p.environ().get("PREFECT__FLOW_RUN_ID", "")]
            if found and child is None:
                child = found[0]
                environments = [child.environ(), processes.find(worker.state.root, "worker").environ()]
            time.sleep(0.05)
        while not (state := client.read_flow_run(run.id).state).is_final():
            time.sleep(0.2)
        assert state.is_completed(), state
    assert "PYTEST_VERSION" in os.environ
    for environ in environments:
        assert not [name for name in environ if name.startswith(("PYTEST", "WEED_", "PREFECT_SERVER_API"))]
        assert environ["AWS_SECRET_ACCESS_KEY"] == worker.env["AWS_SECRET_ACCESS_KEY"]


def _listeners(stack: Stack) -> set[int]:
    pids = {process.pid for name in SERVERS for process in processes.family(stack.state.root, name)}
    return {c.laddr.port for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in pids}


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether gRPC's protocol is spoken to a client without a certificate: a server's settings come back."""
    try:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        answer = connection.recv(9)
    except (OSError, ssl.SSLError):
        return False
    return len(answer) == 9 and answer[3] == 4


def test_no_grpc_port_or_socket_of_the_object_store_answers_without_a_certificate(stack: Stack) -> None:
    names = [name for name in stack.state.ports if name.startswith("s3")]
    ports = {stack.state.ports[name] + 10_000 for name in names}
    assert ports <= _listeners(stack)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    for port in ports:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
            assert not _speaks_http2(plain), port
        with socket.create_connection(("127.0.0.1", port), timeout=30) as raw, context.wrap_socket(raw) as encrypted:
            assert not _speaks_http2(encrypted), port
    sockets = [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]
    assert sockets
    for path in sockets:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(30)
            plain.connect(str(path))
            assert not _speaks_http2(plain), path
    keys = stack.state.root / "s3-certificates"
    context.load_cert_chain(keys / "node.pem", keys / "node.key")
    with socket.create_connection(("127.0.0.1", min(ports)), timeout=30) as raw, context.wrap_socket(raw) as ours:
        assert _speaks_http2(ours), "with the stack's own certificate it answers"


def test_weed_shell_and_http_of_another_user_reach_no_object(stack: Stack) -> None:
    store = open_store(settings=load_settings(dict(os.environ)))
    store.put("attacked/object", b"still here")
    ports = stack.state.ports
    weed, address = Path(sys.executable).parent / "weed", f"127.0.0.1:{ports['s3_master']}"
    attack = "lock\nfs.rm -rf /buckets/opsd\ncollection.delete -collection=opsd -apply\nvolume.list\n"
    shell = [weed, "shell", f"-master={address}"]
    with pytest.raises(subprocess.TimeoutExpired) as stopped:  # it waits for a master that lets it in
        subprocess.run(shell, input=attack, env={}, capture_output=True, text=True, timeout=8, check=False)
    assert b"Topology" not in (stopped.value.stdout or b"")
    paths = {
        "s3_master": ["/dir/assign", "/col/delete?collection=opsd", "/vol/vacuum", "/vol/grow?count=1", "/submit"],
        "s3_filer": ["/", "/buckets/opsd/", "/buckets/opsd/attacked/object", "/buckets/opsd?recursive=true", "/.tus/x"],
        "s3_volume": ["/1,01637037d6", "/2,01637037d6", "/admin/assign_volume?volume=9"],
        "s3": ["/", "/opsd", "/opsd/attacked/object", "/opsd?list-type=2", "/opsd?delete"],
        "s3_admin": ["/", "/login", "/api/s3/buckets", "/api/files/delete", "/object-store/buckets"],
    }
    for name, tried in paths.items():
        for path in tried:
            for method in ("GET", "POST", "PUT", "DELETE"):
                status = _ask(method, f"http://127.0.0.1:{ports[name]}{path}", {}, body="x")
                assert status >= 400, f"{method} {name}{path}: {status}"
    assert store.get("attacked/object") == b"still here"


def test_every_listener_is_one_that_these_tests_attack(stack: Stack) -> None:
    names = ("prefect", "mlflow", *(name for name in stack.state.ports if name.startswith("s3")))
    grpc = {stack.state.ports[name] + 10_000 for name in names if name.startswith("s3")}
    assert _listeners(stack) == {stack.state.ports[name] for name in names} | grpc


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can play another user's process")
def test_another_users_process_reads_no_secret_and_enters_no_socket(stack: Stack) -> None:
    root = stack.state.root
    files = [root / "env", root / "server.env", root / "s3-certificates" / "node.key", *(root / "logs").iterdir()]
    files += [Path(f"/proc/{processes.find(root, name).pid}/environ") for name in SERVERS]
    sockets = [path for port in stack.state.ports.values() for path in Path("/tmp").glob(f"seaweedfs-*-{port + 10_000}.sock")]
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        entered = 0
        for path in files:
            with suppress(OSError):
                entered += len(path.read_bytes()) + 1
        for path in sockets:
            with suppress(OSError):
                socket.socket(socket.AF_UNIX).connect(str(path))
                entered += 1
        os._exit(min(entered, 100))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sockets and all(path.read_bytes() is not None for path in files)


@contextmanager
def _hostile_page() -> Iterator[int]:
    """Port of a web server of the attacker, whose pages are empty."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title>")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


ATTACK = """(async () => {
  const results = [];
  for (const mode of ["no-cors", "cors"]) for (const method of ["POST", "GET"]) for (const url of %s) {
    const body = method === "GET" ? undefined : new Blob([%r], {type: mode === "cors" ? "application/json" : ""});
    try {
      const answer = await fetch(url, {method, mode, body, credentials: "include"});
      const shown = answer.ok ? "read: " + (await answer.text()).slice(0, 100) : answer.status;
      results.push(answer.type === "opaque" ? "closed" : shown);
    } catch (error) { results.push("refused"); }
  }
  return results.join();
})()"""


@pytest.mark.browser
@pytest.mark.skipif(browser.program() is None, reason=f"none of {', '.join(browser.NAMES)} is installed")
def test_pages_of_other_origins_in_a_browser_that_is_logged_in_change_and_read_nothing(stack: Stack) -> None:
    from infra.access.servers import login_lines

    links = [line.split()[1] for line in login_lines(stack.state, os.environ, show=True)[1:]]
    mlflow, prefect = _page(stack, "mlflow"), _page(stack, "prefect")
    made, own = '{"name": "made in a browser"}', f"{mlflow}{NEW_EXPERIMENT}"
    searched = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=100"
    with _hostile_page() as port, browser.browsing("--host-resolver-rules=MAP *.example 127.0.0.1") as tab:
        for link, landmark in zip(links, ("Dashboard", "Welcome to MLflow"), strict=True):
            tab.open(link)
            tab.wait_for(f"document.body && document.body.innerText.includes('{landmark}')")
        for page in (f"http://127.0.0.1:{port}", f"http://localhost:{port}", f"http://evil.example:{port}"):
            tab.open(page)
            targets = [own, searched, f"{prefect}/api/automations/", f"{prefect}/api/flow_runs/filter"]
            assert "read" not in tab.run(ATTACK % (targets, made)), page
        for port_of in (urlsplit(mlflow).port, urlsplit(prefect).port):
            tab.open(f"http://evil.example:{port_of}/")
            assert "not served here" in tab.text()
        names = requests.get(searched, auth=_auth(stack, "mlflow"), timeout=60).text
        assert "made in a browser" not in names
        tab.open(mlflow)
        assert "read" in tab.run(ATTACK % ([own], made)), "the same script on MLflow's own page is served"
    assert "made in a browser" in requests.get(searched, auth=_auth(stack, "mlflow"), timeout=60).text

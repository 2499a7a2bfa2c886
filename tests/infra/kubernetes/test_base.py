"""pytest tests/infra/kubernetes/test_base.py — infra/kubernetes against docker-compose.yml and itself, without a cluster.

Whether a cluster would take every object, and what Prefect makes of the pools, is looked up in test_rendered.py.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.state import SERVER_SECRETS

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "infra/kubernetes"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
KUSTOMIZATION = yaml.safe_load((BASE / "kustomization.yaml").read_text())
OBJECTS: list[dict[str, Any]] = [
    found for name in KUSTOMIZATION["resources"] for found in yaml.safe_load_all((BASE / name).read_text())
]
POOLS = {path.stem: json.loads(path.read_text()) for path in sorted((BASE / "pools").glob("*.json"))}
GENERATED = {made["name"] for made in KUSTOMIZATION["configMapGenerator"]}
SECRET_KEYS = {
    "POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "MLFLOW_PASSWORD", "PREFECT_API_AUTH_STRING", *SERVER_SECRETS,
}  # fmt: skip


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in OBJECTS if found["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """Of every workload and pool, its pod's specification."""
    made = {f["metadata"]["name"]: f["spec"]["template"]["spec"] for f in OBJECTS if "template" in f.get("spec", {})}
    manifests = {f"pool {name}": pool["job_configuration"]["job_manifest"] for name, pool in POOLS.items()}
    return made | {name: manifest["spec"]["template"]["spec"] for name, manifest in manifests.items()}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return pod["containers"] + pod.get("initContainers", [])


def found_keys(value: Any, key: str) -> list[Any]:
    """Whatever stands under `key`, anywhere."""
    if isinstance(value, dict):
        return [v for k, v in value.items() if k == key] + [f for v in value.values() for f in found_keys(v, key)]
    return [f for v in value for f in found_keys(v, key)] if isinstance(value, list) else []


def test_every_file_is_listed_and_every_object_is_in_the_namespace():
    assert {path.name for path in BASE.glob("*.yaml")} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}
    keys = [(found["kind"], found["metadata"]["name"]) for found in OBJECTS]
    assert len(set(keys)) == len(keys)
    for found in OBJECTS:
        if found["kind"] != "Namespace":
            assert found["metadata"]["namespace"] == KUSTOMIZATION["namespace"], found["metadata"]["name"]
    for made in KUSTOMIZATION["configMapGenerator"]:
        assert all((BASE / entry.rpartition("=")[2]).is_file() for entry in made["files"])
    assert (BASE / "databases.sql").read_text() == (ROOT / "infra/docker/databases.sql").read_text()


@pytest.mark.parametrize("name", sorted(pods()))
def test_what_a_pod_refers_to_is_there(name):
    pod = pods()[name]
    assert pod["serviceAccountName"] in named("ServiceAccount")
    own = {volume["name"] for volume in pod.get("volumes", [])}
    claims = [f["spec"].get("volumeClaimTemplates", []) for f in OBJECTS if f["metadata"]["name"] == name and "spec" in f]
    own |= {claim["metadata"]["name"] for found in claims for claim in found}
    for container in containers(pod):
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= own, container["name"]
        for source in container.get("envFrom", []):
            assert source["configMapRef"]["name"] in named("ConfigMap")
        ports = {port["name"] for port in container.get("ports", [])}
        assert {p["port"] for p in found_keys(container, "httpGet")} <= ports
    for volume in pod.get("volumes", []):
        assert volume.get("configMap", {"name": "opsd-pools"})["name"] in GENERATED
    for used in found_keys(pod, "secretKeyRef"):
        assert used["name"] == "opsd" and used["key"] in SECRET_KEYS, used


@pytest.mark.parametrize("name", sorted(pods()))
def test_a_pod_runs_without_root_within_limits_and_reads_secrets_from_the_secret_alone(name):
    pod = pods()[name]
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] > 0
    assert security["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod.get("automountServiceAccountToken") is False or pod["serviceAccountName"] == "opsd-worker"
    for container in containers(pod):
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
        for variable in container.get("env", []):
            if re.search(r"PASSWORD$|SECRET_ACCESS|ACCESS_KEY|AUTH_STRING$|SIGNING", variable["name"]):
                assert "secretKeyRef" in variable.get("valueFrom", {}), variable["name"]
            elif re.search(r"DATABASE_CONNECTION|BACKEND_STORE", variable["name"]):
                assert "$(POSTGRES_PASSWORD)@" in variable["value"]


def test_no_secret_is_in_the_base_and_deploy_md_makes_every_key():
    assert not named("Secret") and "secretGenerator" not in KUSTOMIZATION
    page = (ROOT / "docs/deploy.md").read_text()
    missing = {key for key in SECRET_KEYS if key not in page}
    assert not missing, missing


def test_images_are_pinned_and_those_of_the_dockerfiles():
    renamed = {image["name"]: image for image in KUSTOMIZATION["images"]}
    for image in renamed.values():
        assert re.match(r"\d+\.\d+", image["newTag"]) and image["newName"].startswith("registry.example.com/")
    for pod in pods().values():
        for container in containers(pod):
            assert container["image"] in renamed or re.search(r":\d+\.\d+", container["image"]), container["image"]
    assert COMPOSE["services"]["postgres"]["image"] in {c["image"] for c in containers(pods()["postgres"])}
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "infra/docker/Dockerfile").read_text(), re.MULTILINE)
    assert {name.removeprefix("opsd-") for name in renamed} - {"opsd", "s3"} <= set(stages)


def test_services_select_pods_and_addresses_are_theirs():
    workloads = {f["metadata"]["name"]: f["spec"]["template"] for f in OBJECTS if "template" in f.get("spec", {})}
    labels = {name: template["metadata"]["labels"] for name, template in workloads.items()}
    services = {name: f["spec"]["ports"][0]["port"] for name, f in named("Service").items()}
    for name, service in named("Service").items():
        assert labels[name] == service["spec"]["selector"]
        (container,) = pods()[name]["containers"]
        assert container["ports"][0]["containerPort"] == services[name]
    text = "\n".join((BASE / name).read_text() for name in KUSTOMIZATION["resources"])
    for host, port in re.findall(r"(?:http://|@)(\w+):(\d+)", text):
        assert host == "localhost" or services[host] == int(port), f"{host}:{port}"


def test_clients_read_what_they_read_in_compose():
    compose = COMPOSE["services"]["worker"]["environment"]
    settings = named("ConfigMap")["opsd-client"]["data"]
    plain = {name: str(value) for name, value in compose.items() if "${" not in str(value)}
    assert {name: settings.get(name) for name in plain} == plain
    (container,) = pods()["campaigns"]["containers"]
    assert {v["name"] for v in container["env"]} >= set(compose) - set(plain)
    assert container["command"] == COMPOSE["services"]["worker"]["command"]
    for name in ("prefect", "mlflow"):
        assert pods()[name]["containers"][0]["command"] == COMPOSE["services"][name]["command"]
    own, theirs = pods()["s3"]["containers"][0]["args"], COMPOSE["services"]["s3"]["command"]
    assert {word for word in own if "-ip=" not in word} == {word for word in theirs if "-ip=" not in word}


@pytest.mark.parametrize("name", sorted(POOLS))
def test_a_pool_starts_a_job_once_and_lets_no_run_choose_what_is_executed(name):
    pool = POOLS[name]
    manifest = pool["job_configuration"]["job_manifest"]
    assert manifest["spec"]["backoffLimit"] == 0 and manifest["spec"]["completions"] == 1
    offered = pool["variables"]["properties"]
    assert not {"command", "env", "image", "service_account_name", "working_dir"} & set(offered)
    assert pool["variables"]["additionalProperties"] is False
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(pool["job_configuration"])))
    assert used == set(offered), used ^ set(offered)
    pod = manifest["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory" and "ephemeral" in volumes[mounts["/var/lib/opsd/cache"]]
    assert pod["nodeSelector"] == "{{ node_selector }}" and offered["node_selector"]["default"]
    assert ("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]) == (name == "gpu")
    words = [container["command"] for container in pods()["runners"]["containers"]]
    assert [*words[0][:-1], name] in words, "no worker looks after this pool"

"""pytest -m slow tests/infra/kubernetes/test_rendered.py — what a cluster and Prefect's Kubernetes worker make of the base.

Their packages live in an environment of their own, which this installs; no cluster is asked.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.kubernetes.test_base import OBJECTS, pods

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("prefect-kubernetes==0.8.0", "kubernetes-validate==1.37.0", "check-jsonschema==0.39.0")
KUBERNETES = "1.33"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """The folder of programs of an environment that has these packages, at the pinned versions of everything else."""
    folder = tmp_path_factory.mktemp("kubernetes")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the packages cannot be installed here: {done.stderr[-300:]}")
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cluster_takes_every_object_and_every_job_that_prefect_makes_of_a_pool(environment):
    given = {v["name"]: v["value"] for v in pods()["runners"]["containers"][0]["env"] if "value" in v}
    environ = os.environ | given | {"PREFECT_API_URL": "http://prefect:4200/api"}
    command = [environment / "python", Path(__file__).with_name("render.py"), KUBERNETES]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["objects"] == len(OBJECTS) and found["secret"] == ["opsd", "PREFECT_API_AUTH_STRING"]
    for name, (plain, changed) in found["jobs"].items():
        (container,) = plain["spec"]["template"]["spec"]["containers"]
        assert container["args"][:2] == ["prefect", "flow-run"] and plain["spec"]["backoffLimit"] == 0
        assert container["resources"]["limits"].get("nvidia.com/gpu") == (1 if name == "gpu" else None)
        assert changed["spec"]["template"]["spec"]["nodeSelector"] == {"zone": "a"}
        assert changed["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "8Gi"
        assert changed["metadata"]["generateName"].startswith("mine-") and "{{" not in json.dumps([plain, changed])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_schema_of_the_compose_specification_accepts_docker_compose_yml(environment, tmp_path):
    tool = [environment / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*tool, ROOT / "docker-compose.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text((ROOT / "docker-compose.yml").read_text().replace("shm_size", "shmsize"))
    assert subprocess.run([*tool, wrong], capture_output=True).returncode != 0

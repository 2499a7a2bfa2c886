"""Objects of infra/kubernetes checked by schema, and pools rendered by Prefect's own worker: `python render.py VERSION`.

Runs in an environment of its own (prefect-kubernetes, kubernetes-validate), without a cluster; prints what it rendered.
"""

import asyncio
import json
import sys
import uuid
from pathlib import Path

import kubernetes_validate
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.settings import KubernetesSettings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

BASE = Path(__file__).resolve().parents[3] / "infra/kubernetes"


async def rendered(pool: dict, values: dict) -> dict:
    """The manifest that the worker would send for a run of this pool."""
    configuration = await KubernetesWorkerJobConfiguration.from_template_and_values(pool, values)
    configuration.prepare_for_flow_run(FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="runner-3"))
    return configuration.job_manifest


def main(version: str) -> None:
    """Fails with the first object that a cluster of this version would refuse."""
    names = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    objects = [found for name in names for found in yaml.safe_load_all((BASE / name).read_text())]
    for found in objects:
        kubernetes_validate.validate(found, version, strict=True)
    jobs = {}
    for path in sorted((BASE / "pools").glob("*.json")):
        pool = json.loads(path.read_text())
        for values in ({}, {"name": "mine", "memory": "8Gi", "node_selector": {"zone": "a"}, "labels": {"team": "x"}}):
            manifest = asyncio.run(rendered(pool, values))
            kubernetes_validate.validate(manifest, version, strict=True)
            jobs.setdefault(path.stem, []).append(manifest)
    worker = KubernetesSettings().worker
    secret = [worker.api_auth_string_secret_name, worker.api_auth_string_secret_key]
    print(json.dumps({"objects": len(objects), "jobs": jobs, "secret": secret}))


if __name__ == "__main__":
    main(sys.argv[1])

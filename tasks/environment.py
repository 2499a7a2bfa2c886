"""What the code ran as: git revision, package versions, machine."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import distributions
from typing import Any

import torch

from tasks.settings import load_settings


@lru_cache(maxsize=1)
def git_revision() -> str:
    """Commit of the project folder, with `+dirty` when files differ from it; `unknown` outside a git checkout."""
    home = load_settings().home
    try:
        revision = _git(home, "rev-parse", "HEAD")
        return revision + ("+dirty" if _git(home, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("OPSD_GIT_REVISION", "unknown")


def _git(home: Any, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(home), *arguments], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """JSON-safe description of code, packages and machine; no host name, no user, no path."""
    packages = {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
    return {
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "packages": dict(sorted(packages.items())),
    }

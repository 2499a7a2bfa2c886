"""What the code ran as: git revision, package versions, machine."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve()


@lru_cache(maxsize=1)
def git_revision() -> str:
    """Commit of this code, with `+dirty` when tracked files differ from it; OPSD_GIT_REVISION or `unknown` outside a checkout."""
    try:
        _git("ls-files", "--error-unmatch", _HERE.name)  # a copy inside somebody else's repository is not its commit
        return _git("rev-parse", "HEAD") + ("+dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("OPSD_GIT_REVISION", "unknown")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(_HERE.parent), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """JSON-safe description of code, packages and machine; no host name, no user, no path."""
    import torch  # a process that only asks for the revision needs none

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

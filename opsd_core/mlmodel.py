"""The MLmodel file in a folder of weights, which lets `mlflow.pyfunc.load_model` read the folder.

It holds no date, random id or library version, so that a folder's digest depends on its weights alone.
"""

import json
from pathlib import Path

import yaml

MLMODEL_NAME = "MLmodel"
LOADER_MODULE = "opsd_core.pyfunc_loader"
DEFAULTS = {"max_completion_length": 256, "temperature": 0.0, "seed": 0, "batch_size": 8}
"""Parameters of `predict`: tokens, sampling temperature (0: greedy), seed of the sampler, prompts per batch."""

_TYPES = {int: "long", float: "double"}


def write_mlmodel(folder: Path) -> None:
    """Write `MLmodel` into a folder with config.json, tokenizer and safetensors; the same bytes every time.

    The default length of an answer is that of generation_config.json where it names one.
    """
    defaults = DEFAULTS | _judged_length(folder / "generation_config.json")
    params = [
        {"name": name, "type": _TYPES[type(value)], "default": value, "shape": None} for name, value in defaults.items()
    ]
    record = {
        "flavors": {"python_function": {"loader_module": LOADER_MODULE}},
        "signature": {
            "inputs": json.dumps([{"type": "string", "required": True}]),  # unnamed: lists and one-column tables
            "outputs": json.dumps([{"type": "string", "required": True}]),
            "params": json.dumps(params),
        },
    }
    (folder / MLMODEL_NAME).write_text(yaml.safe_dump(record, sort_keys=True))


def _judged_length(path: Path) -> dict[str, int]:
    longest = json.loads(path.read_text()).get("max_new_tokens") if path.is_file() else None
    return {"max_completion_length": int(longest)} if longest else {}

"""Everything a trainer needs to resume bit for bit, in safetensors and JSON.

trainable.safetensors   trained parameters (adapters under LoRA), float32
optimizer.safetensors   AdamW moments and step counts, per parameter
teacher.safetensors     what the teacher keeps, when it keeps anything (an average its weights)
rng.safetensors         torch's random state
trainer.json            schema version, optimiser steps done
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from opsd_core.errors import IntegrityError
from opsd_core.models.policy import Policy
from opsd_core.teacher.teachers import TeacherWeights

SCHEMA_VERSION = 1


def trainable_parameters(policy: Policy) -> dict[str, torch.nn.Parameter]:
    """Parameters that receive gradients, by name."""
    return {name: parameter for name, parameter in policy.model.named_parameters() if parameter.requires_grad}


def save_checkpoint(
    folder: Path, student: Policy, optimizer: torch.optim.Optimizer, teacher: TeacherWeights, step: int
) -> None:
    """Write the state after `step` optimiser steps of this iteration. Equal states give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = trainable_parameters(student)
    save_file(
        {name: parameter.detach().contiguous() for name, parameter in parameters.items()},
        folder / "trainable.safetensors",
    )
    moments = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            moments[f"{key}/{name}"] = value.contiguous()
    save_file(moments, folder / "optimizer.safetensors")
    if kept := {name: tensor.detach().clone() for name, tensor in teacher.state().items()}:
        save_file(kept, folder / "teacher.safetensors")
    save_file({"torch": torch.get_rng_state()}, folder / "rng.safetensors")
    (folder / "trainer.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "step": step}))


def load_checkpoint(folder: Path, student: Policy, optimizer: torch.optim.Optimizer, teacher: TeacherWeights) -> int:
    """Restore what `save_checkpoint` wrote and return the number of steps done.

    IntegrityError when the state belongs to another model, adapter, teacher or schema.
    """
    meta = json.loads((folder / "trainer.json").read_text())
    if meta["schema_version"] != SCHEMA_VERSION:
        raise IntegrityError(
            f"trainer state {folder.name} has schema version {meta['schema_version']}, this version of opsd reads "
            f"{SCHEMA_VERSION}. Start the campaign again or use the version that wrote it."
        )
    load_trainable(folder, student)
    moments = load_file(folder / "optimizer.safetensors")
    with torch.no_grad():
        for name, parameter in trainable_parameters(student).items():
            state = {
                key: moments[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in moments
            }
            if state:
                optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}
    _load_teacher(folder / "teacher.safetensors", teacher)
    torch.set_rng_state(load_file(folder / "rng.safetensors")["torch"])
    return int(meta["step"])


def _load_teacher(path: Path, teacher: TeacherWeights) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in teacher.state().items()}
    if not expected:
        return
    saved = load_file(path) if path.exists() else {}
    found = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise IntegrityError(
            f"trainer state {path.parent.name} holds {len(found)} tensors of a teacher that keeps {len(expected)} (first "
            f"difference: {wrong[0]!r}). Was teacher.weights or model.source changed within a campaign?"
        )
    teacher.load_state(saved)


def load_trainable(folder: Path, student: Policy) -> None:
    """Put the saved parameters into `student`. IntegrityError when it trains other parameters."""
    parameters, saved = trainable_parameters(student), load_file(folder / "trainable.safetensors")
    if parameters.keys() != saved.keys():
        different = sorted(parameters.keys() ^ saved.keys())
        raise IntegrityError(
            f"trainer state {folder.name} holds other parameters than this model trains (first difference: "
            f"{different[0]!r}). Was model.source or model.lora changed within a campaign?"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])

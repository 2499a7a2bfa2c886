"""Everything a trainer needs to resume bit for bit, in safetensors and JSON.

trainable.safetensors   trained parameters (adapters under LoRA), float32
optimizer.safetensors   AdamW moments and step counts, per parameter
teacher.safetensors     what the teacher keeps, when it keeps anything (an average its weights)
rng.safetensors         torch's random state
trainer.json            schema version, optimiser steps done

The files hold whole tensors, whoever wrote them: what several processes saved one resumes, and the other way round. A file of
more than 5 GB becomes several with an index, as for models.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from opsd_core.errors import IntegrityError
from opsd_core.models.policy import Policy
from opsd_core.models.storage.shards import load_shards, save_shards
from opsd_core.models.whole import fill, here, part_of, whole
from opsd_core.teacher.teachers import TeacherWeights

SCHEMA_VERSION = 1
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def trainable_parameters(policy: Policy) -> dict[str, torch.nn.Parameter]:
    """Parameters that receive gradients, by name."""
    return {name: parameter for name, parameter in policy.model.named_parameters() if parameter.requires_grad}


def save_checkpoint(
    folder: Path,
    student: Policy,
    optimizer: torch.optim.Optimizer,
    teacher: TeacherWeights,
    step: int,
    writes: bool = True,
) -> None:
    """Write the state after `step` optimiser steps of this iteration. Equal states give equal bytes.

    Where several processes hold parts of it all of them call this, and the one that `writes` does.
    """
    parameters = trainable_parameters(student)
    moments = (
        (f"{key}/{name}", value) for name, p in parameters.items() for key, value in optimizer.state.get(p, {}).items()
    )
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
    save_shards(_to_store(parameters.items()), folder, "trainable", writes=writes)
    save_shards(_to_store(moments), folder, "optimizer", writes=writes)
    if kept := teacher.state():
        save_shards(_to_store(kept.items(), copied=True), folder, "teacher", writes=writes)
    if writes:
        save_file({"torch": torch.get_rng_state()}, folder / "rng.safetensors")
        (folder / "trainer.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "step": step}))


def _to_store(tensors: Iterable[tuple[str, Tensor]], copied: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors; copies of their own where two names may share one."""
    for name, tensor in tensors:
        value = whole(tensor.detach())
        yield name, value.clone() if copied and value.data_ptr() == here(tensor).data_ptr() else value.contiguous()


def load_checkpoint(folder: Path, student: Policy, optimizer: torch.optim.Optimizer, teacher: TeacherWeights) -> int:
    """Restore what `save_checkpoint` wrote and return the number of steps done.

    IntegrityError when the state belongs to another model, adapter, teacher or schema.
    """
    meta = _read_meta(folder)
    if meta["schema_version"] != SCHEMA_VERSION:
        raise IntegrityError(
            f"trainer state {folder.name} has schema version {meta['schema_version']}, this version of opsd reads "
            f"{SCHEMA_VERSION}. Start the campaign again or use the version that wrote it."
        )
    load_trainable(folder, student)
    _load_moments(_tensors(folder, "optimizer"), trainable_parameters(student), optimizer, folder.name)
    _load_teacher(folder, teacher)
    torch.set_rng_state(_tensors(folder, "rng")["torch"])
    return int(meta["step"])


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / "trainer.json").read_text())
        return {name: meta[name] for name in ("schema_version", "step")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"trainer state {folder.name}: trainer.json cannot be read ({type(error).__name__}: {error}). The state is torn; "
            "start the iteration anew."
        ) from error


def _tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    try:
        return load_shards(folder, stem)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"trainer state {folder.name}: {stem}.safetensors cannot be read ({error}). Start the campaign anew, or restore the "
            "file."
        ) from error


def _load_moments(
    moments: dict[str, Tensor], parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, state_name: str
) -> None:
    """Each parameter's AdamW state: all three of it with the right shapes, or none where it never had a gradient."""
    stepped = [name for name in parameters if any(f"{key}/{name}" in moments for key in _MOMENTS)]
    wanted = {f"{key}/{name}" for name in stepped for key in _MOMENTS}
    if different := sorted(wanted ^ moments.keys()):
        raise IntegrityError(
            f"trainer state {state_name}: the optimiser's state and the trained parameters do not agree (first difference: "
            f"{different[0]!r}). Was model.source or model.lora changed within a campaign?"
        )
    for name in stepped:
        parameter = parameters[name]
        state = {key: moments[f"{key}/{name}"] for key in _MOMENTS}
        for key, value in state.items():
            if (key != "step" and value.shape != parameter.shape) or not torch.isfinite(value).all():
                raise IntegrityError(
                    f"trainer state {state_name}: {key!r} of {name!r} has the shape {tuple(value.shape)} for a parameter of "
                    f"{tuple(parameter.shape)}, or holds values that are not finite."
                )
        optimizer.state[parameter] = {k: v if k == "step" else part_of(v, parameter) for k, v in state.items()}


def _load_teacher(folder: Path, teacher: TeacherWeights) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in teacher.state().items()}
    if not expected:
        return
    saved = _tensors(folder, "teacher") if any(folder.glob("teacher*.safetensors")) else {}
    found = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise IntegrityError(
            f"trainer state {folder.name} holds {len(found)} tensors of a teacher that keeps {len(expected)} (first "
            f"difference: {wrong[0]!r}). Was teacher.weights or model.source changed within a campaign?"
        )
    for name, tensor in saved.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise IntegrityError(f"trainer state {folder.name}: the teacher's {name!r} holds values that are not finite.")
    teacher.load_state(saved)


def load_trainable(folder: Path, student: Policy) -> None:
    """Put the saved parameters into `student`. IntegrityError when it trains other parameters."""
    parameters, saved = trainable_parameters(student), _tensors(folder, "trainable")
    if parameters.keys() != saved.keys():
        different = sorted(parameters.keys() ^ saved.keys())
        raise IntegrityError(
            f"trainer state {folder.name} holds other parameters than this model trains (first difference: "
            f"{different[0]!r}). Was model.source or model.lora changed within a campaign?"
        )
    for name, parameter in parameters.items():
        if saved[name].shape != parameter.shape or not torch.isfinite(saved[name]).all():
            raise IntegrityError(
                f"trainer state {folder.name}: {name!r} has the shape {tuple(saved[name].shape)} for a parameter of "
                f"{tuple(parameter.shape)}, or holds values that are not finite. Was model.lora.rank changed within a campaign?"
            )
    for name, parameter in parameters.items():
        fill(parameter, saved[name])

"""Policies read in parts and laid out, by `torch.distributed.run -m tests.core.parallel.laid_out FOLDER FAMILY ...`.

What differs from the policies read whole is written to FOLDER/different-<rank>.json.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from opsd_core.config import LoraConfig, ModelConfig
from opsd_core.models.cut import Cut, own_part
from opsd_core.models.policy import Policy, add_lora, load_policy
from opsd_core.models.whole import here, whole
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.parallel.together import FullySharded

CONFIG = ModelConfig(source="x", device="cpu", dtype="float32")
ADAPTERS = LoraConfig(rank=2, alpha=4.0)


def differences(found: Policy, wanted: Policy) -> list[str]:
    """Names of parameters that are not the same bits, and of those that are not held in parts."""
    theirs = dict(wanted.model.named_parameters())
    mine, wrong = dict(found.model.named_parameters()), []
    wrong += sorted(mine.keys() ^ theirs.keys())
    for name, weight in mine.items():
        if not torch.equal(whole(weight.detach()), theirs[name].detach()) or weight.dtype != theirs[name].dtype:
            wrong.append(name)
        if weight.requires_grad != theirs[name].requires_grad:
            wrong.append(f"gradient of {name}")
        if here(weight).numel() > -(-weight.shape[0] // dist.get_world_size()) * weight[:1].numel():
            wrong.append(f"all of {name}")
    buffers, known = dict(found.model.named_buffers()), dict(wanted.model.named_buffers())
    return wrong + [f"buffer {name}" for name in buffers.keys() | known.keys() if not torch.equal(buffers[name], known[name])]


def laid_out(folder: Path, adapters: bool) -> list[str]:
    """A student and a teacher, read in parts and whole."""
    student, teacher = (load_policy(folder, CONFIG, torch.float32, Cut(dist.get_rank(), dist.get_world_size())) for _ in range(2))
    if not any(own_part(weight) is not None for weight in student.model.parameters()):
        return ["nothing was read in parts"]
    if adapters:
        student = add_lora(student, ADAPTERS, seed=1)
    FullySharded().prepare(student, FixedTeacher(teacher))
    plain = load_policy(folder, CONFIG, torch.float32)
    plain.model.requires_grad_(False)
    wrong = [f"teacher: {what}" for what in differences(teacher, plain)]
    plain = load_policy(folder, CONFIG, torch.float32)
    return wrong + differences(student, add_lora(plain, ADAPTERS, seed=1) if adapters else plain)


def main(folder: Path, families: list[str]) -> None:
    """Each family, and each with adapters."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {f"{name}, adapters={adapters}": laid_out(folder / name, adapters) for name in families for adapters in (False, True)}
    (folder / f"different-{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

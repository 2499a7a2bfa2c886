"""One of the processes of a distillation: it reads a job, trains, and writes states and events; the first writes for all."""

import json
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from opsd_core.acceptance import Acceptance, with_paths
from opsd_core.models.checkpointing import checkpoint_gradients
from opsd_core.models.cut import Cut
from opsd_core.models.policy import Policy, add_lora, load_policy, resolve_device, training_dtype
from opsd_core.selection.monitors import Metrics
from opsd_core.teacher.kinds import teacher_in_training
from opsd_core.teacher.parts import Parts
from opsd_core.teacher.teachers import AdapterOffTeacher, FixedTeacher, TeacherWeights
from opsd_core.training.items import TrainingItem
from opsd_core.training.parallel.items_file import StoredItems
from opsd_core.training.parallel.job import Job, StoredPolicy, read_anchors, tell
from opsd_core.training.parallel.together import DataParallel, FullySharded
from opsd_core.training.probes import run_probes
from opsd_core.training.ranks import DoesNotFit, out_of_memory
from opsd_core.training.trainer import distil


def main(folder: Path) -> None:
    """Train what the job in `folder` says; what ends this process early is written there."""
    try:
        job = Job.read(folder)
        device = _join(job)
        _train(job, folder, FullySharded(device, job.offload) if job.parallel == "fsdp" else DataParallel(device))
    except Exception as error:
        known = {"error": type(error).__name__, "message": str(error), "out_of_memory": out_of_memory(error)}
        known |= {"microbatch_tokens": error.fewer} if isinstance(error, DoesNotFit) else {}
        path = folder / f"failed-{os.environ.get('RANK', 0)}.json"
        path.with_suffix(".part").write_text(json.dumps(known))
        path.with_suffix(".part").replace(path)
        raise
    dist.destroy_process_group()


def _join(job: Job) -> torch.device:
    """The process group: NCCL with a device for each process, and gloo for what is offloaded from it or where there is none."""
    if resolve_device(job.config.model).type != "cuda":
        dist.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if job.offload else "nccl")
    return device


def _load(dtype: torch.dtype | None, job: Job, stored: StoredPolicy) -> Policy:
    """The policy, or this process' part of it."""
    cut = Cut(dist.get_rank(), dist.get_world_size()) if job.parallel == "fsdp" else None
    policy = load_policy(stored.folder, job.config.model, dtype, cut)
    return with_paths(policy, Acceptance.from_json(json.loads(stored.acceptance))) if stored.acceptance else policy


def _train(job: Job, folder: Path, ranks: DataParallel) -> None:
    config, lora = job.config, job.config.model.lora
    student = _load(training_dtype(config.model), job, job.models.initial)
    if lora.rank:
        student = add_lora(student, lora, seed=config.seed)
    if job.checkpointing:
        checkpoint_gradients(student)
    parts = Parts(config, job.models, partial(_load, None, job), partial(_load, torch.float32, job), student)
    teacher, items = teacher_in_training(parts), StoredItems(folder / "items.safetensors")
    anchors = read_anchors(folder, config)
    if job.initial_anchor:
        initial = AdapterOffTeacher(student) if lora.rank else FixedTeacher(_load(None, job, job.models.initial))
        anchors = replace(anchors, initial=initial)
    first, ranks.most_tokens = ranks.rank == 0, job.most_tokens

    def on_step(step: int, metrics: Metrics) -> None:
        if first:
            tell(folder, kind="step", step=step, metrics=metrics)

    def on_checkpoint(done: int, save: Callable[[Path], None]) -> None:
        save(folder / str(done))
        if first:
            tell(folder, kind="checkpoint", done=done)

    save = distil(
        student, teacher, items, config, job.schedule, job.seed, anchors=anchors, ranks=ranks,
        start_from=Path(job.start_from) if job.start_from else None,
        resume_from=Path(job.resume_from) if job.resume_from else None,
        before_first_step=partial(_probe, job, folder, student, teacher, items, ranks),
        on_step=on_step, on_checkpoint=on_checkpoint,
    )  # fmt: skip
    save(folder / "state")
    if first:
        tell(folder, kind="done", peak_bytes=_peak_bytes())


def _probe(
    job: Job, folder: Path, student: Policy, teacher: TeacherWeights, items: StoredItems, ranks: DataParallel
) -> None:
    """The probes: together where each process has a part of the weights, else by the first one."""
    if job.probes is None or (ranks.rank and not isinstance(ranks, FullySharded)):
        return
    batch: list[TrainingItem] = [items[row] for row in job.probes.rows]
    run = partial(run_probes, student, teacher, batch, job.probes.answers, job.config)
    with torch.no_grad():
        found = ranks.call(partial(run, trained_before=job.probes.trained_before))
    if ranks.rank == 0:
        tell(folder, kind="probes", metrics=found)


def _peak_bytes() -> int:
    """Of this process' device where it has one, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

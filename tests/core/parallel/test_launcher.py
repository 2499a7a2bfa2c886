"""pytest tests/core/parallel/test_launcher.py — a job in files: the same end as here, errors by name, nobody left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from opsd_core.config import ModelConfig
from opsd_core.errors import ConfigError, TrainingError
from opsd_core.models.policy import load_policy, save_policy
from opsd_core.models.storage.skeleton import outline
from opsd_core.teacher.parts import Models
from opsd_core.teacher.teachers import EmaTeacher
from opsd_core.training.anchors import Anchors, held_gold, held_rehearsal
from opsd_core.training.parallel.items_file import StoredItems, write_items
from opsd_core.training.parallel.job import Job, Probes, StoredPolicy, read_anchors, write_work
from opsd_core.training.parallel.launcher import check_ranks, train_together
from opsd_core.training.trainer import Schedule, distil
from tests.core.parallel.cases import STEPS, Case, config_of, items_of
from tests.core.small import small_policy

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    save_policy(small_policy(0), folder)
    return folder


def job_of(stored: Path, parallel: str = "fsdp", **sections) -> Job:
    model = {"source": str(stored), "dtype": "float32", "device": "cpu"}
    overrides = {"teacher": {"weights": "ema", "ema_decay": 0.9}, "model": model, "execution": {"ranks": 2}}
    config = config_of(Case({"distillation": {"targets": "online"}} | overrides | sections))
    models = Models(StoredPolicy(str(stored)), StoredPolicy(""))
    return Job(config, models, Schedule(0, STEPS), 3, parallel, probes=Probes([0, 1, 2], [], trained_before=False))


def written(job: Job, folder: Path) -> Path:
    write_work(folder, items_of(small_policy(0), recorded=False), Anchors(), job)
    return folder


@pytest.fixture(scope="module")
def together(stored, tmp_path_factory):
    """The whole way once: what was heard, and where the files are."""
    job, heard = job_of(stored), []
    folder = written(job, tmp_path_factory.mktemp("job"))
    train_together(job, folder, 2, heard.append)
    return job, folder, heard


def test_the_end_is_that_of_one_process(stored, together, tmp_path):
    job, folder, heard = together
    policy = load_policy(stored, job.config.model, torch.float32)
    teacher, losses, probes = EmaTeacher(load_policy(stored, job.config.model, torch.float32), 0.9), [], []
    save = distil(
        policy, teacher, items_of(policy, recorded=False), job.config, job.schedule, job.seed,
        on_step=lambda step, metrics: losses.append((step, metrics["distillation/loss"])),
        before_first_step=lambda: probes.append(True),
    )  # fmt: skip
    save(tmp_path)
    found = [(event["step"], event["metrics"]["distillation/loss"]) for event in heard if event["kind"] == "step"]
    assert [step for step, _ in found] == [step for step, _ in losses] == list(range(STEPS))
    assert max(abs(a - b) for (_, a), (_, b) in zip(found, losses, strict=True)) <= 1e-5
    for name in ("trainable", "teacher"):
        one, two = load_file(tmp_path / f"{name}.safetensors"), load_file(folder / "state" / f"{name}.safetensors")
        assert one.keys() == two.keys()
        assert max(float((one[key] - two[key]).abs().max()) for key in one) <= 1e-5
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (folder / "state").iterdir()}


def test_probes_come_first_and_checkpoints_when_they_are_due(together):
    _, folder, heard = together
    kinds = [event["kind"] for event in heard]
    assert kinds[0] == "probes" and heard[0]["metrics"]["alignment/max_abs_diff"] < 1e-3
    assert [event["done"] for event in heard if event["kind"] == "checkpoint"] == [8, 16]
    assert kinds[-1] == "done" and heard[-1]["peak_bytes"] > 1e7
    assert not [path for path in folder.rglob("*") if path.suffix in (".pt", ".pkl", ".bin", ".distcp")]


def test_nobody_is_left(together):
    _, folder, _ = together
    assert not processes_of(folder)


def processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_what_the_listener_raises_ends_all_processes(stored, tmp_path):
    def refuse(event):
        raise TrainingError(f"enough of {event['kind']}")

    with pytest.raises(TrainingError, match="enough of probes"):
        train_together(job_of(stored), written(job_of(stored), tmp_path), 2, refuse)
    assert not processes_of(tmp_path)


def test_an_error_of_a_process_comes_back_as_itself(tmp_path, stored):
    job = job_of(stored)
    job = replace(job, models=Models(StoredPolicy(str(tmp_path / "nowhere")), StoredPolicy("")), probes=None)
    from opsd_core.errors import ModelError

    with pytest.raises(ModelError, match="nowhere"):
        train_together(job, written(job, tmp_path), 2, lambda event: None)
    assert not processes_of(tmp_path)


def test_processes_end_with_their_starter(stored, tmp_path):
    """kill -9 of the one that started them: within seconds none of them runs."""
    job = job_of(stored, optimizer={"num_steps": 2_000, "batch_size": 2})
    written(job, tmp_path)
    job.write(tmp_path)
    code = (
        "import sys; from pathlib import Path; from opsd_core.training.parallel.job import Job;"
        "from opsd_core.training.parallel.launcher import train_together; folder = Path(sys.argv[1].partition('=')[2]);"
        "train_together(Job.read(folder), folder, 2, lambda event: None)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, f"folder={tmp_path}"], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while len(processes_of(tmp_path)) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)  # the launcher and two processes, which have hardly begun
        assert len(processes_of(tmp_path)) == 3
    finally:
        os.kill(starter.pid, signal.SIGKILL)
        starter.wait()
    deadline = time.monotonic() + 90
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not processes_of(tmp_path)


def test_items_come_back_as_they_were(tmp_path):
    items = items_of(small_policy(0), recorded=True)
    length_T = len(items[0].completion_ids)
    items[0] = replace(items[0], advantages_T=np.arange(length_T, dtype=np.float32))
    items[4] = replace(items[4], target=None, rollout_entropy_T=np.ones(len(items[4].completion_ids), np.float32))
    write_items(tmp_path / "items.safetensors", items, [4, 0, 4, 7])
    found = StoredItems(tmp_path / "items.safetensors")
    assert len(found) == len(items)
    for row in (0, 4, 7):
        for name, value in vars(items[row]).items():
            other = getattr(found[row], name)
            if name == "target" and value is not None:
                for column, numbers in vars(value).items():
                    assert np.array_equal(getattr(other, column), numbers), column
            else:
                assert np.array_equal(other, value) if isinstance(value, np.ndarray) else other == value, name
    with pytest.raises(IndexError, match=r"item 1 of \d+ was left out"):
        found[1]


def test_a_job_comes_back_as_it_was(stored, tmp_path):
    job = job_of(stored, distillation={"targets": "online", "gold_share": 0.2})
    items = items_of(small_policy(0), recorded=True)
    step = (held_gold(items[:2], job.config), held_rehearsal(items[3:4], job.config))
    write_work(tmp_path, items, Anchors(by_step=(step,) * STEPS), job)
    job.write(tmp_path)
    assert Job.read(tmp_path) == job
    anchors = read_anchors(tmp_path, job.config)
    assert len(anchors.by_step) == STEPS
    for held, wanted in zip(anchors.by_step[3], step, strict=True):
        assert (held.metric, held.coefficient, held.config) == (wanted.metric, wanted.coefficient, wanted.config)
        assert [item.completion_ids for item in held.items] == [item.completion_ids for item in wanted.items]


def test_no_item_is_refused_before_a_process_starts(stored, tmp_path):
    with pytest.raises(TrainingError, match="no rollout is left"):
        write_work(tmp_path, [], Anchors(), job_of(stored))


def test_more_processes_than_completions_of_a_step_are_refused_by_field():
    with pytest.raises(ConfigError, match=r"execution\.ranks=6 .*optimizer\.batch_size=5"):
        config_of(Case({"execution": {"ranks": 6}}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_more_processes_than_devices_are_refused_by_field():
    ranks = torch.cuda.device_count() + 1
    with pytest.raises(ConfigError, match=rf"execution\.ranks={ranks}, but this machine has"):
        check_ranks(ranks, ModelConfig(source="tiny"))


def test_an_outline_says_what_the_policy_says(stored):
    policy, shape = load_policy(stored, ModelConfig(source="tiny"), torch.float32), outline(stored, ModelConfig(source="tiny"))
    assert shape.eos_ids == policy.eos_ids and shape.device.type == "meta"
    assert shape.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    sizes = [{name: tuple(p.shape) for name, p in made.model.named_parameters()} for made in (policy, shape)]
    assert sizes[0] == sizes[1]
    assert json.dumps(shape.causal_lm.config.to_dict()["vocab_size"])

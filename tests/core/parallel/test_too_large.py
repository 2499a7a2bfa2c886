"""pytest tests/core/parallel/test_too_large.py — two processes, of which one runs out of memory: the same loss, no step lost."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from opsd_core.errors import TrainingError
from opsd_core.models.policy import load_policy, save_policy
from opsd_core.teacher.parts import Models
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.anchors import Anchors, held_gold, held_rehearsal
from opsd_core.training.parallel.job import Job, StoredPolicy, write_work
from opsd_core.training.parallel.launcher import train_together
from opsd_core.training.trainer import Schedule, distil
from tests.core.parallel.cases import Case, config_of, items_of
from tests.core.small import small_policy

pytestmark = pytest.mark.timeout(300)
STEPS, MOST, TOKENS = 10, 100, 60
SMALL = Path(__file__).parent / "small_memory"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    save_policy(small_policy(0), folder)
    return folder


@pytest.fixture
def small_memory(monkeypatch, tmp_path):
    """Makes a process' memory too small, and tells how often it ran out of it."""

    def make(rank, tokens, steps):
        monkeypatch.syspath_prepend(SMALL)
        monkeypatch.setenv("SMALL_MEMORY", f"{rank}:{tokens}:{steps}")
        monkeypatch.setenv("FELL", str(tmp_path / "fell.txt"))
        return lambda: (tmp_path / "fell.txt").read_text().splitlines() if (tmp_path / "fell.txt").exists() else []

    return make


def job_of(stored: Path, parallel: str, **sections) -> Job:
    model = {"source": str(stored), "dtype": "float32", "device": "cpu"}
    execution = {"ranks": 2, "checkpoint_every": 4, "microbatch_tokens": MOST}
    changed = {"optimizer": {"num_steps": STEPS, "batch_size": 5, "learning_rate": 1e-3, "eps": 1e-7}}
    fixed = {"distillation": {"targets": "online"}, "model": model, "execution": execution}
    config = config_of(Case(fixed | changed | sections))
    return Job(config, Models(StoredPolicy(str(stored)), StoredPolicy("")), Schedule(0, STEPS), 3, parallel)


def alone(stored: Path, job: Job, items, anchors: Anchors, folder: Path):
    """The metrics of one process whose memory suffices; its state is in `folder`."""
    policy = load_policy(stored, job.config.model)
    log, teacher = [], FixedTeacher(load_policy(stored, job.config.model))
    save = distil(
        policy, teacher, items, job.config, job.schedule, job.seed, anchors=anchors, on_step=lambda step, m: log.append(m)
    )
    save(folder)
    return log


def compare(stored: Path, job: Job, items, anchors: Anchors, folder: Path) -> list[dict]:
    """Two processes against one; what the two said."""
    heard: list[dict] = []
    work = folder / "job"
    work.mkdir()
    write_work(work, items, anchors, job)
    train_together(job, work, 2, heard.append)
    steps = [event for event in heard if event["kind"] == "step"]
    wanted = alone(stored, job, items, anchors, folder / "one")
    assert [event["step"] for event in steps] == list(range(STEPS)), "every step is told once"
    for event, metrics in zip(steps, wanted, strict=True):
        for name in {"distillation/loss", "optim/grad_norm", *(n for n in metrics if n.startswith("anchor/"))}:
            assert event["metrics"][name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-6), name
    one, two = load_file(folder / "one" / "trainable.safetensors"), load_file(work / "state" / "trainable.safetensors")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= 1e-5
    return heard


def test_processes_that_share_weights_begin_again_at_the_last_checkpoint(stored, small_memory, tmp_path):
    fell = small_memory(rank=1, tokens=TOKENS, steps=6)
    items = items_of(small_policy(0), recorded=False)
    heard = compare(stored, job_of(stored, "fsdp"), items, Anchors(), tmp_path)
    (again,) = [event for event in heard if event["kind"] == "again"]
    assert again["microbatch_tokens"] <= TOKENS < MOST and len(fell()) == 1
    place = heard.index(again)
    assert (heard[place - 1]["step"], heard[place + 1]["step"]) == (6, 7), "the steps after step 4 are made again and not told"
    assert heard[-2]["metrics"]["execution/microbatch_tokens"] == again["microbatch_tokens"]
    assert [event["done"] for event in heard if event["kind"] == "checkpoint"] == [4, 8]


def test_a_process_with_all_weights_makes_its_own_microbatches_smaller(stored, small_memory, tmp_path):
    """It runs out of memory in the second of two anchors: what it adds up with the other is added up once."""
    job = job_of(stored, "ddp", distillation={"targets": "online", "gold_share": 0.2})
    plain, recorded = items_of(small_policy(0), recorded=False), items_of(small_policy(0), recorded=True)
    held = (held_gold(plain[3:4], job.config), held_rehearsal(recorded, job.config))
    anchors = Anchors(by_step=(held,) * STEPS)
    fell = small_memory(rank=1, tokens=58, steps=0)  # more than any part of a batch has, fewer than one of the second anchor
    heard = compare(stored, job, plain, anchors, tmp_path)
    assert len(fell()) == 1 and not [event for event in heard if event["kind"] == "again"]


@pytest.mark.slow
def test_what_smaller_microbatches_do_not_help_is_said_at_once(stored, small_memory, tmp_path):
    fell = small_memory(rank=0, tokens=4, steps=0)
    job = job_of(stored, "fsdp")
    items = items_of(small_policy(0), recorded=False)[6:7] * 11
    write_work(tmp_path, items, Anchors(), job)
    heard: list[dict] = []
    with pytest.raises(TrainingError, match=r"one completion of \d+ tokens.*execution\.gradient_checkpointing=true"):
        train_together(job, tmp_path, 2, heard.append)
    assert {event["kind"] for event in heard} == {"again"} and len(fell()) == len(heard) + 1

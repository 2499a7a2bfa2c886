"""What is trained on one process and on two, by `torch.distributed.run -m tests.core.parallel.cases FOLDER CASE-MODE ...`."""

import copy
import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from opsd_core.config import CampaignConfig, resolve
from opsd_core.models.policy import Policy, add_lora
from opsd_core.records.rollouts import Rollout
from opsd_core.teacher.log_linear import LogLinearTeacher, Member
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.scoring import score_targets
from opsd_core.teacher.teachers import AdapterOffTeacher, EmaTeacher, FixedTeacher, LiveTeacher
from opsd_core.training.anchors import Anchors, held_gold
from opsd_core.training.items import TrainingItem
from opsd_core.training.ranks import Ranks
from opsd_core.training.trainer import Schedule, distil
from tests.core.small import small_policy

STEPS = 20
TEXTS = [
    ("12+3", "4=x"), ("a", "bcdefgh"), ("what is 7 ?", "seven"), ("q", "r"), ("7+8=", "15 or so"), ("what is 99 ?", "no"),
    ("8-1=", "seven it is, i am sure of it"), ("k", "l"), ("what is it ?", "that"), ("one", "two three four five"), ("x", "."),
]  # fmt: skip


class Case(NamedTuple):
    """One training run."""

    overrides: dict[str, Any]
    teacher: str = "fixed"
    tied: bool = True
    modes: tuple[str, ...] = ("ddp", "fsdp")
    anchored: bool = False


def _online(**sections: Any) -> dict[str, Any]:
    return {"distillation": {"targets": "online"} | sections.pop("distillation", {})} | sections


_LORA = {"lora": {"rank": 4, "alpha": 8.0}}
CASES = {
    "full-tied": Case(_online()),
    "full-untied": Case(_online(), tied=False),
    "recorded": Case({"distillation": {"targets": "recorded", "top_k": 8}}),
    "ema": Case(_online(), "ema"),
    "trust-region": Case(_online(), "trust_region", modes=("fsdp",)),
    "live": Case(_online(), "live", modes=("fsdp",)),
    "adapters": Case(_online(model=_LORA)),
    "adapters-ema": Case(_online(model=_LORA), "ema"),
    "adapters-on-the-ends": Case(_online(model={"lora": _LORA["lora"] | {"target_modules": "lm_head,q_proj"}}), "ema"),
    "adapter-off": Case(_online(model=_LORA), "adapter_off", modes=("fsdp",)),
    "opsa": Case({"distillation": {"divergence": "opsa", "targets": "online"}}, modes=("ddp",)),
    "anchors": Case(_online(distillation={"initial_kl": 0.1, "gold_share": 0.2}), anchored=True),
    "importance": Case(_online(token_weights={"importance_correction": True}), modes=("fsdp",)),
    "noise": Case(_online(teacher={"student_noise": 2.0}), modes=("fsdp",)),
    "again": Case(_online(execution={"gradient_checkpointing": True}), modes=("fsdp",)),
}  # fmt: skip


def config_of(case: Case) -> CampaignConfig:
    """Small microbatches: several rounds, and other numbers of them on each process."""
    base = {
        "control": True,
        "optimizer": {"num_steps": STEPS, "batch_size": 5, "learning_rate": 1e-3, "eps": 1e-7},
        "execution": {"checkpoint_every": 8, "microbatch_tokens": 40},
        "rollout": {"max_completion_length": 32},
    }
    return resolve("tiny", base, case.overrides)


def items_of(policy: Policy, recorded: bool) -> list[TrainingItem]:
    """Ragged items, some of whose tokens do not count."""
    encode, made = policy.tokenizer.encode, []
    for number, (prompt, completion) in enumerate(TEXTS):
        ids, hinted, tokens = encode(prompt), encode("9|" + prompt), encode(completion)
        target, zeros = None, np.zeros((len(tokens), 1), np.float32)
        if recorded:
            flat = zeros[:, 0]
            rollout = Rollout(prompt, 0, 0, ids, tokens, completion, "eos", flat, flat, zeros, zeros, flat, flat)
            (target,) = score_targets(FixedTeacher(small_policy(7)), [rollout], [hinted], 8, Transform(), 64)
        weights = np.linspace(0.5, 1.5, len(tokens), dtype=np.float32)
        weights[number % 3 :: 4] = 0.0 if len(tokens) > 3 else 1.0
        old, entropy = -np.linspace(0.1, 2, len(tokens), dtype=np.float32), zeros[:, 0] + number
        made.append(TrainingItem(ids, hinted, tokens, old, weights, target, ("e", number), entropy))
    return made


def run(
    case: Case,
    ranks: Ranks,
    on_checkpoint: Callable[[int, Callable[[Path], None]], None] | None = None,
    resume_from: Path | None = None,
) -> tuple[Callable[[Path], None], list[dict[str, float]]]:
    """Train; the function that saves the end, and every step's metrics."""
    from opsd_core.models.checkpointing import checkpoint_gradients

    config, log = config_of(case), []
    policy = small_policy(0, tied=case.tied)
    shadow = copy.deepcopy(policy)
    if config.model.lora.rank:
        policy = add_lora(policy, config.model.lora, seed=1)
    if config.execution.gradient_checkpointing:
        checkpoint_gradients(policy)
    teacher = {
        "fixed": lambda: FixedTeacher(small_policy(7, tied=case.tied)),
        "ema": lambda: EmaTeacher(shadow, 0.9),
        "trust_region": lambda: LogLinearTeacher([Member(FixedTeacher(small_policy(7)), 0.7), Member(LiveTeacher(policy), 0.3)]),
        "live": lambda: LiveTeacher(policy),
        "adapter_off": lambda: AdapterOffTeacher(policy),
    }[case.teacher]()
    items = items_of(policy, config.distillation.records_targets)
    held = held_gold([items[1], items[4]], config) if case.anchored else None
    anchors = Anchors(FixedTeacher(small_policy(5)), tuple((held,) for _ in range(STEPS))) if held else Anchors()
    save = distil(
        policy, teacher, items, config, Schedule(0, STEPS), 3, anchors=anchors, ranks=ranks, resume_from=resume_from,
        on_step=lambda _, metrics: log.append(metrics), on_checkpoint=on_checkpoint,
    )  # fmt: skip
    return save, log


def main(folder: Path, only: Collection[str]) -> None:
    """The cases `only`, each named with its mode, in one process group; states and metrics go into `folder`."""
    import torch.distributed as dist

    from opsd_core.training.parallel.together import DataParallel, FullySharded

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name, case in CASES.items():
        for mode in case.modes:
            if f"{name}-{mode}" not in only:
                continue
            place = folder / f"{name}-{mode}"
            keep = lambda done, save, place=place: save(place / str(done))  # noqa: E731
            before = folder / f"{name}-one" / "8"
            save, log = run(case, DataParallel() if mode == "ddp" else FullySharded(), keep)
            save(place / "end")
            _, rest = run(case, DataParallel() if mode == "ddp" else FullySharded(), None, before)
            if dist.get_rank() == 0:
                (place / "log.json").write_text(json.dumps(log))
                (place / "resumed.json").write_text(json.dumps(rest))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

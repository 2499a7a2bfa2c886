"""Memory of each process while a model is read and laid out for training in parts: student in float32, and a fixed teacher.

python -m benchmarks.scale.parts                # in parts
python -m benchmarks.scale.parts --whole        # every process reads all of it first
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from opsd_core.config import ModelConfig
from opsd_core.models.cut import Cut
from opsd_core.models.policy import Policy, load_policy, save_policy
from opsd_core.models.tiny import tiny_tokenizer
from opsd_core.teacher.teachers import FixedTeacher
from opsd_core.training.parallel.together import FullySharded

SHAPE = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 20, "num_attention_heads": 16, "vocab_size": 8_000,
    "num_key_value_heads": 16, "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip


def write(folder: Path) -> int:
    """A random Llama in bfloat16; its number of parameters."""
    tokenizer, dtype = tiny_tokenizer(), torch.bfloat16
    config = LlamaConfig(**SHAPE, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model = LlamaForCausalLM(config).to(dtype).eval()
    save_policy(Policy(model, tokenizer), folder)
    return sum(weight.numel() for weight in model.parameters())


def status(name: str) -> int:
    """A line of what the kernel says of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


class Watched:
    """Most bytes of this process' own memory (not that of files) above what it held at the start, looked at every 2 ms."""

    def __enter__(self) -> "Watched":
        self.before, self.peak, self._ended = status("RssAnon"), 0, threading.Event()
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's own peak begins anew
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            self.peak = max(self.peak, status("RssAnon") - self.before)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.held = status("RssAnon") - self.before
        self.all_pages = status("VmHWM") - self.before


def measure(folder: Path, whole: bool) -> None:
    """What a process does before its first step."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, config = dist.get_rank(), ModelConfig(source=str(folder), device="cpu", dtype="bfloat16")
    cut = None if whole else Cut(rank, dist.get_world_size())
    FullySharded()  # loads what it imports
    began = time.perf_counter()
    with Watched() as seen:
        with Watched() as read:
            student, teacher = load_policy(folder, config, torch.float32, cut), load_policy(folder, config, None, cut)
        FullySharded().prepare(student, FixedTeacher(teacher))
    row = [f"{part / 1e6:.0f}" for part in (read.peak, read.all_pages, seen.peak, seen.held)]
    print(f"| {'whole' if whole else 'in parts'} | {rank} | {' | '.join(row)} | {time.perf_counter() - began:.1f} |", flush=True)
    dist.destroy_process_group()


def main() -> None:
    """The table of one way of reading."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--whole", action="store_true")
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.folder:
        measure(given.folder, given.whole)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"{write(Path(folder)):,} parameters")
        titles = ("read", "process", "own memory while it is read, MB", "with files' pages", "until it is laid out", "held", "s")
        print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|", flush=True)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={given.processes}"]
        command += ["-m", "benchmarks.scale.parts", "--folder", folder, *(["--whole"] if given.whole else [])]
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        subprocess.run(command, env=os.environ | quiet, check=True)


if __name__ == "__main__":
    main()

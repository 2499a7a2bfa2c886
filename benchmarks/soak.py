"""100 tiny iterations in one process against the real servers: memory, descriptors, disk and artifacts per iteration.

python benchmarks/soak.py [--iterations 100] [--every 10] [--csv soak.csv]
"""

import argparse
import csv
import ctypes
import gc
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from infra import processes
from infra.lifecycle import down, up
from infra.state import open_state

TINY = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_steps": 1, "warmup_steps": 1}
OVERRIDES = {
    "data": {"size": 200, "validation_fraction": 0.2, "test_fraction": 0.1},
    "rollout": {"num_prompts": 4, "max_completion_length": 2},
    "optimizer": {"num_steps": 1, "batch_size": 4},
    "execution": {"rollout_batch_size": 4, "evaluation_batch_size": 5, "checkpoint_every": 1},
    "evaluation": {"num_items": 5, "max_completion_length": 2},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--every", type=int, default=10, help="print a row after so many iterations")
    parser.add_argument("--csv", type=Path, help="write every sample there")
    options = parser.parse_args()
    state = open_state(Path(tempfile.mkdtemp(prefix="opsd-soak-")))
    try:
        os.environ.update(state.write_env({}))
        up(state, os.environ, worker=False)
        samples = soak(state, options.iterations, options.csv)
    finally:
        down(state)
        shutil.rmtree(state.root, ignore_errors=True)
    report(samples, options.every)


def soak(state, iterations: int, path: Path | None) -> list[dict[str, float]]:
    """One campaign; a thread takes a sample whenever another verdict is in the store, and keeps it in `path`."""
    from flows.iterate import iterate
    from opsd_core.models.tiny import TinySettings, build_tiny
    from tasks.context import store

    model = build_tiny(state.root / "model", settings=TinySettings(**TINY))
    samples, ended, started = [], threading.Event(), time.monotonic()

    def take(done: int) -> None:
        samples.append({"iteration": done, "seconds": time.monotonic() - started} | sample(state, store()))
        if path:
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, samples[0])
                if len(samples) == 1:
                    writer.writeheader()
                writer.writerow({name: f"{value:.6g}" for name, value in samples[-1].items()})

    def watch() -> None:
        while not ended.wait(0.2):
            done = sum(info.key.endswith("/MANIFEST.json") for info in store().list("verdicts/"))
            if done > len(samples):
                take(done)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        iterate(
            recipe="tiny", name="soak", iterations=iterations, overrides=OVERRIDES | {"model": {"source": str(model)}}
        )
    finally:
        ended.set()
        watcher.join()
    take(iterations)
    return samples


def sample(state, store) -> dict[str, float]:
    """Figures of this process, its local folders, the store and the servers."""
    me, heap = psutil.Process(), _mallinfo()
    objects = [info for info in store.list("") if not info.key.startswith(("leases/", "mlflow/"))]
    figures = {
        "rss_mb": me.memory_info().rss / 1e6,
        "heap_mb": (heap.uordblks + heap.hblkhd) / 1e6,
        "free_heap_mb": heap.fordblks / 1e6,
        "objects": len(gc.get_objects()),
        "descriptors": me.num_fds(),
        "threads": me.num_threads(),
        "children": len(me.children(recursive=True)),
        "cache_mb": _bytes_below(state.root / "cache") / 1e6,
        "cache_entries": len(list((state.root / "cache").iterdir())),
        "artifacts": sum(info.key.endswith("/MANIFEST.json") for info in objects),
        "store_mb": sum(info.size for info in objects) / 1e6,
    }
    for server in ("prefect", "mlflow", "s3"):
        members = processes.family(state.root, server)
        figures[f"{server}_rss_mb"] = sum(member.memory_info().rss for member in members) / 1e6
        figures[f"{server}_disk_mb"] = _bytes_below(state.root / server) / 1e6
    return figures


class _Heap(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def _mallinfo() -> _Heap:
    """What glibc's allocator holds: in use (uordblks, hblkhd) and free but not returned (fordblks)."""
    call = ctypes.CDLL("libc.so.6").mallinfo2
    call.restype = _Heap
    return call()


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def report(samples: list[dict[str, float]], every: int) -> None:
    """A table of some samples, and the growth per iteration over the second half."""
    names = list(samples[0])
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for number, row in enumerate(samples):
        if number == 0 or (number + 1) % every == 0:
            print("| " + " | ".join(f"{row[name]:.4g}" for name in names) + " |")
    half = samples[len(samples) // 2 :]
    slopes = {
        name: statistics.linear_regression([s["iteration"] for s in half], [s[name] for s in half]) for name in names
    }
    print("per iteration, second half: " + ", ".join(f"{name} {slopes[name].slope:+.4g}" for name in names[1:]))


if __name__ == "__main__":
    sys.exit(main())

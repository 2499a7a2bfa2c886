"""One table of several runs of the same study, such as one seed after the other on machines that do not last.

python -m benchmarks.claim.merged benchmarks/claim/results/*.jsonl

Reads the files `items.jsonl` that `opsd study` leaves and compares every arm with base on the same items, over seeds and items
as a study's own report does. Equal lines of several files count once; lines that contradict each other are refused.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from opsd_core.study.compare import compare, stacked

Key = tuple[str, int]


def read(files: list[Path]) -> tuple[dict[Key, dict[str, Any]], dict[Key, dict[str, list[float]]]]:
    """(arm, seed) -> item -> its line, and (arm, seed) -> set -> its values."""
    items: dict[Key, dict[str, Any]] = defaultdict(dict)
    sets: dict[Key, dict[str, list[float]]] = defaultdict(dict)
    for file in files:
        for line in file.read_text().splitlines():
            row = json.loads(line)
            key = row["arm"], row["seed"]
            held, name = (sets, row["set"]) if "set" in row else (items, row["item"])
            value = row["values"] if "set" in row else row
            if held[key].setdefault(name, value) != value:
                raise SystemExit(f"{file}: {key} has other values of {name!r} than a file before. Merge runs of one study.")
    return items, sets


def table(files: list[Path]) -> str:
    """The rows of all arms: accuracies and what they differ by from base, in points with 95 % intervals."""
    items, sets = read(files)
    base = next(rows for (arm, _), rows in items.items() if arm == "base")
    columns = ["arm", "seeds", "greedy, %", "against base", "sampled, %", "against base", "tokens", *sorted(_sets(sets))]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for arm in dict.fromkeys(arm for arm, _ in items):
        seeds = sorted(seed for name, seed in items if name == arm)
        cells = [f"`{arm}`", ", ".join(map(str, seeds)) if arm != "base" else ""]
        for measure in ("greedy", "sampled"):
            mine = stacked([[float(items[arm, seed][item][measure]) for item in base] for seed in seeds])
            theirs = np.tile([float(row[measure]) for row in base.values()], (len(seeds), 1))
            cells += [f"{100 * mine.mean():.1f}", "" if arm == "base" else _points(mine, theirs)]
        cells.append(f"{np.mean([items[arm, seed][item]['tokens'] for seed in seeds for item in base]):.1f}")
        cells += [f"{np.mean([sets[arm, seed][name] for seed in seeds]):.3f}" for name in sorted(_sets(sets))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _sets(sets: dict[Key, dict[str, list[float]]]) -> set[str]:
    return {name for found in sets.values() for name in found}


def _points(mine: np.ndarray, theirs: np.ndarray) -> str:
    found = compare(mine, theirs)
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}], p {found.p_value:.3f}"


if __name__ == "__main__":
    print(table([Path(name) for name in sys.argv[1:]]))

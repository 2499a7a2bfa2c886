"""What bites: of each setting that an arm changes, how many tokens and completions it altered; and how accuracies come about.

A setting that alters next to nothing explains no difference, whatever the interval says (SimOPD: after the end tokens were
merged a clip of 10 touched .3 % of tokens). Shares are means over iterations and seeds (`opsd_core.training.bites`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from opsd_core.config import CampaignConfig
from opsd_core.records.outcomes import ItemOutcome
from opsd_core.study.page import Part, Table

MEASURED: dict[str, str] = {
    "distillation.bound": "bound",
    "distillation.bound_threshold": "bound",
    "distillation.merge_stop": "stop",
    "distillation.skip_first_tokens": "weights",
    "token_weights.importance_correction": "importance",
    "token_weights.importance_clip": "importance",
    "token_weights": "weights",
    "filter": "dropped",
    "teacher.missing_context": "no_context",
    "teacher.min_agreement": "no_context",
    "teacher.only_unsuccessful": "no_context",
}
"""Setting or section -> bite/* that measures what it altered; the longest name that fits is taken."""
EVERYWHERE = ("distillation", "teacher", "prompts", "rollout", "model", "optimizer", "rehearsal", "data", "curriculum")
"""Sections whose other settings bear on every token, through the target, the weights or what is sampled."""
_HARDLY = 0.01
_NO_CONTEXT = ("no_context", "teacher_prompt_too_long")


def dropped_shares(kept: int, dropped: int, reasons: Mapping[str, int]) -> dict[str, float]:
    """bite/dropped_completions, bite/no_context_completions: shares of an iteration's completions; {} without any."""
    if not kept + dropped:
        return {}
    missing = sum(reasons.get(name, 0) for name in _NO_CONTEXT)
    shares = {"dropped": dropped, "no_context": missing}
    return {f"bite/{name}_completions": number / (kept + dropped) for name, number in shares.items()}


def changed_settings(base: CampaignConfig, arm: CampaignConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ between two configurations, by path; names, seeds and how work is done are no settings of a method."""
    left_out = {"name", "seed", "execution", "control"}
    before, after = (_flat(config.model_dump(mode="json", exclude=left_out)) for config in (base, arm))
    return {path: (before.get(path), after.get(path)) for path in after if before.get(path) != after[path]}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def bite_rows(
    arm: str, changes: Mapping[str, tuple[Any, Any]], bites: Sequence[Mapping[str, float]]
) -> list[dict[str, Any]]:
    """One row per changed setting: arm, setting, before, after, and shares of tokens and completions; None = not measured."""
    rows = []
    for path, (before, after) in sorted(changes.items()):
        fitting = [name for name in MEASURED if path == name or path.startswith(f"{name}.")]
        name = MEASURED[max(fitting, key=len)] if fitting else ""
        shares = {unit: _mean([b[f"bite/{name}_{unit}"] for b in bites if f"bite/{name}_{unit}" in b]) for unit in _UNITS}
        if not name and path.partition(".")[0] in EVERYWHERE and bites:
            shares = dict.fromkeys(_UNITS, 1.0)
        rows.append({"arm": arm, "setting": path, "before": before, "after": after, **shares})
    return rows


_UNITS = ("tokens", "completions")


def finish_rows(arm: str, by_seed: Sequence[Sequence[ItemOutcome]]) -> list[dict[str, Any]]:
    """accuracy = P(finish) x accuracy if finished + (1 - P(finish)) x accuracy if cut, greedy and sampled, over all seeds."""
    rows = []
    for mode in ("greedy", "sampled"):
        outcomes = [o for outcomes in by_seed for o in outcomes if o.mode == mode]
        graded = [o for o in outcomes if o.correct is not None]
        if not graded:
            continue
        whole, cut = ([float(o.correct) for o in graded if o.truncated is wanted] for wanted in (False, True))
        rows.append(
            {
                "arm": arm,
                "mode": mode,
                "accuracy": _mean(whole + cut),
                "finish": len(whole) / len(graded),
                "if_finished": _mean(whole),
                "if_cut": _mean(cut),
            }
        )
    return rows


def opposed(differences: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Arms whose greedy and sampled accuracy moved to different sides of their reference."""
    by = {(row["arm"], row["reference"], row["metric"]): row for row in differences}
    found = []
    for (arm, reference, metric), row in by.items():
        sampled = by.get((arm, reference, "avg@k"))
        if metric == "accuracy" and sampled is not None and row["mean"] * sampled["mean"] < 0:
            found.append({"arm": arm, "reference": reference, "greedy": row["mean"], "sampled": sampled["mean"]})
    return found


def bite_sentences(numbers: Mapping[str, Any]) -> list[str]:
    """What hardly bites, and where greedy and sampled accuracy disagree."""
    lines = [
        f"{row['arm']}: {row['setting']}={row['after']} altered {_percent(share)} of {unit}: no difference is owed to it."
        for row in numbers.get("bites", ())
        for unit, share in [_widest(row)]
        if share is not None and share < _HARDLY
    ]
    return lines + [
        f"{row['arm']}: greedy accuracy moved by {100 * row['greedy']:+.1f} points against {row['reference']}, sampled accuracy "
        f"by {100 * row['sampled']:+.1f}: their signs differ, so neither says alone whether it helped."
        for row in numbers.get("opposed", ())
    ]


def bite_parts(numbers: Mapping[str, Any]) -> list[Part]:
    """The two tables of a report; nothing where nothing is known."""
    parts = []
    if numbers.get("bites"):
        body = [
            [r["arm"], r["setting"], str(r["before"])[:60], str(r["after"])[:60], *(_share(r[unit]) for unit in _UNITS)]
            for r in numbers["bites"]
        ]
        head = ["arm", "setting", "in the recipe", "in the arm", "tokens altered", "completions altered"]
        note = (
            "Of every setting that an arm changes, the share of completion tokens and of completions that it altered, mean over "
            "steps, iterations and seeds. Settings of the target, the prompts and the samples bear on all; '?' = not measured."
        )
        parts.append(Part("What bites", [note], table=Table(head, body)))
    if numbers.get("finish"):
        against = {(row["arm"], row["reference"]) for row in numbers.get("opposed", ())}
        names = ("accuracy", "finish", "if_finished", "if_cut")
        body = [
            [r["arm"], r["mode"], *(r[name] for name in names), "signs differ" if (r["arm"], "base") in against else ""]
            for r in numbers["finish"]
        ]
        head = ["arm", "decoding", "accuracy", "P(finish)", "accuracy if finished", "accuracy if cut", "greedy against sampled"]
        note = (
            "accuracy = P(finish) x accuracy if finished + P(cut) x accuracy if cut: what is lost to completions that are cut is "
            "no loss of skill. Greedy stands beside sampled accuracy; the row says where they moved to different sides of base."
        )
        parts.append(Part("Finishing and being right", [note], table=Table(head, body)))
    return parts


def _widest(row: Mapping[str, Any]) -> tuple[str, float | None]:
    """Tokens where these were measured, else completions."""
    unit = "tokens" if row["tokens"] is not None else "completions"
    return unit, row[unit]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _share(share: float | None) -> str:
    return "?" if share is None else _percent(share)

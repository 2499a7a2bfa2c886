"""The report of a study: its numbers arranged for a reader."""

from collections.abc import Mapping, Sequence
from typing import Any

from opsd_core.judgement.statistics import wilson
from opsd_core.records.outcomes import ItemOutcome
from opsd_core.study import figures
from opsd_core.study.bites import bite_parts
from opsd_core.study.page import ExamplePair, Part, Table, interval, page
from opsd_core.study.tables import REFERENCES, StudyData
from opsd_core.study.words import outside, sentences

_SHOWN_EXAMPLES = 5


def render(
    title: str, subtitle: str, data: StudyData, numbers: Mapping[str, Any], positions: Mapping[str, Any], footer: str
) -> str:
    """The whole page; `positions` has curves along the completion: {"entropy": {arm: values}, "kl": {arm: values}}."""
    styles = figures.Styles(list(data.arms))
    parts = [
        Part("In words", sentences(numbers)),
        _accuracy(numbers),
        _against(numbers, styles),
        Part(
            "Learning curves",
            ["Mean over seeds; the band is their range. Validation chose the checkpoint that the test split measured."],
            [("learning curves", figures.learning_curves(numbers["arms"], data.start_accuracy, styles))],
        ),
        _costs(numbers),
        *bite_parts(numbers),
    ]
    if numbers["sets"]:
        parts.append(_sets(numbers))
    parts += _teachers(numbers) + _claims(numbers, data, styles)
    parts.append(_properties(data, positions, styles))
    parts += _examples(data)
    return page(title, subtitle, parts, footer)


def _accuracy(numbers: Mapping[str, Any]) -> Part:
    names = ("accuracy", "mean_length", "truncated_fraction", "answer_diversity", "distinct_answers")
    found = {name for arm in numbers["arms"] for name in arm["metrics"]}
    sampled = sorted(
        n for n in found if n.startswith(("eval/avg@", "eval/pass@", "eval/maj@")) and not n.endswith("_se")
    )
    columns = [*(f"eval/{name}" for name in names if f"eval/{name}" in found), *sampled]
    rows = [
        [
            arm["name"],
            len(arm["seeds"]),
            ", ".join("–" if a is None else f"{a:.3f}" for a in arm["accuracy_by_seed"].values()),
            _share_interval(arm["metrics"].get("eval/accuracy"), numbers["num_items"]),
            *(arm["metrics"].get(name) for name in columns),
        ]
        for arm in numbers["arms"]
    ]
    rows.append(["(commonest answer alone)", "", "", "", numbers["constant_accuracy"], *[None] * (len(columns) - 1)])
    head = ["arm", "seeds", "accuracy by seed", "95 % by items", *(name.removeprefix("eval/") for name in columns)]
    return Part(f"Test split, {numbers['num_items']} items", table=Table(head, rows))


def _share_interval(share: float | None, items: int) -> str:
    """Wilson's interval of a mean accuracy by the items it was measured on; which seeds were drawn is not in it."""
    return "" if share is None else "[{:.3f}, {:.3f}]".format(*wilson(share * items, items))


def _against(numbers: Mapping[str, Any], styles: figures.Styles) -> Part:
    rows = numbers["differences"]
    body = [
        [
            row["arm"],
            row["reference"],
            row["metric"],
            interval(row),
            "; ".join(f"{100 * m:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for m, low, high in row["within_seeds"]),
            f"{row['p_value']:.2g}",
            outside(row),
        ]
        for row in rows
    ]
    head = ["arm", "against", "metric", "points, over seeds and problems", "within each seed", "p", "outside noise"]
    plots = []
    accuracy = [row | {"label": row["arm"]} for row in rows if row["metric"] == "accuracy"]
    for kind in REFERENCES:
        if chosen := [row for row in accuracy if row["reference"].partition(":")[0] == kind]:
            plots.append((f"against {kind}", figures.forest(chosen, f"accuracy minus {kind}'s", styles)))
    note = (
        "Problems and seeds are resampled together; the columns within a seed resample problems alone and say whether that "
        "one model differs, not whether the method does. Outside noise needs both: an interval without 0, and Holm's procedure "
        "over all rows for accuracy, which asks for a smaller p the more rows there are. The interval is a bootstrap's and p is "
        "Student's, so that near the border one can say what the other does not; such rows say which. Other rows are not tested."
    )
    return Part("Differences", [note], plots, Table(head, body, [row["outside_noise"] for row in rows]))


def _costs(numbers: Mapping[str, Any]) -> Part:
    names = (
        ("generated_tokens", "generated tokens", 1.0),
        ("teacher_tokens", "teacher tokens", 1.0),
        ("trained_tokens", "trained tokens", 1.0),
        ("seconds", "seconds", 1.0),
        ("rollout_seconds", "of these sampling", 1.0),
        ("distil_seconds", "training", 1.0),
        ("peak_bytes", "peak memory (MB)", 1e-6),
        ("stored_bytes", "stored (MB)", 1e-6),
    )
    rows = [
        [arm["name"], *(arm["costs"][name] * scale if name in arm["costs"] else None for name, _, scale in names)]
        for arm in numbers["arms"]
        if arm["costs"]
    ]
    note = (
        "Mean per seed, as if the arm had run alone: shared artifacts count for every arm that uses "
        "them. Peak memory is the whole process's, libraries included."
    )
    return Part("Costs", [note], table=Table(["arm", *(title for _, title, _ in names)], rows))


def _teachers(numbers: Mapping[str, Any]) -> list[Part]:
    """Arms named WEIGHTS.CONTEXT as a grid; an arm without a measurement says that it could not be trained."""
    grid = {tuple(arm["name"].split(".")): arm for arm in numbers["arms"] if arm["name"].count(".") == 1}
    weights, contexts = (list(dict.fromkeys(name[axis] for name in grid)) for axis in (0, 1))
    if len(weights) < 2 or len(contexts) < 2:
        return []
    against = {row["arm"]: row for row in numbers["differences"] if (row["reference"], row["metric"]) == ("base", "accuracy")}

    def cell(name: tuple[str, str]) -> str | None:
        arm = grid.get(name)
        if arm is None or "eval/accuracy" not in arm["metrics"]:
            return None if arm is None else "not trained"
        return f"{100 * arm['metrics']['eval/accuracy']:.1f} ({interval(against[arm['name']])})"

    rows = [[context, *(cell((weight, context)) for weight in weights)] for context in contexts]
    note = "Accuracy in percent and points against base. Not trained: refused by a probe, or no completion was left to train on."
    return [Part("Teachers: weights and contexts", [note], table=Table(["context", *weights], rows))]


def _claims(numbers: Mapping[str, Any], data: StudyData, styles: figures.Styles) -> list[Part]:
    """Cost, steps, labelled examples, generalisation: one figure each, where the study has what it needs."""
    parts = []
    arms = {arm["name"]: arm for arm in numbers["arms"]}
    costs = {name: arm["costs"] for name, arm in arms.items() if arm["costs"]}
    if costs:
        shown = {
            "seconds": lambda cost: cost["seconds"],
            "tokens generated and scored": lambda cost: cost["generated_tokens"] + cost["teacher_tokens"],
            "peak memory (MB)": lambda cost: cost["peak_bytes"] / 1e6,
        }
        seeds = {name: list(data.arms[name].costs.values()) for name in costs}
        bars = {
            title: {name: _range([of(cost) for cost in per_seed]) for name, per_seed in seeds.items()}
            for title, of in shown.items()
        }
        parts.append(Part("(a) Cost", ["Whiskers: range of the seeds."], [("cost", figures.bars(bars, styles))]))
    if numbers["by_steps"]:
        series = {name: [tuple(row[:4]) for row in rows] for name, rows in numbers["by_steps"].items()}
        figure = figures.lines(series, "steps of the item", styles)
        parts.append(Part("(b) Accuracy by number of steps", ["Bands: range of the seeds."], [("steps", figure)]))
    if labels := _by_labels(numbers):
        figure = figures.lines(labels, "labelled examples", styles, log_x=True)
        parts.append(Part("(c) Labelled examples", ["Bands: range of the seeds."], [("labels", figure)]))
    general = shares_by_set(numbers)
    if len(general) > 1:
        note = (
            "Whiskers: Wilson's interval by the set's items, of a mean over seeds too; differences are in the tables. "
            "No bar: not trained."
        )
        plot = ("general", figures.bars(general, styles))
        parts.append(Part("(d) In distribution, shifted, other families", [note], [plot]))
    return parts


def shares_by_set(numbers: Mapping[str, Any]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Set -> arm -> (share of right answers, low, high): the test split, sets near the task, other families."""
    test, items = {arm["name"]: arm["metrics"].get("eval/accuracy") for arm in numbers["arms"]}, numbers["num_items"]
    found = {"test split": {name: (share, *wilson(share * items, items)) for name, share in test.items() if share is not None}}
    for row in numbers["sets"]:
        if row["role"] in ("shifted", "other"):
            size, of_set = row["num_problems"], found.setdefault(row["title"], {})
            for name, share in (("base", row["base_value"]), (row["arm"], row["value"])):
                of_set[name] = (share, *wilson(share * size, size))
    return found


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    return sum(values) / len(values), min(values), max(values)


def _by_labels(numbers: Mapping[str, Any]) -> dict[str, list[tuple[float, float, float, float]]]:
    series: dict[str, list[tuple[float, float, float, float]]] = {}
    for arm in numbers["arms"]:
        kind, _, number = arm["name"].partition(":")
        values = [value for value in arm["accuracy_by_seed"].values() if value is not None]
        if number and values:
            point = (float(number), sum(values) / len(values), min(values), max(values))
            series.setdefault(kind, []).append(point)
    return {kind: sorted(points) for kind, points in series.items()}


def _sets(numbers: Mapping[str, Any]) -> Part:
    rows = numbers["sets"]
    body = [
        [
            *(r[name] for name in ("title", "role", "arm", "base_value", "value")),
            f"{r['mean']:+.3f}",
            f"[{r['low']:+.3f}, {r['high']:+.3f}]",
            outside(r),
        ]
        for r in rows
    ]
    head = ["set", "role", "arm", "base", "after", "difference", "interval", "outside noise"]
    note = "Shares of items, or mean log-likelihood per token in nats where the set is text. Negative = lost."
    return Part("Forgetting and transfer", [note], table=Table(head, body, [r["outside_noise"] for r in rows]))


def _properties(data: StudyData, positions: Mapping[str, Any], styles: figures.Styles) -> Part:
    by_arm = {
        name: [o.num_tokens for outcomes in arm.outcomes.values() for o in outcomes if o.mode == "greedy"]
        for name, arm in data.arms.items()
        if arm.outcomes
    }
    plots = [("lengths", figures.lengths(by_arm, styles))]
    if positions.get("entropy"):
        plots.append(
            (
                "entropy",
                figures.along_positions(positions["entropy"], "entropy of the last iteration's rollouts", styles),
            )
        )
    if positions.get("kl"):
        plots.append(
            (
                "kl",
                figures.along_positions(positions["kl"], "KL(student || teacher), last iteration's rollouts", styles),
            )
        )
    return Part("Lengths, entropy, divergence", figures=plots)


def _examples(data: StudyData) -> list[Part]:
    """Of every arm's first seed: items it newly gets right, and items it newly gets wrong."""
    questions = {example.id: example for example in data.examples}
    before = _greedy(next(iter(data.arms["base"].outcomes.values())))
    parts = []
    for name, arm in data.arms.items():
        if arm.role == "base" or not arm.outcomes:
            continue
        after = _greedy(arm.outcomes[min(arm.outcomes)])
        changed = [key for key in before if before[key].correct != after[key].correct]
        for title, right in (("newly right", True), ("newly wrong", False)):
            keys = [key for key in changed if after[key].correct == right]
            pairs = [
                ExamplePair(
                    questions[key].question,
                    questions[key].answer,
                    before[key].text,
                    before[key].correct,
                    after[key].text,
                    after[key].correct,
                )
                for key in keys[:_SHOWN_EXAMPLES]
            ]
            if pairs:
                parts.append(Part(f"{name}: {len(keys)} {title}, seed {min(arm.outcomes)}", examples=pairs))
    return parts


def _greedy(outcomes: Sequence[ItemOutcome]) -> dict[str, ItemOutcome]:
    return {o.example_id: o for o in outcomes if o.mode == "greedy"}

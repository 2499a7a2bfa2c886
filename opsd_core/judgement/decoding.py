"""Greedy and sampled answers side by side, and what accuracy is made of: answers that end, and those of them that are right.

Forward KL and JSD were seen to lower greedy accuracy while sampled accuracy rose by .2 and more: one of them alone misleads.

    accuracy = P(finished) P(right | finished) + P(cut) P(right | cut)
"""

from collections.abc import Mapping

Metrics = Mapping[str, float]


def sampled_metric(metrics: Metrics) -> str | None:
    """Name of the accuracy of sampled answers, eval/avg@n; None without samples or without labels."""
    return next((name for name in metrics if name.startswith("eval/avg@") and not name.endswith("_se")), None)


def decoding_disagreement(before: Metrics, after: Metrics) -> dict[str, float]:
    """gate/decoding_disagreement: 1 where greedy and sampled accuracy changed in opposite directions; {} without both."""
    name = sampled_metric(after)
    if name is None or name not in before or not {"eval/accuracy"} <= before.keys() & after.keys():
        return {}
    greedy, sampled = (after[metric] - before[metric] for metric in ("eval/accuracy", name))
    return {"gate/decoding_disagreement": float(greedy * sampled < 0.0)}


def disagreement_in_words(before: Metrics, after: Metrics) -> list[str]:
    """One sentence where greedy and sampled accuracy changed in opposite directions."""
    if not decoding_disagreement(before, after).get("gate/decoding_disagreement"):
        return []
    name = sampled_metric(after)
    changes = [100 * (after[metric] - before[metric]) for metric in ("eval/accuracy", name)]
    return [
        f"Greedy accuracy changed by {changes[0]:+.1f} points and sampled accuracy by {changes[1]:+.1f}: decide which is used "
        "(promotion.test=bootstrap with evaluation.num_samples judges on samples, mcnemar on greedy answers)."
    ]


def decoding_rows(before: Metrics, after: Metrics) -> str:
    """Rows of a markdown table: sampled accuracy, share of finished answers and accuracy of those, of what was measured."""
    rows, name = [], sampled_metric(after)
    if name is not None:
        rows.append((f"sampled accuracy, {name.removeprefix('eval/')}", name))
    rows += [
        ("finished answers", "eval/finished_fraction"),
        ("right of the finished", "eval/accuracy_if_finished"),
        ("finished answers, sampled", "eval/sampled/finished_fraction"),
        ("right of the finished, sampled", "eval/sampled/accuracy_if_finished"),
    ]
    shown = [(title, metric) for title, metric in rows if metric in before and metric in after]
    return "\n".join(f"| {title} | {before[metric]:.3f} | {after[metric]:.3f} |" for title, metric in shown)

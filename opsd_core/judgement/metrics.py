"""From the outcomes of single completions to the metrics of an evaluation."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from opsd_core.errors import DataError
from opsd_core.judgement.statistics import clustered_standard_error
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome, Mode


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples is correct) from n samples of which c are.

        1 - C(n-c, k) / C(n, k) = 1 - prod_{i=n-c+1}^{n} (1 - k/i);  1 when n - c < k.

    Raises ValueError unless 1 <= k <= n. Source: arXiv 2107.03374, equation 1.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs 1 <= k <= {num_samples} samples")
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(num_samples - num_correct + 1, num_samples + 1))


def majority_credit(outcomes: Sequence[ItemOutcome]) -> float:
    """Credit of the majority vote among one item's completions, in [0, 1].

    Completions are clustered by their extracted answer. The largest cluster wins and gives the share of its members
    that are correct; clusters of equal size share the win (the mean of their credits). Completions without an answer
    form no cluster: they win, without credit, only when there is nothing else.
    """
    clusters: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.extracted is not None:
            clusters[outcome.extracted].append(outcome.correct)
    if not clusters:
        return 0.0
    largest = max(map(len, clusters.values()))
    credits = [sum(votes) / len(votes) for votes in clusters.values() if len(votes) == largest]
    return sum(credits) / len(credits)


def group_by_item(outcomes: Iterable[ItemOutcome], mode: Mode) -> dict[str, list[ItemOutcome]]:
    """Outcomes of `mode` by example id, each sorted by sample index.

    Raises DataError when a completion occurs twice or items have different numbers of samples.
    """
    items: dict[str, list[ItemOutcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.mode == mode:
            items[outcome.example_id].append(outcome)
    for example_id, group in items.items():
        group.sort(key=lambda outcome: outcome.sample_index)
        indices = [outcome.sample_index for outcome in group]
        if len(set(indices)) != len(indices):
            raise DataError(f"evaluation: item {example_id} has a {mode} sample_index twice: {indices}.")
    if len({len(group) for group in items.values()}) > 1:
        sizes = sorted({len(group) for group in items.values()})
        raise DataError(f"evaluation: items have different numbers of {mode} completions: {sizes}. All need the same.")
    return dict(sorted(items.items()))


def summarise(outcomes: Iterable[ItemOutcome], max_repetition: float = 10.0) -> dict[str, float]:
    """Metrics of one evaluation; `_se` are standard errors over problem means (completions of one problem are a cluster).

    greedy:  eval/accuracy, eval/score, eval/mean_length, eval/truncated_fraction, eval/finished_fraction,
             eval/accuracy_if_finished (where one is), eval/repetition_fraction, eval/mean_entropy, eval/answered_fraction,
             eval/num_items
    sampled: eval/avg@n, eval/maj@n, eval/pass@k for k = 1, 2, 4, ... <= n, eval/distinct_answers, and
             eval/sampled/<the same properties as greedy>
    given:   eval/loglikelihood (mean over items, nats per token), eval/num_items

    Lengths are in tokens; entropies are in nats and weighted by tokens. A mode without outcomes gives no metrics.
    Raises DataError when there are no outcomes at all, or they are not the same number for each item.
    """
    outcomes = list(outcomes)
    if not outcomes:
        raise DataError("evaluation: there are no outcomes to summarise.")
    metrics: dict[str, float] = {}
    if greedy := group_by_item(outcomes, "greedy"):
        _add_mean(metrics, "eval/accuracy", [_accuracy(group) for group in greedy.values()])
        _add_properties(metrics, "eval/", greedy, max_repetition)
    if sampled := group_by_item(outcomes, "sampled"):
        groups = list(sampled.values())
        n = len(groups[0])
        _add_mean(metrics, f"eval/avg@{n}", [_accuracy(group) for group in groups])
        _add_mean(metrics, f"eval/maj@{n}", [majority_credit(group) for group in groups])
        for k in (2**power for power in range(n.bit_length())):
            counts = [sum(outcome.correct for outcome in group) for group in groups]
            _add_mean(metrics, f"eval/pass@{k}", [pass_at_k(n, count, k) for count in counts])
        distinct = [len({o.extracted for o in group if o.extracted is not None}) for group in groups]
        metrics["eval/distinct_answers"] = float(np.mean(distinct))
        _add_properties(metrics, "eval/sampled/", sampled, max_repetition)
    if given := group_by_item(outcomes, "given"):
        _add_mean(metrics, "eval/loglikelihood", [group[0].score for group in given.values()])
        metrics["eval/num_items"] = float(len(given))
    return metrics


def mean_length(outcomes: Sequence[ItemOutcome]) -> float:
    """Mean number of completion tokens."""
    return float(np.mean([outcome.num_tokens for outcome in outcomes]))


def truncated_fraction(outcomes: Sequence[ItemOutcome]) -> float:
    """Share of completions that were cut."""
    return float(np.mean([outcome.truncated for outcome in outcomes]))


def repetition_fraction(outcomes: Sequence[ItemOutcome], max_repetition: float = 10.0) -> float:
    """Share of completions that compress by more than `max_repetition`."""
    return float(np.mean([outcome.repetition > max_repetition for outcome in outcomes]))


def mean_entropy(outcomes: Sequence[ItemOutcome]) -> float:
    """Mean token entropy in nats: sum of entropies over all tokens, divided by their number."""
    num_tokens = sum(outcome.num_tokens for outcome in outcomes)
    total = sum(outcome.mean_entropy * outcome.num_tokens for outcome in outcomes if outcome.num_tokens)
    return total / num_tokens if num_tokens else 0.0


def _accuracy(group: Sequence[ItemOutcome]) -> float:
    return sum(outcome.correct for outcome in group) / len(group)


def _add_mean(metrics: dict[str, float], name: str, means_P: list[float]) -> None:
    metrics[name] = float(np.mean(means_P))
    if (error := clustered_standard_error(np.asarray(means_P))) is not None:
        metrics[f"{name}_se"] = error


def _add_properties(
    metrics: dict[str, float], prefix: str, items: dict[str, list[ItemOutcome]], max_repetition: float
) -> None:
    outcomes = [outcome for group in items.values() for outcome in group]
    metrics[f"{prefix}score"] = float(np.mean([outcome.score for outcome in outcomes]))
    metrics[f"{prefix}mean_length"] = mean_length(outcomes)
    metrics[f"{prefix}truncated_fraction"] = truncated_fraction(outcomes)
    finished = [outcome for outcome in outcomes if not outcome.truncated]
    metrics[f"{prefix}finished_fraction"] = len(finished) / len(outcomes)
    if finished:
        metrics[f"{prefix}accuracy_if_finished"] = sum(outcome.correct for outcome in finished) / len(finished)
    metrics[f"{prefix}repetition_fraction"] = repetition_fraction(outcomes, max_repetition)
    metrics[f"{prefix}mean_entropy"] = mean_entropy(outcomes)
    metrics[f"{prefix}answered_fraction"] = float(np.mean([outcome.extracted is not None for outcome in outcomes]))
    metrics[f"{prefix}num_items"] = float(len(items))


def constant_accuracy(examples: Sequence[Example]) -> float:
    """Accuracy of a policy that always gives the commonest answer: a gain up to here can be the answers' prior alone."""
    counts = Counter(example.answer for example in examples)
    return max(counts.values()) / len(examples)


def answer_diversity(outcomes: Iterable[ItemOutcome]) -> float:
    """Different answers per greedy completion that has one; near 0 when the policy says the same to everything."""
    answers = [outcome.extracted for outcome in outcomes if outcome.mode == "greedy" and outcome.extracted is not None]
    return len(set(answers)) / len(answers) if answers else 0.0

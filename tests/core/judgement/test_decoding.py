"""pytest tests/core/judgement/test_decoding.py — greedy and sampled answers that disagree, and answers that do not end."""

from dataclasses import replace

from opsd_core.judgement.decoding import decoding_disagreement, decoding_rows, disagreement_in_words
from opsd_core.judgement.metrics import summarise
from opsd_core.records.outcomes import ItemOutcome

BASE = ItemOutcome("", "greedy", 0, False, 0.0, "1", 20, False, 2.0, 0.5, "text")


def evaluation(greedy, sampled, cut=0):
    """Metrics of ten items: `greedy` are right when answered greedily, `sampled` of thirty samples; `cut` never end."""
    items = [
        replace(BASE, example_id=f"{i}", correct=i < greedy, score=float(i < greedy), truncated=i >= 10 - cut) for i in range(10)
    ]
    samples = [
        replace(BASE, example_id=f"{i}", mode="sampled", sample_index=j, correct=3 * i + j < sampled, score=0.0)
        for i in range(10)
        for j in range(3)
    ]
    return summarise([*items, *(samples if sampled is not None else [])])


def test_opposite_signs_are_marked_and_said():
    assert decoding_disagreement(evaluation(5, 6), evaluation(4, 12)) == {"gate/decoding_disagreement": 1.0}
    (said,) = disagreement_in_words(evaluation(5, 6), evaluation(4, 12))
    assert "Greedy accuracy changed by -10.0 points and sampled accuracy by +20.0" in said
    for after in (evaluation(6, 12), evaluation(5, 12), evaluation(4, 5)):
        assert decoding_disagreement(evaluation(5, 6), after) == {"gate/decoding_disagreement": 0.0}
        assert disagreement_in_words(evaluation(5, 6), after) == []


def test_without_samples_or_labels_nothing_is_claimed():
    plain = {name: value for name, value in evaluation(5, 6).items() if "@" not in name and "sampled" not in name}
    assert decoding_disagreement(plain, plain) == {} and "sampled" not in decoding_rows(plain, plain)
    unlabelled = {"eval/finished_fraction": 1.0, "eval/avg@3": 0.2}
    assert decoding_disagreement(unlabelled, unlabelled) == {}


def test_accuracy_is_split_into_answers_that_end_and_those_of_them_that_are_right():
    metrics = evaluation(4, 6, cut=5)
    assert metrics["eval/finished_fraction"] == 0.5 and metrics["eval/accuracy_if_finished"] == 0.8
    assert metrics["eval/accuracy"] == metrics["eval/finished_fraction"] * metrics["eval/accuracy_if_finished"]
    rows = decoding_rows(evaluation(4, 6), metrics)
    assert "| finished answers | 1.000 | 0.500 |" in rows and "| right of the finished | 0.400 | 0.800 |" in rows
    assert "| sampled accuracy, avg@3 | 0.200 | 0.200 |" in rows
    assert "eval/accuracy_if_finished" not in evaluation(4, 6, cut=10)

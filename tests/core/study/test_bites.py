"""pytest tests/core/study/test_bites.py — what each changed setting altered, finishing and being right, greedy by sampled."""

import numpy as np
import pytest

from opsd_core.config import resolve
from opsd_core.errors import ConfigError
from opsd_core.judgement.metrics import summarise
from opsd_core.prompts.context_inputs import ContextInputs
from opsd_core.prompts.contexts import build_context
from opsd_core.records.outcomes import ItemOutcome
from opsd_core.selection.token_weights import WeightInputs, token_weights
from opsd_core.study import resolve_arm, resolve_study
from opsd_core.study.bites import bite_rows, bite_sentences, changed_settings, dropped_shares, finish_rows
from opsd_core.study.report import render
from opsd_core.study.tables import ArmData, StudyData, study_numbers
from opsd_core.study.words import sentences
from tests.core.prompts.test_contexts import POOL
from tests.core.study.test_tables import ITEMS


def outcome(example, mode, right, cut=False, sample=0):
    text = example.answer if right else "no"
    return ItemOutcome(example.id, mode, sample, right, float(right), text, 3, cut, 1.0, 0.4, text)


def arm(name, outcomes, **more):
    return ArmData(name, name, "base" if name == "base" else "method", {0: outcomes}, {0: summarise(outcomes)}, **more)


def test_every_changed_setting_has_its_own_measure():
    study = resolve_study("tiny", {}, {"arms": ["opsd", "random_tokens"]})
    changes = changed_settings(study.base, resolve_arm(study, "random_tokens", 5))
    assert changes == {
        "token_weights.entropy": ("uniform", "random"),
        "token_weights.entropy_of": ("teacher", "student"),
        "token_weights.entropy_fraction": (0.5, 0.2),
    }  # fmt: skip
    changes |= {"distillation.bound_threshold": (1.0, 10.0), "filter.route": ("all", "correct_only")}
    changes |= {"teacher.context": ("a", "b"), "promotion.mode": ("gate", "manual")}
    weights = {"bite/weights_tokens": 0.7, "bite/weights_completions": 1.0, "bite/dropped_completions": 0.4}
    bites = [weights | {"bite/bound_tokens": share, "bite/bound_completions": 0.02} for share in (0.002, 0.004)]
    rows = {row["setting"]: (row["tokens"], row["completions"]) for row in bite_rows("x", changes, bites)}
    assert rows["token_weights.entropy"] == (pytest.approx(0.7), 1.0) and rows["filter.route"] == (None, pytest.approx(0.4))
    assert rows["distillation.bound_threshold"] == (pytest.approx(0.003), 0.02)
    assert rows["teacher.context"] == (1.0, 1.0) and rows["promotion.mode"] == (None, None)
    (said,) = bite_sentences({"bites": bite_rows("x", changes, bites)})
    assert said == "x: distillation.bound_threshold=10.0 altered 0.30 % of tokens: no difference is owed to it."
    assert dropped_shares(3, 1, {"no_context": 1}) == {"bite/dropped_completions": 0.25, "bite/no_context_completions": 0.25}
    assert dropped_shares(0, 0, {}) == {}


def test_accuracy_is_finishing_times_being_right_if_finished():
    rows = [outcome(e, "greedy", right=n < 30, cut=n >= 60) for n, e in enumerate(ITEMS)]
    (found,) = finish_rows("x", [rows])
    assert (found["finish"], found["if_finished"], found["if_cut"], found["accuracy"]) == (0.6, 0.5, 0.0, 0.3)
    assert finish_rows("x", [[outcome(e, "greedy", True) for e in ITEMS]])[0]["if_cut"] is None


def test_a_report_flags_greedy_and_sampled_accuracies_of_different_signs():
    def made(greedy, sampled):
        return [
            *(outcome(e, "greedy", n < greedy) for n, e in enumerate(ITEMS)),
            *(outcome(e, "sampled", n < sampled, sample=s) for s in range(2) for n, e in enumerate(ITEMS)),
        ]

    changes = {"distillation.bound_threshold": (1.0, 10.0)}
    bites = {0: {"bite/bound_tokens": 0.003, "bite/bound_completions": 0.02}}
    arms = [arm("base", made(50, 20)), arm("opsd", made(45, 40), changes=changes, bites=bites), arm("sft", made(60, 30))]
    data = StudyData({a.name: a for a in arms}, ITEMS)
    numbers = study_numbers(data)
    assert [(row["arm"], row["reference"]) for row in numbers["opposed"]] == [("opsd", "base"), ("opsd", "sft")]
    text = "\n".join(sentences(numbers))
    assert "opsd: greedy accuracy moved by -5.0 points against base, sampled accuracy by +20.0: their signs differ" in text
    assert "distillation.bound_threshold=10.0 altered 0.30 % of tokens" in text
    page = render("t", "s", data, numbers, {}, "f")
    assert "What bites" in page and "signs differ" in page and "Finishing and being right" in page


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_random_tokens_are_as_many_as_the_chosen_ones_and_say_nothing_of_entropy(fraction):
    generator, overlap = np.random.default_rng(0), []
    for size in (1, 7, 200, 200, 200):
        entropy = generator.random(size).astype(np.float32)
        inputs = WeightInputs(list(range(size)), student_entropy_T=entropy)
        chosen = {"entropy_of": "student", "entropy_fraction": fraction}
        top, drawn = (
            token_weights(inputs, resolve("tiny", {"token_weights": chosen | {"entropy": kind}})) for kind in ("top", "random")
        )
        assert top.sum() == drawn.sum() and set(drawn) <= {0.0, 1.0}
        overlap.append((top * drawn).sum() / top.sum())
    assert np.mean(overlap[2:]) == pytest.approx(fraction, abs=0.15)


def test_the_teacher_that_only_thinks_reads_the_students_message_in_another_mode():
    thinks = {"teacher": {"context": "thinking", "template": ""}, "control": True}
    with pytest.raises(ConfigError, match=r"teacher\.context=thinking.*prompts\.teacher_thinking=true"):
        resolve("tiny", thinks)
    settings = resolve("tiny", thinks, {"prompts": {"teacher_thinking": True}})
    shown = build_context(ContextInputs(POOL[0], settings.teacher))
    assert shown == {"privileged_context": ""} and settings.teacher.user_template.startswith("{{ student_prompt }}")
    with pytest.raises(ConfigError, match="control=true"):
        resolve("tiny", thinks, {"prompts": {"teacher_thinking": True}, "control": False})

"""pytest tests/core/config/test_teacher_rules.py — impossible teachers are refused with the reason, the null ones as a matrix."""

import pytest

from opsd_core.config import resolve
from opsd_core.config.rules.effects import settings_without_effect
from opsd_core.errors import ConfigError

ONLINE = {"targets": "online"}
FILE = {"source": "rows.jsonl"}
ASYMMETRIES = {
    "nothing": ({}, False),
    "temperature": ({"temperature": 0.8}, True),
    "nucleus": ({"top_p": 0.9}, True),
    "top-k": ({"top_k": 5}, True),
    "noise": ({"student_noise": 5.0}, True),
}
WEIGHTS = {
    "initial": ({}, False),
    "previous": ({}, False),
    "ema": ({}, False),
    "live": ({}, False),
    "adapter_off": ({}, False),
    "trust_region": ({}, False),
    "external": ({"source": "a/b"}, True),
    "peers": ({"peers": ["a/b", "c/d"]}, True),
}


@pytest.mark.parametrize("weights", sorted(WEIGHTS))
@pytest.mark.parametrize("asymmetry", sorted(ASYMMETRIES))
def test_a_teacher_without_context_needs_another_asymmetry(weights, asymmetry):
    (own, other_model), (change, asymmetric) = WEIGHTS[weights], ASYMMETRIES[asymmetry]
    overrides = {
        "teacher": {"context": "none", "weights": weights} | own | change,
        "distillation": ONLINE,
        "model": {"lora": {"rank": 4}},
    }
    if other_model or asymmetric:
        assert not resolve("tiny", overrides).control
    else:
        with pytest.raises(ConfigError, match=r"loss and its gradient are 0.*control=true"):
            resolve("tiny", overrides)
    assert resolve("tiny", overrides, {"control": True}).control


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"teacher": {"weights": "adapter_off"}, "distillation": ONLINE}, r"adapter_off with model\.lora\.rank=0"),
        ({"teacher": {"weights": "adapter_off"}, "model": {"lora": {"rank": 4}}}, r"teacher\.weights=initial, which is the same"),
        ({"teacher": {"weights": "trust_region"}}, r"trust_region changes at every optimiser step.*targets=online"),
        ({"teacher": {"weights": "live"}}, r"live changes at every optimiser step.*targets=online"),
        ({"teacher": {"weights": "external"}}, r"external needs teacher\.source"),
        ({"teacher": {"weights": "peers", "peers": ["a/b"]}}, r"two or more models in teacher\.peers, not 1"),
        ({"teacher": {"source": "a/b"}}, r"teacher\.source='a/b' has no effect"),
        ({"teacher": {"peers": ["a/b", "c/d"]}}, r"teacher\.peers has no effect"),
        ({"teacher": {"context": "peer_success"}}, r"peer_success shows what another model answered.*teacher\.peers is empty"),
        ({"teacher": {"context": "peer_failure"}}, r"peer_failure shows what another model answered.*use sibling_success"),
        (
            {"teacher": {"context": "peer_success", "weights": "external", "source": "a/b", "peers": ["c/d"]}},
            r"teacher\.peers has no effect with teacher\.weights=external",
        ),
        (
            {
                "teacher": {"context": "peer_success", "peers": ["a/b"]},
                "data": FILE | {"columns": {"answer": ""}},
                "promotion": {"mode": "manual"},
            },
            r"peer_success needs to know which completions are right",
        ),
        ({"teacher": {"context": "sibling_success"}}, r"rollout\.group_size=1"),
        ({"teacher": {"context": "majority"}}, r"rollout\.group_size=1"),
        ({"teacher": {"context": "instruction"}}, r"needs teacher\.instruction"),
        ({"teacher": {"instruction": "be brief"}}, r"teacher\.instruction has no effect with teacher\.context=reference"),
        ({"teacher": {"template": "{{ question }}"}}, r"never mentions privileged_context"),
        ({"teacher": {"template": "{{ question }} Give the answer."}}, r"never mentions privileged_context"),
        ({"teacher": {"template": "{{ question }} {{ attempt }}"}}, r"never mentions privileged_context"),
        ({"teacher": {"reference": "solution"}}, r"tiny:addition makes questions and answers only"),
        ({"teacher": {"top_p": 0.9}, "distillation": {"divergence": "reverse_kl"}}, r"infinite where the student"),
        ({"teacher": {"top_k": 5}, "distillation": {"divergence": "jsd", "beta": 1.0}}, r"infinite where the student"),
        ({"teacher": {"student_noise": 5.0}, "token_weights": {"importance_correction": True}}, r"noisy policy with the clean"),
        (
            {"teacher": {"context": "demo", "reference": "solution"}, "data": FILE},
            r"context=demo shows the solution.*data\.columns\.solution is empty",
        ),
        (
            {
                "teacher": {"context": "feedback"},
                "data": FILE | {"columns": {"answer": ""}},
                "promotion": {"mode": "manual"},
            },
            r"feedback needs to know which completions are right",
        ),
        (
            {"teacher": {"context": "concise"}, "data": FILE | {"columns": {"answer": ""}}},
            r"without answers the gate cannot measure accuracy.*promotion\.mode=manual",
        ),
        ({"teacher": {"weights": "mean"}}, r"teacher\.weights.*trust_region"),
        ({"teacher": {"context_fraction": 0.0}}, r"teacher\.context_fraction.*greater than 0"),
    ],
)
def test_impossible_teachers_are_refused_with_the_reason(overrides, message):
    with pytest.raises(ConfigError, match=message):
        resolve("tiny", overrides)


@pytest.mark.parametrize(
    "weights", [{"peers": ["a/b"]}, {"weights": "peers", "peers": ["a/b", "c/d"]}, {"weights": "external", "source": "a/b"}]
)
def test_the_models_whose_answers_are_shown_may_teach_or_not(weights):
    teacher = resolve("tiny", {"teacher": {"context": "peer_success"} | weights}).teacher
    assert teacher.sources == (teacher.peers or ("a/b",))


@pytest.mark.parametrize("context", ["majority", "concise"])
def test_label_free_contexts_need_no_column(context):
    data = {"source": "rows.jsonl", "columns": {"answer": ""}}
    overrides = {"teacher": {"context": context}, "data": data, "promotion": {"mode": "manual"}, "rollout": {"group_size": 4}}
    assert resolve("tiny", overrides).teacher.context == context


def test_settings_that_nothing_reads_are_named():
    quiet = resolve("tiny")
    assert not list(settings_without_effect(quiet))
    loud = resolve("tiny", {"teacher": {"ema_decay": 0.5, "mixture": "geometric", "context_fraction": 0.2}})
    assert [line.split("=")[0] for line in settings_without_effect(loud)] == [
        "teacher.ema_decay",
        "teacher.mixture",
        "teacher.context_fraction",
    ]

"""Combinations of objective settings that are refused: pytest tests/core/config/test_objective_config.py"""

import pytest

from opsd_core.config import resolve
from opsd_core.errors import ConfigError


@pytest.mark.parametrize(
    ("distillation", "message"),
    [
        ({"top_k_of": "student"}, r"only the teacher's largest entries are stored"),
        ({"top_k_of": "union"}, r"targets=online"),
        ({"divergence": "sampled_token", "bound": "entry_clip"}, r"sampled_token has only one"),
        ({"divergence": "jsd", "beta": 0.04}, r"normalise_beta=true"),
        ({"divergence": "jsd", "beta": 0.005, "normalise_beta": True}, r"\[0\.01, 0\.99\]"),
        ({"divergence": "skew_kl", "skew": 0.0}, r"distillation\.skew"),
        ({"divergence": "entropy_mix", "entropy_width": 0.0}, r"distillation\.entropy_width"),
        ({"bound_threshold": 0.0}, r"distillation\.bound_threshold"),
    ],
)
def test_refused_with_the_reason(distillation, message):
    with pytest.raises(ConfigError, match=message):
        resolve("tiny", {"distillation": distillation})


@pytest.mark.parametrize(
    "distillation",
    [
        {"divergence": "jsd", "beta": 0.02, "normalise_beta": True},
        {"divergence": "jsd", "beta": 0.0},
        {"targets": "online", "top_k_of": "union", "divergence": "reverse_kl"},
        {"divergence": "sampled_token", "bound": "ratio_clip"},
    ],
)
def test_accepted(distillation):
    assert resolve("tiny", {"distillation": distillation})

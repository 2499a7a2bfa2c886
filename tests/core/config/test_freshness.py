"""pytest tests/core/config/test_freshness.py — completions of an older policy: what would train wrongly is refused."""

import pytest

from opsd_core.config import config_at, resolve
from opsd_core.config.kinds.divergences import DIVERGENCE_KINDS
from opsd_core.config.rules.effects import settings_without_effect
from opsd_core.errors import ConfigError

KEPT = {"rollout": {"refresh": "overlap"}}
INITIAL = {"rollout": {"refresh": "initial"}, "token_weights": {"max_staleness": 5}}
AHEAD = {"execution": {"overlap": True}}
WEIGHED = {"token_weights": {"importance_correction": True}}


@pytest.mark.parametrize("older", [KEPT, INITIAL, AHEAD], ids=["overlap", "initial", "ahead"])
@pytest.mark.parametrize("divergence", sorted(DIVERGENCE_KINDS))
def test_a_mean_over_the_students_own_tokens_needs_the_correction_and_one_over_the_teachers_does_not(older, divergence):
    chosen = {"distillation": {"divergence": divergence}, "filter": {"route": "correct_only"}}
    if divergence in ("forward_kl", "skew_kl", "cross_entropy"):
        resolve("tiny", chosen, older)
    else:
        with pytest.raises(ConfigError, match=rf"divergence={divergence}.*Set token_weights.importance_correction=true"):
            resolve("tiny", chosen, older)
        resolve("tiny", chosen, older, {"control": True})
    resolve("tiny", chosen, older, WEIGHED)


def test_at_the_limits_of_beta_jsd_is_judged_as_what_it_is_there():
    def jsd(beta):
        return {"distillation": {"divergence": "jsd", "beta": beta}}

    resolve("tiny", jsd(0.0), KEPT)
    for beta in (0.5, 1.0):
        with pytest.raises(ConfigError, match="importance_correction"):
            resolve("tiny", jsd(beta), KEPT)


def test_a_scheduled_divergence_is_judged_in_the_iteration_in_which_it_is_in_force():
    later = {"curriculum": {"schedules": {"distillation.divergence": ["forward_kl", "reverse_kl"]}}}
    with pytest.raises(ConfigError, match=r"iteration 3: rollout.refresh=overlap with distillation.divergence=reverse_kl"):
        resolve("tiny", later, KEPT)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"rollout": {"refresh": "initial"}}, r"up to 5 iterations old.*max_staleness=1. Set .*=5"),
        (KEPT | {"token_weights": {"max_staleness": 0}}, r"refresh=overlap with token_weights.max_staleness=0"),
        (AHEAD | {"token_weights": {"max_staleness": 0}}, r"execution.overlap=true with token_weights.max_staleness=0"),
        (AHEAD | KEPT, r"execution.overlap=true with rollout.refresh=overlap: .*nothing to sample meanwhile"),
        (INITIAL | {"curriculum": {"schedules": {"rollout.temperature": [1.2, 1.0]}}}, r"schedules\['rollout.temperature'\]"),
        (INITIAL | {"curriculum": {"sampling": "difficulty"}}, r"curriculum.sampling=difficulty"),
        (INITIAL | {"curriculum": {"length_start": 2}}, r"curriculum.length_start=2"),
        (INITIAL | {"alarms": {"remedy": "raise_temperature"}}, r"the remedy would change nothing"),
        (KEPT | {"curriculum": {"schedules": {"rollout.refresh": ["initial", "overlap"]}}}, r"must not change during a campaign"),
        ({"rollout": {"refresh": "never"}}, r"rollout.refresh: must be 'every_iteration', 'initial' or 'overlap'"),
        ({"rollout": {"refresh": "overlap", "min_overlap": 1.5}}, r"rollout.min_overlap"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_by_field(overrides, said):
    with pytest.raises(ConfigError, match=said):
        resolve("tiny", overrides)


def test_where_nothing_is_sampled_again_it_says_so():
    one = {"iterations": 1, "token_weights": {"max_staleness": 0}}
    found = list(settings_without_effect(resolve("tiny", one, AHEAD)))
    assert any(text.startswith("execution.overlap=True has no effect") for text in found)
    unread = settings_without_effect(resolve("tiny", one, INITIAL))
    assert any(text.startswith("rollout.refresh='initial' has no effect") for text in unread)
    sft = {"rollout": {"refresh": "overlap", "on_policy_fraction": 0.0}, "distillation": {"divergence": "cross_entropy"}}
    unread = settings_without_effect(resolve("tiny", sft))
    assert any(text.startswith("rollout.refresh='overlap' has no effect") for text in unread)
    limits = {"rollout": {"min_overlap": 0.5, "min_effective_sample_size": 0.5}}
    named = [text.partition("=")[0] for text in settings_without_effect(resolve("tiny", limits))]
    assert {"rollout.min_overlap", "rollout.min_effective_sample_size"} <= set(named)
    assert not list(settings_without_effect(resolve("tiny", limits, KEPT)))


def test_a_schedule_may_move_the_thresholds_and_what_decides_an_answer_does_not_hold_them():
    config = resolve("tiny", KEPT, {"curriculum": {"schedules": {"rollout.min_overlap": [0.5, 0.9]}}})
    first, last = config_at(config, 0).rollout, config_at(config, 5).rollout
    assert (first.min_overlap, last.min_overlap) == (0.5, 0.9) and first.sampling == last.sampling
    assert resolve("tiny").rollout.sampling == resolve("tiny", KEPT).rollout.sampling

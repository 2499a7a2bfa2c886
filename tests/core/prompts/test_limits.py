"""pytest tests/core/prompts/test_limits.py — what settings, data and model cannot do together is said by its setting."""

import pytest

from opsd_core.config import DataConfig, resolve
from opsd_core.data import load_examples, make_example
from opsd_core.errors import ConfigError, DataError
from opsd_core.models.policy import load_policy
from opsd_core.models.storage.skeleton import check_targets
from opsd_core.prompts.limits import check_context, check_items
from opsd_core.rollout.generation import check_lengths
from opsd_core.rollout.sampling import Sampling

LONGEST = {"train": {"student": 100, "teacher": 150}, "validation": {"student": 120}, "test": {}}


@pytest.mark.parametrize(
    ("section", "length", "positions", "longest", "said"),
    [
        ("evaluation", 500, 512, LONGEST, r"evaluation\.max_completion_length=500 exceeds .* held-out .* 120 .*most 392"),
        ("evaluation", 512, 512, None, r"evaluation\.max_completion_length=512 exceeds .*at least one.*to at most 511"),
        ("rollout", 450, 512, LONGEST, r"rollout\.max_completion_length=450 exceeds .*longest training prompt has 100"),
        ("rollout", 400, 512, LONGEST, r"rollout\.max_completion_length=400 exceeds .* teacher's .* 150 .*max_teacher_prompt"),
        ("rollout", 512, 512, {}, r"rollout\.max_completion_length=512 exceeds"),
    ],
)
def test_what_exceeds_the_context_is_refused_by_its_own_field(section, length, positions, longest, said):
    config = resolve("tiny", {section: {"max_completion_length": length}})
    with pytest.raises(ConfigError, match=said):
        check_context(config, positions, longest)
    check_context(config, 4096, longest)


def test_what_just_fits_is_taken():
    config = resolve("tiny", {"evaluation": {"max_completion_length": 392}, "rollout": {"max_completion_length": 362}})
    check_context(config, 512, LONGEST)


def test_sampling_names_the_setting_that_it_was_given(tiny_model):
    policy = load_policy(tiny_model, resolve("tiny").model)
    for field in ("evaluation.max_completion_length", "rollout.max_completion_length"):
        with pytest.raises(DataError, match=rf"plus {field}=600 exceeds .* Lower {field}"):
            check_lengths(policy, [[1, 2]], Sampling(temperature=0.0, max_completion_length=600), field)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"distillation": {"skip_first_tokens": 4}}, r"distillation\.skip_first_tokens=4 .*rollout\.max_completion_length=4"),
        ({"distillation": {"skip_first_tokens": 2}, "curriculum": {"length_start": 2}}, r"curriculum\.length_start=2"),
        ({"curriculum": {"schedules": {"distillation.skip_first_tokens": [0, 9]}}}, r"skip_first_tokens=9 leaves out every"),
        ({"curriculum": {"schedules": {"rollout.max_completion_length": [4, 1]}}, "distillation": {"skip_first_tokens": 1}},
         r"rollout\.max_completion_length=1"),
        ({"evaluation": {"num_items": 1}}, r"evaluation\.num_items.*greater than or equal to 2"),
    ],
)  # fmt: skip
def test_settings_that_leave_nothing_to_learn_or_to_measure_are_refused(overrides, said):
    with pytest.raises(ConfigError, match=said):
        resolve("tiny", overrides)


def test_the_last_token_may_be_the_only_one_that_counts():
    assert resolve("tiny", {"distillation": {"skip_first_tokens": 3}}).distillation.skip_first_tokens == 3


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("q_prj", r"target_modules='q_prj': LlamaForCausalLM has no module 'q_prj'\. Its linear layers are .*q_proj"),
        ("q_proj, typo,v_proj", r"has no module 'typo'"),
        ("q_proj,", r"has no module ''"),
        ("proj", r"has no module 'proj'"),
        ("norm", r"model\.lora\.target_modules='norm' does not fit"),
    ],
)
def test_adapter_targets_that_match_nothing_are_refused_without_weights(tiny_model, targets, said):
    lora = {"rank": 2, "target_modules": targets}
    with pytest.raises(ConfigError, match=said):
        check_targets(tiny_model, resolve("tiny", {"model": {"lora": lora}}).model)


@pytest.mark.parametrize("targets", ["all-linear", "q_proj,v_proj", "self_attn.q_proj", "lm_head", "embed_tokens"])
def test_adapter_targets_that_fit_pass(tiny_model, targets):
    check_targets(tiny_model, resolve("tiny", {"model": {"lora": {"rank": 2, "target_modules": targets}}}).model)


def test_too_few_items_and_one_question_many_times_are_refused(tmp_path):
    config = resolve("tiny")
    items = [make_example(f"q{i}", str(i)) for i in range(6)]
    same = [make_example("What?", str(i)) for i in range(6)]
    check_items(config, items, items)
    for measured in (items[:1], []):
        with pytest.raises(DataError, match=r"evaluation\.num_items=.*data\.validation_fraction"):
            check_items(config, items, measured)
    with pytest.raises(DataError, match=r"all 6 held-out items .* ask the same question \('What\?'\)"):
        check_items(config, items, same)
    with pytest.raises(DataError, match=r"all 6 training items"):
        check_items(config, same, items)
    (path := tmp_path / "same.csv").write_text("question,answer\n" + "".join(f"What?,{i}\n" for i in range(40)))
    with pytest.raises(DataError, match=r"all 40 items ask the same question \('What\?'\)\. Is data\.columns\.question="):
        load_examples(DataConfig(source=str(path)))

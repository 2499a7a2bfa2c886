"""pytest tests/core/config/test_recipes.py — published methods: each validates, at both sizes, and takes two optimiser steps."""

import copy
import math

import pytest

from opsd_core.config import RECIPES, resolve
from opsd_core.config.recipes_papers import PAPERS
from opsd_core.config.rules.effects import settings_without_effect
from opsd_core.data import addition_examples
from opsd_core.errors import ConfigError
from opsd_core.models.policy import add_lora
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.teacher import teacher_prompts
from opsd_core.selection.token_weights import WeightInputs, token_weights
from opsd_core.teacher.kinds import teacher_in_training
from opsd_core.teacher.mixtures import Transform
from opsd_core.teacher.parts import Models, Parts
from opsd_core.teacher.scoring import score_targets
from opsd_core.training.importance import old_logprobs
from opsd_core.training.trainer import Schedule, TrainingItem, distil
from tests.core.small import rollout_of, small_policy

REAL = {"model": {"source": "some/model"}, "data": {"source": "rows.jsonl", "columns": {"solution": "solution"}}}
SHORT = {"optimizer": {"num_steps": 2, "batch_size": 4}}


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_with_another_model_a_recipe_has_the_papers_settings(name):
    config = resolve(name, REAL)
    assert config.model.source == "some/model" and config.name == name
    assert config.rollout.max_completion_length >= 1024 and "boxed" in config.prompts.student
    assert not list(settings_without_effect(config))
    with pytest.raises(ConfigError, match="has no data of its own"):
        resolve(name, {"model": {"source": "some/model"}})


def test_the_tiny_model_may_be_named_too():
    assert resolve("sdft", {"model": {"source": "tiny"}}) == resolve("sdft")


@pytest.mark.parametrize("name", ["u_opsd", "opsdc"])
def test_label_free_recipes_need_no_labels_but_a_person_who_promotes(name):
    unlabelled = REAL | {"data": {"source": "rows.jsonl", "columns": {"answer": ""}}}
    with pytest.raises(ConfigError, match=r"promotion\.mode=manual"):
        resolve(name, unlabelled)
    assert resolve(name, unlabelled, {"promotion": {"mode": "manual"}}).data.columns.answer == ""


def test_the_claims_recipe_names_model_and_data_and_takes_others():
    config = resolve("opsd_gsm8k")
    assert (config.model.source, config.data.source, config.data.columns.preset) == ("Qwen/Qwen3-1.7B", "openai/gsm8k", "gsm8k")
    paper = resolve("opsd_paper_v3", {"model": {"source": "Qwen/Qwen3-1.7B"}, "data": config.data.model_dump()})
    for section in ("prompts", "rollout", "teacher", "optimizer"):
        assert getattr(config, section) == getattr(paper, section), section
    bound = {"bound": "token_reweight", "bound_threshold": 1.0}
    assert config.distillation == paper.distillation.model_copy(update=bound) != paper.distillation
    other = resolve("opsd_gsm8k", {"model": {"source": "some/model"}})
    assert other.data == config.data and other.prompts == config.prompts


def rollouts(config, policy, builder, pool):
    """Four completions per prompt: two that agree and are right, two that are neither."""
    made, correct = [], {}
    for example in pool[:3]:
        for sample, text in enumerate([example.answer, example.answer, "1", "77"]):
            ids = builder.student_ids(example)
            tokens = [*policy.tokenizer.encode(text), policy.tokenizer.eos_token_id]
            made.append(rollout_of(example.id, sample, text, ids, tokens))
            correct[example.id, sample] = sample < 2
    return made, correct


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"demo", "base", "opsd_gsm8k"}))
def test_a_recipe_takes_two_steps(name):
    config = resolve(name, SHORT)
    initial, pool = small_policy(0), addition_examples(20)
    builder = PromptBuilder(initial.tokenizer, config.prompts, config.teacher)
    sampled, correct = rollouts(config, initial, builder, pool)
    prompts = teacher_prompts(builder, sampled, correct, pool).ids
    student = small_policy(0)
    if config.model.lora.rank:
        student = add_lora(student, config.model.lora, seed=0)
    parts = Parts(config, Models(initial, initial), load=lambda policy: policy, load_copy=copy.deepcopy, student=student)
    teacher = teacher_in_training(parts)
    kept = [rollout for rollout in sampled if rollout.key in prompts]
    targets = [None] * len(kept)
    if config.distillation.targets == "recorded":
        transform = Transform.of(config.teacher, config.distillation.temperature)
        targets = score_targets(teacher, kept, [prompts[r.key] for r in kept], config.distillation.top_k, transform, 512)
    items = [
        TrainingItem(
            prompt_ids=r.prompt_ids,
            teacher_prompt_ids=prompts[r.key],
            completion_ids=r.completion_ids,
            rollout_logprobs_T=old_logprobs(r, config.rollout),
            weights_T=token_weights(
                WeightInputs(
                    completion_ids=r.completion_ids,
                    prompt_ids=r.prompt_ids,
                    teacher_prompt_ids=prompts[r.key],
                    answer_ids=[],
                    special_ids=frozenset(),
                    truncated=False,
                    student_entropy_T=r.entropy_T,
                    teacher_entropy_T=target.entropy_T if target else None,
                ),
                config,
            ),
            target=target,
            key=r.key,
        )
        for r, target in zip(kept, targets, strict=True)
    ]
    losses = []
    distil(student, teacher, items, config, Schedule(0, 2), 0, on_step=lambda step, m: losses.append(m["distillation/loss"]))
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses)
    if name == "null_control":  # AdamW divides by the gradient's size, so that rounding errors become small steps
        assert abs(losses[0]) < 1e-6 and abs(losses[1]) < 1e-4
    else:
        assert max(map(abs, losses)) > 1e-6
    if config.teacher.context == "majority":
        assert {r.sample_index for r in kept} == {2, 3}  # those that agree already are left out

"""Named recipes: partial configurations, merged deeply with a user's overrides.

A recipe is the smallest dictionary that differs from the defaults; `resolve` is the one way from names to a config.
Published methods and controls: `opsd_core.config.recipes_papers`.
"""

from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from opsd_core.config.checked import CampaignConfig
from opsd_core.config.kinds.contexts import CONTEXT_KINDS
from opsd_core.config.recipes_papers import PAPERS
from opsd_core.config.refusals import as_settings, explained, known_name
from opsd_core.config.rules.effects import unread
from opsd_core.errors import ConfigError

TINY: dict[str, Any] = {
    "name": "tiny",
    "iterations": 6,
    "model": {"source": "tiny", "dtype": "float32", "device": "cpu"},
    "data": {
        "source": "tiny:addition",
        "size": 10_000,
        "validation_fraction": 0.05,
        "test_fraction": 0.05,
        "grader": "exact",
    },
    "teacher": {"template": "{{ privileged_context }}|{{ question }}"},
    "rollout": {"num_prompts": 1600, "max_completion_length": 4, "record_top_k": 8},
    "distillation": {"top_k": 8},
    "optimizer": {
        "learning_rate": 1e-3,
        "schedule": "constant",
        "num_steps": 50,
        "batch_size": 64,
    },
    "evaluation": {"num_items": 250, "max_completion_length": 4},
    "execution": {"rollout_batch_size": 512, "evaluation_batch_size": 512, "checkpoint_every": 25},
}

# Pick the largest or smallest of two or three numbers. No two answers are alike, so no gain comes from a common answer.
DEMO: dict[str, Any] = {
    "name": "demo",
    "iterations": 1,
    "model": {"source": "smollm2"},
    "data": {
        "source": "reasoning_gym:number_format",
        "options": {"min_num_candidates": 2, "max_num_candidates": 3, "min_n": 1, "max_n": 1000},
        "size": 2500,
    },
    # The task's last paragraph is all of it. Its numbers are written in one notation, else a teacher that is shown a decimal
    # teaches to pick decimals (docs/LOG.md). The beginning of an answer keeps completions short, so that none is cut.
    "prompts": {
        "system": "Answer with the final result only.",
        "student": "{% set task = question.split('\\n\\n')[-1].split(':') %}{{ task[0] }}:{% for number in task[1].split() %} "
        "{{ '%.3f' % number | replace(',', '') | float }}{% endfor %}\nThe answer is the number",
    },
    # The answer in the same notation; reasoning-gym writes some as 480.78200000000004.
    "teacher": {
        "template": "{% set number = privileged_context | float(none) %}{{ student_prompt }}\n\n(The correct final answer is "
        "{{ privileged_context if number is none else '%.3f' % number }}.)",
    },
    # At temperature 1 one completion in ten is right and most of the others ramble: they teach little.
    "rollout": {"num_prompts": 384, "temperature": 0.5, "max_completion_length": 32},
    # At this rate it forgets neither of its guards' suites (docs/LOG.md).
    "optimizer": {
        "learning_rate": 1e-4,
        "schedule": "constant",
        "warmup_fraction": 0.1,
        "num_steps": 24,
        "batch_size": 16,
    },
    "evaluation": {"num_items": 150, "max_completion_length": 32},
    "promotion": {"guards": [{"suite": "sums", "max_drop": 0.1}, {"suite": "plain_text", "max_drop": 0.05}]},
    "execution": {"rollout_batch_size": 128, "evaluation_batch_size": 128, "checkpoint_every": 24},
}

# What own model and own data start from: adapters, a rate that forgets little, the lengths of the papers, no task's tuning.
BASE: dict[str, Any] = {
    "name": "base",
    "iterations": 4,
    "model": {"lora": {"rank": 64, "alpha": 128.0}},
    "prompts": {"max_prompt_length": 2048, "max_teacher_prompt_length": 8192},
    "rollout": {"num_prompts": 800, "max_completion_length": 1024},
    "optimizer": {"learning_rate": 1e-5, "num_steps": 25, "batch_size": 32},
    # A few more items than the default: of them an evaluation answers fewer (benchmarks/sequential.md).
    "evaluation": {"num_items": 220, "max_completion_length": 1024},
    "promotion": {"test": "sequential"},
    "execution": {"num_shards": 8, "microbatch_tokens": 16_384, "checkpoint_every": 25},
}


def inside(tree: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Where the setting of a dotted path stands: its object, made in `tree` where there is none, and its name in it."""
    *sections, name = path.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    return tree, name


def deep_merge(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """A new dictionary: `override` wins, nested dictionaries are merged key by key, siblings keep their values."""
    merged = deepcopy(base)
    for key, value in override.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = deep_merge(merged[key], value)
        else:
            merged[key] = deepcopy(value)
    return merged


def _on_the_tiny_task(name: str) -> dict[str, Any]:
    """A published method on the tiny task, without those of the task's settings that the method does not read."""
    paper = PAPERS[name]
    values = deep_merge(deep_merge(deep_merge(TINY, paper.method), paper.tiny), {"name": name})
    for path in unread(CampaignConfig.model_validate(values)):
        section, _, leaf = path.rpartition(".")
        values.get(section, {}).pop(leaf, None)
    return values


# At this size every training forgets all else (benchmarks/tiny_*.md), so the guard is on the form of answers (docs/gate.md).
GUARDED_TINY = deep_merge(TINY, {"promotion": {"guards": ["tiny_form"]}})
# Does self-distillation improve reasoning? `opsd study opsd_gsm8k` has the arms, docs/recipes.md the figures to compare with.
GSM8K: dict[str, Any] = deep_merge(
    deep_merge(PAPERS["opsd_paper_v3"].full, PAPERS["opsd_paper_v3"].method),
    {
        "name": "opsd-gsm8k",
        "model": {"source": "Qwen/Qwen3-1.7B", "lora": {"base_dtype": "bfloat16"}},
        "data": {"source": "openai/gsm8k", "subset": "main", "columns": {"preset": "gsm8k"}},
        "distillation": {"bound": "token_reweight", "bound_threshold": 1.0},
        "evaluation": {"num_items": 500},
    },
)
RECIPES: dict[str, dict[str, Any]] = {"base": BASE, "demo": DEMO, "tiny": GUARDED_TINY, "opsd_gsm8k": GSM8K}
RECIPES |= {name: _on_the_tiny_task(name) for name in PAPERS}


def starting_values(recipe: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """What a recipe says before `overrides`. What was tuned for a model or a task is left out where another one is named.

    A published method leaves the tiny task when another model is named. The demo with another model or other data is `BASE`
    with what is left of the demo: its task, or its model. Guards of the tiny model on its task go with either. The demo's words
    for the teacher go with another context that has its own.
    """
    recipe_values = RECIPES[recipe]
    other_model, other_data = (_replaced(recipe_values, overrides, section) for section in ("model", "data"))
    if recipe in PAPERS and other_model:
        return deep_merge(deep_merge(PAPERS[recipe].full, PAPERS[recipe].method), {"name": recipe})
    if recipe == "demo" and (other_model or other_data):
        kept = {"name": recipe} if other_model else {"name": recipe, "model": DEMO["model"]}
        task = {} if other_data else {name: DEMO[name] for name in ("data", "prompts", "teacher")}
        recipe_values = deep_merge(BASE, kept | task)
        return recipe_values if other_data else _with_own_words(recipe_values, overrides)
    if recipe == "demo":
        return _with_own_words(recipe_values, overrides)
    if recipe == "tiny" and (other_model or other_data):
        recipe_values = TINY
    return without_task(recipe_values) if other_data else recipe_values


def _with_own_words(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`values` without its teacher's template where `overrides` name a context that is told in other words."""
    teacher = overrides.get("teacher")
    named = teacher.get("context") if isinstance(teacher, dict) else None
    kind = CONTEXT_KINDS.get(named) if isinstance(named, str) else None
    if kind is None or kind.template == CONTEXT_KINDS["reference"].template:
        return values
    return {name: value for name, value in values.items() if name != "teacher"}


def _replaced(values: dict[str, Any], overrides: dict[str, Any], section: str) -> bool:
    """True when a source that the recipe has gives way to another one."""
    return _named(values, section) is not None and _named(overrides, section) not in (None, _named(values, section))


def _named(values: dict[str, Any], section: str) -> str | None:
    part = values.get(section)
    return part.get("source") if isinstance(part, dict) else None


def without_task(values: dict[str, Any]) -> dict[str, Any]:
    """A copy without what was written for its own task: another source has other questions, rows, splits and graders."""
    return {name: value for name, value in values.items() if name not in ("prompts", "data")}


def resolve(recipe: str, *overrides: dict[str, Any]) -> CampaignConfig:
    """The complete configuration of `recipe` with `overrides` merged in, left to right.

    Raises ConfigError naming the unknown recipe, the unknown key, or the rule that is broken.
    """
    known_name(recipe, RECIPES, "recipe", "does not exist")
    changes: dict[str, Any] = {}
    for override in overrides:
        changes = deep_merge(changes, as_settings(override))
    values = deep_merge(starting_values(recipe, changes), changes)
    for section in ("model", "data"):
        if _named(values, section) is None and isinstance(values.get(section, {}), dict):
            raise ConfigError(
                f"recipe {recipe!r} has no {section} of its own. Give {section}.source, in overrides for instance."
            )
    try:
        return CampaignConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"configuration of recipe {recipe!r} is refused: {explained(error, CampaignConfig)}") from error

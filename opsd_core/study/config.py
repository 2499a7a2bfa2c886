"""Configuration of a study: a base recipe, arms, seeds, rates, and what is measured once at the end."""

from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from opsd_core.config import RECIPES, CampaignConfig, deep_merge, resolve, without_task
from opsd_core.config.base import Section
from opsd_core.config.kinds.contexts import CONTEXT_KINDS
from opsd_core.config.kinds.teachers import TEACHER_KINDS
from opsd_core.config.refusals import as_settings, explained, known_name
from opsd_core.errors import ConfigError
from opsd_core.study.arms import ARMS, find_arm, other_models
from opsd_core.study.sets import SETS


class StudyConfig(Section):
    """Everything that decides what a study computes."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Name of the study and its MLflow experiment."
    )
    recipe: str = Field(description="Campaign recipe that every arm starts from.")
    overrides: dict[str, Any] = Field({}, description="Changes of that recipe, for all arms.")
    arms: tuple[str, ...] = Field(min_length=1, description="Arms by name; base is always measured.")
    seeds: tuple[int, ...] = Field((0, 1), min_length=1, description="Seeds of every arm.")
    rates: dict[str, tuple[float, ...]] = Field(
        {},
        description="Learning rates per arm; of several, the first seed's validation accuracy chooses one for all seeds.",
    )
    separate_teacher: str = Field(
        "", description="The other model where a teacher needs one (separate_teacher, external.*, peers.*), as in "
        "teacher.source; tiny models have tiny_large."
    )
    test_items: int = Field(500, ge=2, description="Items of the test split, measured once per arm and seed.")
    test_samples: int = Field(4, ge=0, le=256, description="Sampled completions per test item; 0 = greedy only.")
    test_temperature: float = Field(1.0, gt=0, le=5, description="Their temperature; the same for all arms.")
    sets: tuple[str, ...] = Field((), description="Further sets: what may be forgotten, what may transfer.")
    set_items: int = Field(200, ge=2, description="Most items of each further set.")
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="Of every interval; 1 - confidence is the level of all tests."
    )

    @field_validator("recipe")
    @classmethod
    def _recipe_exists(cls, recipe: str) -> str:
        if recipe not in RECIPES:
            raise ValueError(f"there is no recipe {recipe!r}. Available: {', '.join(sorted(RECIPES))}.")
        return recipe

    @model_validator(mode="after")
    def _names_exist(self) -> "StudyConfig":
        for field, given in (("arms", self.arms), ("rates", self.rates)):
            if unknown := [name for name in given if find_arm(name) is None]:
                raise ValueError(
                    f"{field} has {', '.join(unknown)}. Available: {', '.join(ARMS)}; those that train also as NAME:N, with "
                    "N labelled examples; and any teacher as WEIGHTS.CONTEXT."
                )
        if unknown := [name for name in self.sets if name not in SETS]:
            raise ValueError(f"sets has {', '.join(unknown)}. Available: {', '.join(SETS)}.")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={list(self.seeds)} must be different numbers of at least 0.")
        return self

    @property
    def base(self) -> CampaignConfig:
        """The recipe with the study's overrides, before any arm's. ConfigError as resolve."""
        return resolve(self.recipe, self.overrides, {"name": self.name})

    @property
    def trained_arms(self) -> tuple[str, ...]:
        """The arms that train, each once, in the order given."""
        return tuple(name for name in dict.fromkeys(self.arms) if find_arm(name).trains)


TEACHERS = tuple(f"{weights}.{context}" for weights in TEACHER_KINDS for context in CONTEXT_KINDS)
_NOT_TINY = ("base", "opsd_answer", "opsd_mixed", "thinking", "top_tokens", "random_tokens")

_BESIDE = ("family_chain_sum", "family_products", "instructions", "english")
"""What a language model may forget while it learns something else."""

# The demo's task with more of everything, on problems of its own: the demo's choices were made on other ones.
SMOLLM2: dict[str, Any] = {
    "name": "study-smollm2",
    "recipe": "demo",
    "overrides": {
        "iterations": 2,
        "data": {"seed": 1_000_000},
        "rollout": {"num_prompts": 640},
        "optimizer": {"learning_rate": 1e-4, "num_steps": 20, "batch_size": 32},
        "execution": {"num_shards": 1, "checkpoint_every": 1000},
    },
    "arms": ("base", "sft", "opsd", "opsd_mixed", "shuffled"),
    "seeds": (0, 1, 2),
    "rates": {"sft": (1e-4, 3e-5), "opsd": (1e-4, 2e-4)},
    "test_items": 250,
    "test_samples": 0,
    "sets": ("shifted_number_format", *_BESIDE),
    "set_items": 250,
}

STUDIES: dict[str, dict[str, Any]] = {
    # Own model and own data.
    "base": {
        "name": "study",
        "recipe": "base",
        "arms": ("base", "sft", "rft", "opsd", "shuffled", "null"),
        "seeds": (0, 1, 2),
        "sets": _BESIDE,
    },
    "tiny": {
        "name": "study-tiny",
        "recipe": "tiny",
        # one checkpoint per iteration is enough: an arm is seconds long
        "overrides": {"execution": {"checkpoint_every": 1000, "num_shards": 1}},
        "arms": ("base", *(name for name in ARMS if name not in _NOT_TINY)),
        "seeds": (0, 1, 2, 3, 4),
        "rates": {arm: (5e-4, 1e-3, 2e-3) for arm in ("sft", "opsd")},
        "sets": ("tiny_copying", "tiny_facts", "tiny_text", "tiny_unpadded", "tiny_three_digits"),
    },
    # Claim (c): accuracy against labelled examples.
    "tiny_labels": {
        "name": "study-tiny-labels",
        "recipe": "tiny",
        "overrides": {"execution": {"checkpoint_every": 1000, "num_shards": 1}},
        "arms": ("base", *(f"{arm}:{number}" for number in (16, 64, 256, 1024) for arm in ("sft", "opsd"))),
        "seeds": (0, 1, 2),
        "sets": ("tiny_facts",),
    },
    # Which teacher teaches: every kind of weights with every kind of context.
    "tiny_teachers": {
        "name": "study-tiny-teachers",
        "recipe": "tiny",
        "overrides": {"iterations": 3, "execution": {"checkpoint_every": 1000, "num_shards": 1}},
        "arms": ("base", *TEACHERS),
        "seeds": (0, 1, 2),
        "test_samples": 0,
    },
    # Does self-distillation improve reasoning? For a GPU; benchmarks/claim asks the same of a smaller model on a CPU.
    "opsd_gsm8k": {
        "name": "study-gsm8k",
        "recipe": "opsd_gsm8k",
        "arms": ("base", "sft", "rft", "opsd", "opsd_answer", "majority", "shuffled", "null"),
        "seeds": (0, 1, 2),
        "rates": {"sft": (5e-6, 5e-5), "opsd": (5e-6, 5e-5)},
        "sets": _BESIDE,
    },
    "smollm2": SMOLLM2,
    # The same with adapters: less is won and less is forgotten.
    "smollm2_lora": SMOLLM2
    | {
        "name": "study-smollm2-lora",
        "overrides": deep_merge(
            SMOLLM2["overrides"],
            {"model": {"lora": {"rank": 16, "alpha": 32}}, "optimizer": {"learning_rate": 1e-3}},
        ),
        "arms": ("base", "sft", "opsd"),
        "rates": {},
        "sets": (*SMOLLM2["sets"], "family_letter_counting"),
    },
}


def resolve_study(recipe: str, overrides: dict[str, Any], knobs: dict[str, Any]) -> StudyConfig:
    """The configuration of study `recipe`: `overrides` change the campaign's recipe, `knobs` replace the study's own fields.

    Raises ConfigError naming what is wrong; every arm's configuration is resolved, so that none fails hours later.
    """
    known_name(recipe, STUDIES, "recipe", "is not a study")
    as_settings(overrides)
    as_settings(knobs, "the study")
    values = STUDIES[recipe] | {name: value for name, value in knobs.items() if value is not None}
    start = as_settings(values.get("overrides", {}))
    if isinstance(overrides.get("data"), dict) and "source" in overrides["data"]:
        start = without_task(start)
    values["overrides"] = deep_merge(start, overrides)
    try:
        study = StudyConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"study {recipe!r} is refused: {explained(error, StudyConfig)}") from error
    _ = study.base  # refused as the campaign that it is, before any arm changes it
    for arm in study.trained_arms:
        resolve_arm(study, arm, study.seeds[0])
    return study


def resolve_arm(study: StudyConfig, arm: str, seed: int, rate: float | None = None) -> CampaignConfig:
    """The campaign configuration of one arm and seed; `rate` replaces the recipe's learning rate. ConfigError as resolve."""
    entry = find_arm(arm)
    source = study.overrides.get("model", {}).get("source", RECIPES[study.recipe].get("model", {}).get("source"))
    changes = deep_merge(entry.overrides, entry.tiny or {}) if source == "tiny" else entry.overrides
    separate = study.separate_teacher or ("tiny_large" if source == "tiny" else "")
    if others := other_models(changes, separate, source):
        changes = deep_merge(changes, others)
        if not separate:
            raise ConfigError(
                f"arm {arm} learns from another model: name it in separate_teacher, as in teacher.source, or leave the arm out."
            )
    last: dict[str, Any] = {"seed": seed, "name": study.name}
    if rate is not None:
        last["optimizer"] = {"learning_rate": rate}
    try:
        config = resolve(study.recipe, study.overrides, changes, last)
        if entry.num_labels is None:
            return config
        # As many completions as with all labels, of fewer prompts.
        rollout = config.rollout
        group = max(1, rollout.num_prompts * rollout.group_size // entry.num_labels)
        few = {"rollout": {"num_prompts": min(entry.num_labels, rollout.num_prompts), "group_size": min(group, 256)}}
        return resolve(study.recipe, study.overrides, changes, last, few)
    except ConfigError as error:
        raise ConfigError(f"arm {arm}: {error}") from error

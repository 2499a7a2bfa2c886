"""When a setting is read. One that differs from its default and is read nowhere is worth a warning when a campaign starts."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from opsd_core.config.base import Section
from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.kinds.contexts import CONTEXT_KINDS
from opsd_core.config.kinds.divergences import DIVERGENCE_KINDS
from opsd_core.config.kinds.engines import ENGINE_KINDS
from opsd_core.config.kinds.environments import ENVIRONMENT_KINDS
from opsd_core.config.kinds.sources import SOURCE_KINDS
from opsd_core.config.kinds.teachers import TEACHER_KINDS
from opsd_core.config.schedules import stages


class Condition(NamedTuple):
    """Under which a setting is read: in words, and as a test of a configuration."""

    words: str
    holds: Callable[[CampaignSettings], bool]


def value_at(config: Section, path: str) -> Any:
    """The value of the setting at `path`."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _one_of(path: str, *values: str | bool) -> Condition:
    named = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    return Condition(f"{path}={' or '.join(named)}", lambda config: value_at(config, path) in values)


def _other_than(path: str, value: Any) -> Condition:
    return Condition(f"{path} other than {value}", lambda config: value_at(config, path) != value)


def _given(path: str) -> Condition:
    return Condition(f"{path} set", lambda config: bool(value_at(config, path)))


def _above(path: str, limit: float) -> Condition:
    return Condition(f"{path} above {limit:g}", lambda config: value_at(config, path) > limit)


def _all(*conditions: Condition) -> Condition:
    words = " and ".join(condition.words for condition in conditions)
    return Condition(words, lambda config: all(condition.holds(config) for condition in conditions))


def _any(*conditions: Condition) -> Condition:
    words = ", or ".join(condition.words for condition in conditions)
    return Condition(words, lambda config: any(condition.holds(config) for condition in conditions))


def _reading(path: str, kinds: Mapping[str, Any]) -> dict[str, Condition]:
    """Every setting that kinds of what is chosen at `path` read, with the choices that read it."""
    section = path.partition(".")[0]
    settings = {setting for kind in kinds.values() for setting in kind.reads}
    return {
        f"{section}.{setting}": _one_of(path, *(name for name, kind in kinds.items() if setting in kind.reads))
        for setting in sorted(settings)
    }


def _read_by_members(found: Mapping[str, Condition], kind_of: Callable[[CampaignSettings], Any]) -> dict[str, Condition]:
    """The same of a teacher that may have members."""

    def condition(path: str) -> Callable[[CampaignSettings], bool]:
        return lambda config: path.rpartition(".")[2] in kind_of(config).reads

    return {path: Condition(known.words, condition(path)) for path, known in found.items()}


def _taught_by(*models: str) -> Condition:
    words = _one_of("teacher.weights", *(name for name, kind in TEACHER_KINDS.items() if kind.models in models)).words
    return Condition(words, lambda config: config.teacher.weights_kind.models in models)


def _context(words: str, property_: str) -> Condition:
    return Condition(f"a teacher.context {words}", lambda config: getattr(config.teacher.kind, property_))


def _source(setting: str) -> Condition:
    examples = [kind.example for kind in SOURCE_KINDS.values() if setting in kind.reads]
    return Condition(f"a data.source such as {', or '.join(examples)}", lambda config: setting in config.data.kind.reads)


_TEACHER = Condition("a distillation.divergence that has a teacher", lambda config: not config.distillation.teacher_free)
_RECORDED = _all(_TEACHER, _one_of("distillation.targets", "recorded"))
_ONLINE = _all(_TEACHER, _one_of("distillation.targets", "online"))
_CONTEXT = _all(_TEACHER, Condition("teacher.context other than none", lambda config: config.teacher.informed))
_REFERENCES = Condition(
    "rollout.on_policy_fraction below 1, or distillation.gold_share above 0", lambda config: config.uses_references
)
_SAMPLES_AGAIN = _all(_above("iterations", 1), _above("rollout.on_policy_fraction", 0))
_ASKS_AGAIN = _all(_above("rollout.refill.share", 0), _above("rollout.on_policy_fraction", 0))
_SEVERAL = _any(
    _above("rollout.group_size", 1),
    _ASKS_AGAIN,
    _one_of("filter.keep_per_prompt", "shortest_right"),
)
_REHEARSAL = _above("rehearsal.share", 0)
_SAMPLED = _above("evaluation.num_samples", 0)
_RECOVERS = Condition(
    "an alarms.remedy that continues", lambda config: config.alarms.remedy not in ("warn", "end")
)
_OF_WEIGHTS = _read_by_members(_reading("teacher.weights", TEACHER_KINDS), lambda config: config.teacher.weights_kind)
_OF_CONTEXTS = _read_by_members(_reading("teacher.context", CONTEXT_KINDS), lambda config: config.teacher.kind)

READ_WHEN: dict[str, Condition] = {
    "model.lora.alpha": _above("model.lora.rank", 0),
    "model.lora.target_modules": _above("model.lora.rank", 0),
    "model.lora.base_dtype": _above("model.lora.rank", 0),
    "execution.parallel": _above("execution.ranks", 1),
    **_reading("execution.engine", ENGINE_KINDS),
    "data.subset": _source("subset"),
    "data.split": _source("split"),
    "data.encoding": _source("encoding"),
    "data.options": _source("options"),
    "data.grader_function": _one_of("data.grader", "python"),
    "execution.pools": _one_of("execution.placement", "workers"),
    "execution.overlap": _SAMPLES_AGAIN,
    "rollout.reference_completion": _REFERENCES,
    **_reading("rollout.environment", ENVIRONMENT_KINDS),
    "rollout.refresh": _SAMPLES_AGAIN,
    "rollout.min_overlap": _all(_SAMPLES_AGAIN, _one_of("rollout.refresh", "overlap")),
    "rollout.min_effective_sample_size": _all(_SAMPLES_AGAIN, _one_of("rollout.refresh", "overlap")),
    "rollout.refill.share": _above("rollout.on_policy_fraction", 0),
    "rollout.refill.group_size": _ASKS_AGAIN,
    "rollout.refill.max_rounds": _ASKS_AGAIN,
    "rollout.refill.max_completions": _ASKS_AGAIN,
    "filter.keep_per_prompt": _SEVERAL,
    "filter.min_gain": _one_of("filter.teacher_probe", "gain"),
    "token_weights.position_floor": _other_than("token_weights.position", "uniform"),
    "token_weights.position_centre": _other_than("token_weights.position", "uniform"),
    "token_weights.position_width": _other_than("token_weights.position", "uniform"),
    "token_weights.entropy_of": _other_than("token_weights.entropy", "uniform"),
    "token_weights.entropy_beta": _one_of("token_weights.entropy", "down", "up"),
    "token_weights.entropy_fraction": _one_of("token_weights.entropy", "top", "random"),
    "token_weights.importance_clip": _one_of("token_weights.importance_correction", True),
    "teacher.weights": _TEACHER,
    "teacher.members": _TEACHER,
    **{path: _all(_TEACHER, condition) for path, condition in _OF_WEIGHTS.items()},
    **{path: _all(_TEACHER, condition) for path, condition in _OF_CONTEXTS.items()},
    "teacher.source": _all(_TEACHER, _taught_by("source")),
    "teacher.peers": _all(_TEACHER, _any(_taught_by("peers"), _context("that shows peers", "peers"))),
    "teacher.peer_filter": _all(_TEACHER, _taught_by("source", "peers")),
    "teacher.reference": _any(_all(_TEACHER, _context("that shows a reference", "reference")), _REFERENCES),
    "teacher.only_unsuccessful": _all(_TEACHER, _context("made from rollouts", "rollouts")),
    "teacher.missing_context": _all(_TEACHER, _context("made from rollouts", "rollouts")),
    "teacher.template": _CONTEXT,
    "teacher.system": _CONTEXT,
    "teacher.temperature": _TEACHER,
    "teacher.top_p": _TEACHER,
    "teacher.top_k": _TEACHER,
    "teacher.require_privilege_gain": _all(_TEACHER, _context("that shows a reference", "reference")),
    **_reading("distillation.divergence", DIVERGENCE_KINDS),
    "distillation.targets": _TEACHER,
    "distillation.top_k_of": _ONLINE,
    "distillation.top_k": _any(_RECORDED, _all(_ONLINE, _other_than("distillation.top_k_of", "full"))),
    "distillation.tail": _any(_RECORDED, _all(_ONLINE, _other_than("distillation.top_k_of", "full"))),
    "distillation.scale_by_temperature_squared": _other_than("distillation.temperature", 1.0),
    "distillation.bound": _TEACHER,
    "distillation.merge_stop": _TEACHER,
    "distillation.bound_threshold": _all(_TEACHER, _other_than("distillation.bound", "none")),
    "distillation.gold_coefficient": _above("distillation.gold_share", 0),
    "rehearsal.coefficient": _REHEARSAL,
    "rehearsal.data": _REHEARSAL,
    "rehearsal.num_prompts": _REHEARSAL,
    "optimizer.final_fraction": _other_than("optimizer.schedule", "constant"),
    "evaluation.block": _one_of("promotion.test", "sequential"),
    "evaluation.temperature": _SAMPLED,
    "evaluation.top_p": _SAMPLED,
    "curriculum.easy_power": _one_of("curriculum.sampling", "difficulty"),
    "curriculum.hard_power": _one_of("curriculum.sampling", "difficulty"),
    "curriculum.min_pass_rate": _one_of("curriculum.sampling", "difficulty"),
    "curriculum.max_pass_rate": _one_of("curriculum.sampling", "difficulty"),
    "curriculum.length_growth": _above("curriculum.length_start", 0),
    "curriculum.length_max_entropy": _above("curriculum.length_start", 0),
    "alarms.max_recoveries": _RECOVERS,
    "alarms.temperature_factor": _one_of("alarms.remedy", "raise_temperature"),
    "alarms.rate_factor": _one_of("alarms.remedy", "lower_rate"),
    "alarms.kl_steps": _given("alarms.max_kl_p99"),
    "alarms.slope_window": _given("alarms.slope_level"),
    "alarms.slope_change": _given("alarms.slope_level"),
    "promotion.approval_hours": _one_of("promotion.mode", "approve"),
    "promotion.anchor": _given("promotion.guards"),
    "promotion.guard_alpha": _given("promotion.guards"),
    "promotion.alpha_per": _any(_above("iterations", 1), _one_of("promotion.alpha_per", "model")),
    "evaluation.refresh": _one_of("promotion.alpha_per", "model"),
    "evaluation.max_decisions": _one_of("promotion.alpha_per", "model"),
    "promotion.continue_from": _above("iterations", 1),
}
"""Every setting that is read under a condition. Those that are always read are not here."""


def unread(config: CampaignSettings) -> Iterator[str]:
    """Paths of the settings that differ from their defaults although no iteration of the campaign reads them."""
    in_force = [stage for _, stage in stages(config)]
    for path, condition in READ_WHEN.items():
        section, _, name = path.rpartition(".")
        default = type(value_at(config, section)).model_fields[name].get_default(call_default_factory=True)
        if value_at(config, path) != default and not any(condition.holds(stage) for stage in in_force):
            yield path


def settings_without_effect(config: CampaignSettings) -> Iterator[str]:
    """A sentence for each of them, with what would read it."""
    for path in unread(config):
        yield f"{path}={value_at(config, path)!r:.60} has no effect: it is read only with {READ_WHEN[path].words}."

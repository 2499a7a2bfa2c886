"""The configuration in force in one iteration: scheduled values in place of fixed ones."""

from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.curriculum import FIXED_SETTINGS, SCHEDULED_SECTIONS
from opsd_core.config.refusals import explained
from opsd_core.errors import ConfigError

Settings = TypeVar("Settings", bound=CampaignSettings)
"""A campaign's settings, checked or not."""


def scheduled_value(values: tuple[Any, ...], iteration: int, iterations: int) -> Any:
    """values[floor(iteration * len(values) / iterations)]: every value for an equal share of the campaign."""
    return values[min(iteration * len(values) // iterations, len(values) - 1)]


def config_at(config: Settings, iteration: int, max_completion_length: int | None = None) -> Settings:
    """`config` with the scheduled values of `iteration` and the curriculum's length limit.

    Raises ConfigError when a schedule names a setting that does not exist or may not change, or a value it refuses.
    """
    changes: dict[str, dict[str, Any]] = {}
    for path, values in config.curriculum.schedules.items():
        section, _, name = path.partition(".")
        _check(config, path, section, name, values)
        changes.setdefault(section, {})[name] = scheduled_value(values, iteration, config.iterations)
    if config.curriculum.length_start:
        length = max_completion_length or config.curriculum.length_start
        changes.setdefault("rollout", {})["max_completion_length"] = length
    return config.model_copy(update={name: _changed(getattr(config, name), name, new) for name, new in changes.items()})


def stages(config: Settings) -> Iterator[tuple[int, Settings]]:
    """Every different configuration of the campaign with the first iteration that it is in force.

    Raises ConfigError as `config_at` does.
    """
    starts = {
        -(-share * config.iterations // len(values))
        for values in config.curriculum.schedules.values()
        for share in range(len(values))
    }
    for iteration in sorted(starts | {0}):
        yield iteration, config_at(config, iteration)


def _check(config: CampaignSettings, path: str, section: str, name: str, values: tuple[Any, ...]) -> None:
    known = section in SCHEDULED_SECTIONS and name in type(getattr(config, section)).model_fields
    if not known or path in FIXED_SETTINGS:
        raise ConfigError(
            f"curriculum.schedules[{path!r}]: no such setting, or one that must not change during a campaign. "
            f"Sections that may be scheduled: {', '.join(SCHEDULED_SECTIONS)} (without {', '.join(FIXED_SETTINGS)})."
        )
    if not values:
        raise ConfigError(f"curriculum.schedules[{path!r}] is empty; give one value per share of the iterations.")
    if path == "rollout.max_completion_length" and config.curriculum.length_start:
        raise ConfigError(
            "curriculum.schedules['rollout.max_completion_length'] and curriculum.length_start both set the length "
            "limit. Use one of them."
        )


def _changed(section: Any, name: str, changes: dict[str, Any]) -> Any:
    try:
        return type(section).model_validate(section.model_dump() | changes)
    except ValidationError as error:
        raise ConfigError(f"curriculum.schedules: {name}.{explained(error)}") from error

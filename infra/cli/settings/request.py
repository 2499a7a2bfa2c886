"""What `FILE|RECIPE [key=value …]` asks for: a recipe, the settings over it, and where every value comes from."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.cli.settings.places import placed, worker_is_here
from infra.cli.settings.values import SUFFIXES, assignments, read_file
from opsd_core.config import RECIPES, CampaignConfig, deep_merge, resolve
from opsd_core.config.recipes import starting_values
from opsd_core.config.refusals import as_settings, known_name, meant
from opsd_core.errors import ConfigError
from opsd_core.study import STUDIES

DEFAULT_RECIPE = "base"
"""Of a file that names none."""
PARAMETERS = ("name", "iterations", "seed")
"""Settings that the deployment has as parameters of its own, so that its runs are named after them."""


@dataclass(frozen=True)
class Request:
    """A campaign, or a study, as somebody asks for it."""

    recipe: str
    layers: tuple[tuple[str, dict[str, Any]], ...]
    """(where from, settings), the later over the earlier."""

    @property
    def overrides(self) -> dict[str, Any]:
        """All layers in one."""
        merged: dict[str, Any] = {}
        for _, values in self.layers:
            merged = deep_merge(merged, values)
        return merged

    def config(self) -> CampaignConfig:
        """The complete configuration. ConfigError by field, value and rule."""
        return resolve(self.recipe, self.overrides)

    def checked(self) -> CampaignConfig:
        """`config`, with its data set read where that is cheap: what needs no model is refused before a run waits in a queue."""
        from opsd_core.graders.readable import check_readable

        config = self.config()
        if worker_is_here():
            check_readable(config.data, slices=config.evaluation.slices)
        return config

    def parameters(self) -> dict[str, Any]:
        """Of the deployment `opsd/iterate`."""
        rest = self.overrides
        own = {key: rest.pop(key) for key in PARAMETERS if key in rest}
        return {"recipe": self.recipe, **own, "overrides": rest}

    def origins(self) -> dict[str, str]:
        """Where each setting that is no default comes from, by its path."""
        found = {path: f"recipe {self.recipe}" for path, _ in flat(starting_values(self.recipe, self.overrides))}
        for origin, values in self.layers:
            found |= dict.fromkeys((path for path, _ in flat(values)), origin)
        return found


def read_request(what: str, settings: Sequence[str]) -> Request:
    """The request behind a recipe's name or a file, with `key=value` over it. ConfigError when it is neither."""
    return request_of(what, assignments(settings), "command line")


def request_of(what: str | Mapping[str, Any], over: dict[str, Any], origin: str) -> Request:
    """The request behind a recipe's name, a file or settings, with `over` over it, which comes from `origin`.

    Paths in settings and in `over` are relative to the present folder. ConfigError when it is none of these.
    """
    return _asked(what, RECIPES, over, origin)


def asked_study(what: str, settings: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """(study, settings over it) behind a study's name or a file, with `key=value` over it. ConfigError when it is neither."""
    request = _asked(what, STUDIES, assignments(settings), "command line")
    return request.recipe, request.overrides


def _asked(what: str | Mapping[str, Any], known: Collection[str], over: dict[str, Any], origin: str) -> Request:
    given, layers = placed(as_settings(over, "settings"), Path.cwd()), []
    recipe: Any = what
    if isinstance(what, Mapping):
        layers.append(("settings", placed(as_settings(dict(what), "settings"), Path.cwd())))
    elif what not in known:
        path = Path(what)
        layers.append((f"file {path.name}", placed(as_settings(_file(what, path, known), str(path)), path.resolve().parent)))
    for _, values in layers:
        recipe = values.pop("recipe", DEFAULT_RECIPE)
    recipe = known_name(given.pop("recipe", recipe), known, "recipe", "does not exist")
    return Request(recipe, (*layers, (origin, given)))


def _file(what: str, path: Path, known: Collection[str]) -> dict[str, Any]:
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{what!r:.200} is neither a recipe nor a settings file ({', '.join(SUFFIXES)}).{meant(what, known)} "
            f"Recipes: {', '.join(sorted(known))}."
        )
    if not path.is_file():
        raise ConfigError(f"there is no settings file {path.absolute()}. Correct the path, or name a recipe (opsd recipes).")
    return read_file(path)


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their paths; objects that are values themselves, such as data.options, stay whole."""
    for key, value in values.items():
        if isinstance(value, dict) and key not in ("options", "schedules"):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

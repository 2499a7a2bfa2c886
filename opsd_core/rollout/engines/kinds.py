"""The engine of a configuration: the table's classes, and what is refused before one is started.

A new engine is a class (`interface.Engine`) and a line in `opsd_core.config.kinds.engines`. tests/core/rollout/engines holds
every engine of the table to the same record.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from opsd_core.config import CampaignConfig
from opsd_core.config.kinds.engines import ENGINE_KINDS
from opsd_core.errors import ConfigError, ModelError
from opsd_core.models.devices import Offer
from opsd_core.named import named
from opsd_core.rollout.engines.environment import Environment
from opsd_core.rollout.engines.interface import Engine, Weights

ENGINES: dict[str, type[Engine]] = {name: named(kind.engine) for name, kind in ENGINE_KINDS.items()}


def start_engine(weights: Weights, config: CampaignConfig, environments: Path) -> Engine:
    """The engine that execution.engine names; errors as `Engine.start`."""
    return ENGINES[config.execution.engine].start(weights, config, environments)


def engines_of(environments: Path) -> tuple[str, ...]:
    """The engines that this machine has."""
    own = [name for name, kind in ENGINE_KINDS.items() if not kind.made_by]
    return (*own, *(name for name in ENGINE_KINDS if name not in own and Environment.of(name, environments).version))


def check_offered(name: str, offers: Mapping[str, Offer]) -> None:
    """ConfigError by the name of a machine that will do the work and lacks the engine."""
    for where, offer in offers.items():
        if name not in offer.engines:
            here = "" if where == "here" else f" {where}"
            raise ConfigError(
                f"execution.engine={name} is not installed{here}. Install it there with `{ENGINE_KINDS[name].made_by}` (an "
                "environment of its own, docs/deploy.md), or set execution.engine=transformers."
            )


def check_architecture(config: CampaignConfig, architectures: Sequence[str], environments: Path) -> None:
    """ModelError when the engine knows no architecture that config.json names; the engine is asked, no weight is read."""
    name = config.execution.engine
    if not ENGINE_KINDS[name].made_by:
        return
    environment = Environment.of(name, environments)
    if not set(architectures) & set(environment.architectures()):
        named = " or ".join(architectures) or "model whose config.json names no architecture"
        raise ModelError(
            f"model.source={config.model.source!r} is a {named}, which execution.engine={name} ({environment.version}) does not "
            "know. Set execution.engine=transformers, or choose another model.source."
        )

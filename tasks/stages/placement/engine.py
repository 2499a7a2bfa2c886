"""What `auto` stands for in a campaign: settled at its first start, stored, and kept by later starts of the same settings."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from opsd_core.config import CampaignConfig, ModelConfig
from opsd_core.errors import ConfigError
from opsd_core.models.devices import Offer, settled
from opsd_core.rollout.engines.kinds import check_offered
from tasks.context import local, produce
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task


@task(name="settle-engine", **STAGE)
def settle_engine(config: CampaignConfig, offers: Mapping[str, Offer]) -> CampaignConfig:
    """`config` with the device and dtype that all its stages use: those of its first start, else what all `offers` have.

    ConfigError when a machine lacks the engine or the CUDA device that was asked for, or on which the campaign began.
    """
    check_offered(config.execution.engine, offers)
    asked = config.model
    if "auto" not in (asked.device, asked.dtype):
        return _with(config, settled(asked, offers))
    identity = engine_identity(config)
    artifact, seconds = produce("engines", identity, partial(_settle, asked, offers))
    kept = json.loads((local(artifact.uri) / "engine.json").read_text())
    model = asked.model_copy(update={name: kept[name] for name in ("device", "dtype")})
    try:
        settled(model, offers)
    except ConfigError as error:
        raise ConfigError(
            f"this campaign began with model.device={model.device} and model.dtype={model.dtype} and keeps them. {error} To go "
            f"on without one, set model.device=cpu and model.dtype={model.dtype}: what is stored is found again."
        ) from error
    get_run_logger().info(
        "%s: model.device=%s, model.dtype=%s", "settled" if seconds else "settled before", model.device, model.dtype
    )
    return _with(config, model)


def engine_identity(config: CampaignConfig) -> dict[str, Any]:
    """What decides whose record of device and dtype counts: the settings as they were asked for."""
    return {"config": config.deciding()}


def _settle(asked: ModelConfig, offers: Mapping[str, Offer], folder: Path) -> dict[str, Any]:
    model = settled(asked, offers)
    record = {"device": model.device, "dtype": model.dtype}
    (folder / "engine.json").write_text(json.dumps(record, sort_keys=True))
    return record


def _with(config: CampaignConfig, model: ModelConfig) -> CampaignConfig:
    return config.model_copy(update={"model": model})

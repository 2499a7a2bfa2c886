"""Where a campaign starts: from the weights that opsd/pretrain promoted under its name, where there are any."""

from prefect import task
from prefect.logging import get_run_logger

from opsd_core.config import CampaignConfig
from tasks.context import tracker
from tasks.refs import PolicyRef
from tasks.runtime.retries import STAGE

PRETRAINED_FROM = "opsd.pretrained_from"
"""Tag of a version that opsd/pretrain made: digest of the weights that it started from."""


@task(name="warm-start", **STAGE)
def warm_start(config: CampaignConfig, source: PolicyRef) -> CampaignConfig:
    """`config` whose model.source is the newest pretrained champion that began as `source`; `config` itself without one.

    A later champion, from opsd/iterate, changes nothing: the same trigger stays the same campaign. One that was rolled
    back is not used.
    """
    registry, name = tracker(), config.name
    if not config.model.warm_start or registry.version_by_alias(name, "champion") is None:
        return config
    standing: dict[int, None] = {}
    for move in registry.moves(name):
        if move.action == "rollback":
            standing.pop(move.before, None)
        standing[move.after] = None
    found = [v for v in registry.versions(name) if v.version in standing and v.tags.get(PRETRAINED_FROM) == source.digest]
    if not found:
        return config
    version = found[-1]
    get_run_logger().info(
        "starting from version %d of %s, which opsd/pretrain promoted (model.warm_start=true)", version.version, name
    )
    return config.model_copy(update={"model": config.model.model_copy(update={"source": version.tags["opsd.model_uri"]})})

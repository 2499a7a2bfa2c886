"""Rollout engines for stages: one at a time in a process, kept between the shards of a policy."""

from collections.abc import Iterator
from contextlib import contextmanager

from opsd_core.config import CampaignConfig
from opsd_core.config.kinds.engines import ENGINE_KINDS
from opsd_core.models.devices import Offer, offer_here
from opsd_core.rollout.engines.interface import Engine, Weights
from opsd_core.rollout.engines.kinds import engines_of, start_engine
from tasks.context import local, settings
from tasks.loaded import shared_policy
from tasks.refs import PolicyRef

_kept: dict[str, Engine] = {}
"""What it was started for -> the engine; at most one."""


@contextmanager
def engine_for(policy: PolicyRef, config: CampaignConfig) -> Iterator[Engine]:
    """The engine of `config` with these weights: the one that stands, where it is the same. An error in the block ends it."""
    wanted = f"{policy.digest} {config.model_dump_json(include={'model', 'rollout', 'prompts', 'rehearsal', 'execution'})}"
    try:
        if wanted not in _kept or not _kept[wanted].alive:
            stop_engine()
            weights = Weights(shared_policy(policy, config.model), local(policy), policy.digest)
            _kept[wanted] = start_engine(weights, config, settings().home)
        yield _kept[wanted]
    except BaseException:
        stop_engine()
        raise


def stop_engine() -> None:
    """Leave no engine, and nothing of one in memory."""
    while _kept:
        _kept.popitem()[1].close()


def offer() -> Offer:
    """What this machine has, engines included."""
    here = offer_here()
    return Offer(here.cuda, here.bfloat16, engines_of(settings().home))


def has_process(config: CampaignConfig) -> bool:
    """Whether the engine of `config` is a process of its own, which has to be ended."""
    return bool(ENGINE_KINDS[config.execution.engine].made_by)

"""Distil again from stored rollouts under another objective, without generating.

prefect deployment run opsd/replay -p name=demo -p 'overrides={"distillation": {"divergence": "reverse_kl"}}'
prefect deployment run opsd/replay -p name=demo -p 'iterations=[0]' -p 'overrides={"teacher": {"temperature": 0.7}}'
"""

import time
from typing import Annotated, Any

from pydantic import Field

from flows import stages
from flows.forms import settings
from flows.iterate import begin, learn
from flows.parameters import flow
from flows.promote import Name
from opsd_core.config import CampaignConfig, config_at
from tasks.exclusive import one_campaign
from tasks.refs import Campaign, PolicyRef, Sampled
from tasks.runtime.side_by_side import Run
from tasks.stages.replay import (
    SECTIONS,
    ReplaySource,
    StoredIteration,
    check_start,
    find_rollouts,
    replay_config,
    stored_shards,
)
from tasks.summary import IterationSummary


@flow
def replay(
    name: Name,
    iterations: list[Annotated[int, Field(ge=0)]] | None = None,
    overrides: Annotated[dict[str, Any], settings(SECTIONS)] = {},  # noqa: B006
    campaign: str | None = None,
) -> str:
    """Another objective on the same rollouts: its own registered model, `<name>-replay-<digest>`; `name` stays as it is.

    Args:
        name: Registered model whose rollouts are used, i.e. the campaign's name.
        iterations: Iterations whose rollouts are used. Untouched: all of the campaign.
        overrides: Changes of teacher, distillation, token_weights, optimizer and filter, nested as in docs/configuration.md.
        campaign: Campaign id (tag opsd.campaign). Untouched: the newest.
    """
    source = find_rollouts(name, iterations, campaign)
    config = replay_config(source, overrides)
    stages.preflight(config, data=False)
    with one_campaign(config.name), stages.placed(config.name, config.execution) as run:
        return run_replay(config, source, run)


def run_replay(config: CampaignConfig, source: ReplaySource, run: Run) -> str:
    """Every chosen iteration in its order, and the closing lines."""
    stages.load_all()
    config = stages.settle_engine(config, stages.offers(run))
    initial = run.one(stages.prepare_model, config)
    check_start(source, initial)
    campaign = begin(config, initial, source.data, run)
    policy, summaries = initial, []
    for position, stored in enumerate(source.iterations):
        policy, summary = replay_iteration(campaign, position, stored, policy, run)
        summaries.append(summary)
    text = f"{config.name}\n{stages.close_campaign(campaign, summaries)}"
    print(text)
    return text


def replay_iteration(
    campaign: Campaign, position: int, stored: StoredIteration, policy: PolicyRef, run: Run
) -> tuple[PolicyRef, IterationSummary]:
    """Grade stored rollouts and learn from them, without alarms; the comparison is with the starting weights."""
    started = time.perf_counter()
    in_force = config_at(campaign.config, stored.iteration)
    iteration = stages.open_iteration(campaign, position, in_force, (policy, campaign.champion))
    iteration = stages.meet_peers(iteration, stored.prompts, run)
    shards = stored_shards(stored, position)
    graded = stages.grade(iteration, stored.prompts, shards)
    outcome = learn(iteration, Sampled(prompts=stored.prompts, shards=shards, graded=graded), monitors=None, run=run)
    summary = stages.report_iteration(iteration, outcome, stages.write_answers(iteration, outcome))
    return outcome.candidate, summary.model_copy(update={"wall_seconds": time.perf_counter() - started})

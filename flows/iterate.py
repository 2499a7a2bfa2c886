"""The main job: N iterations of roll out, grade, score, distil, evaluate, register, gate.

prefect deployment run opsd/iterate --watch
prefect deployment run opsd/iterate -p recipe=tiny -p iterations=5 -p 'overrides={"teacher": {"temperature": 0.8}}'
"""

import time
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from opsd_core.config import RECIPES, resolve
from tasks.decide import judge, register
from tasks.distil import distil_candidate
from tasks.evaluate import evaluate
from tasks.prepare import preflight, prepare_data, prepare_model, start_campaign
from tasks.records import Campaign, PolicyRef
from tasks.report import IterationSummary, close_campaign, open_iteration, report_iteration
from tasks.rollout import choose_prompts, grade, rollout
from tasks.teach import score_shard, teacher_ref

RecipeName = Literal[*sorted(RECIPES)]


def _run_name() -> str:
    parameters = flow_run.get_parameters()
    return f"{parameters.get('name') or parameters['recipe']}-seed{parameters.get('seed') or 0}"


@flow(name="opsd", flow_run_name=_run_name, log_prints=True)
def iterate(
    recipe: Annotated[RecipeName, Field(description="Named configuration to start from.")] = "demo",
    name: Annotated[str | None, Field(description="Campaign and registered-model name; empty = the recipe's.")] = None,
    iterations: Annotated[int | None, Field(ge=1, le=1000, description="Iterations; empty = the recipe's.")] = None,
    num_prompts: Annotated[int | None, Field(ge=1, le=1_000_000, description="Training prompts per iteration.")] = None,
    num_steps: Annotated[int | None, Field(ge=1, le=1_000_000, description="Optimiser steps per iteration.")] = None,
    learning_rate: Annotated[float | None, Field(gt=0, le=1, description="Peak learning rate.")] = None,
    seed: Annotated[int | None, Field(ge=0, description="Seed of everything that is drawn at random.")] = None,
    overrides: Annotated[
        dict[str, Any],
        Field(
            description="Any other setting, nested as in docs/configuration.md; merged deeply, siblings keep their values."
        ),
    ] = {},  # noqa: B006
) -> str:
    """On-policy self-distillation: a new model version is promoted only when a paired test says it is better."""
    knobs = {
        "name": name,
        "iterations": iterations,
        "seed": seed,
        "rollout.num_prompts": num_prompts,
        "optimizer.num_steps": num_steps,
        "optimizer.learning_rate": learning_rate,
    }
    config = resolve(recipe, overrides, nested({key: value for key, value in knobs.items() if value is not None}))
    preflight(config)
    initial = prepare_model(config)
    data_uri = prepare_data(config, initial)
    campaign = start_campaign(config, initial, data_uri)
    policy, champion, summaries = initial, campaign.champion, []
    for iteration in range(config.iterations):
        policy, champion, summary = run_iteration(campaign, iteration, policy, champion)
        summaries.append(summary)
    text = close_campaign(campaign, summaries)
    print(text)
    return text


def run_iteration(
    campaign: Campaign, iteration: int, policy: PolicyRef, champion: PolicyRef
) -> tuple[PolicyRef, PolicyRef, IterationSummary]:
    """One turn of the loop; returns where the next one starts, the champion, and the numbers."""
    started = time.perf_counter()
    config = campaign.config
    run_id = open_iteration(campaign, iteration)
    prompts = choose_prompts(campaign, iteration)
    shards = [rollout(campaign, policy, prompts, shard) for shard in range(prompts.num_shards)]
    graded = grade(campaign, prompts, shards)
    teacher = teacher_ref(campaign, champion)
    recorded = config.distillation.targets == "recorded"
    targets = [score_shard(campaign, teacher, shard) for shard in shards] if recorded else []
    distilled = distil_candidate(campaign, iteration, run_id, policy, champion, shards, graded, targets)
    before = evaluate(campaign, champion, f"it{iteration}-champion-v{champion.version}")
    after = evaluate(campaign, distilled.policy, f"it{iteration}-candidate")
    candidate = register(campaign, iteration, run_id, policy, champion, distilled, after, shards, graded, targets)
    verdict = judge(campaign, iteration, candidate, after, champion, before)
    summary = report_iteration(
        campaign,
        iteration,
        run_id,
        prompts,
        shards,
        graded,
        targets,
        distilled,
        candidate,
        before,
        after,
        verdict,
    )
    summary = summary.model_copy(update={"wall_seconds": time.perf_counter() - started})
    refused_back = not verdict.promote and config.promotion.continue_from == "champion"
    return (verdict.champion if refused_back else candidate), verdict.champion, summary


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree

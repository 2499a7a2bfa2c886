"""What the initial policy answers to prompts of other tasks, recorded once; training keeps the student close to it."""

from functools import partial
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from opsd_core.config import CampaignConfig, DataConfig
from opsd_core.data import load_examples
from opsd_core.digest import derive_seed
from opsd_core.errors import DataError
from opsd_core.models.policy import tokenizer_digest
from opsd_core.prompts.builder import PromptBuilder, fitting_examples
from opsd_core.records.examples import Example
from opsd_core.records.rollouts import write_rollouts
from opsd_core.rollout.sample import complete
from tasks.context import produce, scratch
from tasks.engines import engine_for, stop_engine
from tasks.loaded import shared_policy
from tasks.refs import Campaign, Ref
from tasks.runtime.progress import progress
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.sources import data_sources, download_file, named
from tasks.stages.rollout import engine
from tasks.states import data_state, in_words, rehearsal_sources, unchanged_data

_OF_THE_TASK = ("group_size", "on_policy_fraction", "environment", "environment_function", "max_turns")
"""Settings that other tasks' prompts are not answered with; no environment takes part."""


@task(name="rehearse", **STAGE)
def rehearse(campaign: Campaign) -> Campaign:
    """The campaign with the address of its rehearsal: the initial policy's completions with their distributions.

    DataError when a source has fewer prompts than its part of rehearsal.num_prompts, or one does not fit.
    """
    config, rehearsal = campaign.config, campaign.config.rehearsal
    policy = shared_policy(campaign.initial, config.model)
    builder = PromptBuilder(policy.tokenizer, rehearsal.prompts, config.teacher, config.model.chat_template)
    identity = {
        "initial": campaign.initial.digest,
        "sources": rehearsal_sources(config),
        "num_prompts": rehearsal.num_prompts,
        "template": builder.student_digest,
        "prompts": rehearsal.prompts.model_dump(include={"max_prompt_length", "overflow"}),
        "tokenizer": tokenizer_digest(policy.tokenizer),
        "sampling": {name: value for name, value in config.rollout.sampling.items() if name not in _OF_THE_TASK},
        "seed": config.seed,
        "engine": engine(config),
    }
    for (field, data), (_, state) in zip(data_sources(config)[1:], identity["sources"], strict=True):
        get_run_logger().info("%s=%s: %s", field, data.source, in_words(state))
    artifact, _ = produce("rehearsals", identity, partial(_answer, campaign, builder))
    stop_engine()
    return campaign.model_copy(update={"rehearsal": Ref(uri=artifact.uri)})


def _answer(campaign: Campaign, builder: PromptBuilder, folder: Path) -> dict[str, Any]:
    config = campaign.config
    examples, too_long = rehearsal_examples(config, builder)
    prompts = builder.all_student_ids(examples)
    seeds = [derive_seed("rehearse", config.seed, example.id) for example in examples]
    with engine_for(campaign.initial, config) as sampler:
        with progress(config.name, "rehearse", "completions") as report:
            rollouts = complete(sampler, [(e.id, 0) for e in examples], prompts, seeds, config, report)
        rollouts, held = sampler.checked(rollouts, config)
    write_rollouts(folder / "rollouts.parquet", rollouts)
    num_tokens = sum(len(r.completion_ids) for r in rollouts)
    return {"num_rollouts": len(rollouts), "num_tokens": num_tokens, "prompts_too_long": too_long, **held}


def rehearsal_examples(config: CampaignConfig, builder: PromptBuilder) -> tuple[list[Example], int]:
    """Seeded draws of equal parts from the training splits of rehearsal.data, no prompt twice; and how many did not fit."""
    rehearsal, chosen, too_long = config.rehearsal, {}, 0
    for number, data in enumerate(rehearsal.data):
        part = rehearsal.num_prompts // len(rehearsal.data) + (number < rehearsal.num_prompts % len(rehearsal.data))
        with named(field := f"rehearsal.data[{number}].source"):
            found, dropped = fitting_examples(prompts_of_source(data, field), builder, lambda example: None)
        too_long += len(dropped)
        found = [example for example in found if example.id not in chosen]
        if len(found) < part:
            raise DataError(
                f"rehearsal.data[{number}].source={data.source!r} has {len(found)} prompts in its training split that no other "
                f"source has; {part} are its part of rehearsal.num_prompts={rehearsal.num_prompts}. Lower num_prompts, "
                "raise size or name more sources."
            )
        found.sort(key=lambda example: derive_seed("rehearsal", config.seed, example.id))
        chosen |= {example.id: example for example in found[:part]}
    return list(chosen.values()), too_long


def prompts_of_source(data: DataConfig, field: str) -> list[Example]:
    """The training split of one source of prompts. DataError by `field` when it cannot be read, or changes meanwhile."""
    before = data_state(data, field)
    with named(field), scratch() as downloads:
        loaded = load_examples(data, fetch=lambda uri: download_file(uri, downloads, field))
        unchanged_data(data, before, field)
    return loaded.train

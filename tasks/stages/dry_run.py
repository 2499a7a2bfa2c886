"""A campaign tried before it starts: model and data are loaded, a few prompts go through every step, nothing is registered."""

import torch
from prefect.artifacts import create_markdown_artifact

from opsd_core.config import CampaignConfig
from opsd_core.dry_run import dry_run, in_words
from opsd_core.judgement.power import GatePower, gate_power
from opsd_core.models.policy import add_lora
from opsd_core.teacher.parts import Models, Parts
from tasks.champion.ledger import upcoming
from tasks.engines import engine_for, stop_engine
from tasks.loaded import load, shared_policy, stored_examples
from tasks.refs import PolicyRef, Ref
from tasks.runtime.peak_memory import measured_peak
from tasks.runtime.progress import artifact_key
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.stages.evaluate import held_out, measurable


@task(name="dry-run", **STAGE)
def try_campaign(config: CampaignConfig, initial: PolicyRef, data: Ref, teachers: list[PolicyRef]) -> str:
    """What both sides read, whether there is a signal, and how long an iteration will take: a report, as an artifact too."""
    with measured_peak() as peak:
        student = load(initial, config.model, torch.float32)
        student = add_lora(student, config.model.lora, seed=config.seed) if config.model.lora.rank else student
        parts = Parts(
            config=config,
            models=Models(initial=initial, champion=initial, others=teachers, policy=initial),
            load=lambda ref: shared_policy(ref, config.model),
            load_copy=lambda ref: load(ref, config.model, torch.float32),
            student=student,
        )
        with engine_for(initial, config) as sampler:
            found = dry_run(sampler, student, parts, stored_examples(data, "train"), config)
        stop_engine()
    text = in_words(found, config, _gate(config, data)) + f"\nPeak memory of this process: {peak.bytes / 1e9:.1f} GB.\n"
    description = f"{len(found.problems)} problems; about {sum(found.minutes.values()):.0f} minutes per iteration"
    create_markdown_artifact(text, key=f"opsd-{artifact_key(config.name)}-dry-run", description=description)
    return text


def _gate(config: CampaignConfig, data: Ref) -> GatePower | None:
    """What the gate sees of the held-out items; None where they have no answers."""
    measured = held_out(config, data)
    labelled = all(example.answer for example in measured)
    return gate_power(config, len(measured), upcoming(config, measurable(data))[1]) if labelled else None

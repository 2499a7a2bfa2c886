"""Before the first iteration: services, model, data, and the record of what is about to run."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from transformers import PreTrainedTokenizerBase

from opsd_core.config import CampaignConfig
from opsd_core.config.rules.effects import settings_without_effect
from opsd_core.config.schedules import stages
from opsd_core.config.teacher import MOVING
from opsd_core.data import load_examples
from opsd_core.data import source_content as data_content
from opsd_core.digest import digest
from opsd_core.errors import ModelError, ServiceError
from opsd_core.graders import check_gradable, grader_name
from opsd_core.models.policy import (
    resolve_device,
    tokenizer_digest,
)
from opsd_core.prompts.budgets import budgets_identity, fitting_in_every_stage
from opsd_core.prompts.builder import PromptBuilder, fitting_examples
from opsd_core.records.examples import write_examples
from opsd_core.teacher.teachers import check_same_vocabulary
from tasks.context import lineage, local, produce, scratch, settings, shared_policy, shared_tokenizer, store, tracker
from tasks.refs import Campaign, PolicyRef, Ref
from tasks.runtime.environment import environment, git_revision
from tasks.runtime.retries import STAGE
from tasks.sources import download_file
from tasks.stages.weights import accepted, stored_weights
from tasks.storage.artifacts import describe

_MIN_FREE_BYTES = 2 << 30
"""Free space under which a campaign is refused: a model, its optimiser state and their staged copies have to fit."""


@task(name="preflight", **STAGE | {"retries": 0})
def preflight(config: CampaignConfig) -> None:
    """Ask every service and the disk before any work. ServiceError or ConfigError names what is missing."""
    resolve_device(config.model)
    store().ensure_bucket()
    store().probe()
    tracker().check()
    cache = settings().cache
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if free < _MIN_FREE_BYTES:
        raise ServiceError(
            f"{cache} has {free / 1e9:.1f} GB free, a campaign needs {_MIN_FREE_BYTES / 1e9:.1f} GB. "
            "Free space there or point OPSD_CACHE to a larger disk."
        )


@task(name="prepare-model", **STAGE)
def prepare_model(config: CampaignConfig) -> PolicyRef:
    """The starting weights as a safetensors folder in the store."""
    return stored_weights(config)


@task(name="prepare-teachers", **STAGE)
def prepare_teachers(config: CampaignConfig, initial: PolicyRef) -> list[PolicyRef]:
    """The other models that teach. ModelError when one has another vocabulary than the policy."""
    if all(stage.distillation.teacher_free for _, stage in stages(config)):
        return []
    return resolve_teachers(config, initial)


def resolve_teachers(config: CampaignConfig, initial: PolicyRef) -> list[PolicyRef]:
    """The present weights of teacher.source or teacher.peers, in their order, each with the policy's vocabulary."""
    refs = []
    for name in config.teacher.sources:
        source = f"models:/{name.removeprefix(MOVING)}" if name.startswith(MOVING) else name
        other = config.model.model_copy(update={"source": source, "revision": None})
        ref = stored_weights(config.model_copy(update={"model": other}), f"teacher's model {name!r}")
        sides = shared_policy(initial, config.model), shared_policy(ref, config.model)
        check_same_vocabulary(*sides, f"teacher {source!r}")
        refs.append(ref)
    return refs


@task(name="prepare-data", **STAGE)
def prepare_data(config: CampaignConfig, initial: PolicyRef) -> Ref:
    """Clean, deduplicate and split the data set, check every prompt's length; splits and report become one artifact."""
    tokenizer = shared_tokenizer(initial)
    identity = {
        "data": config.data.model_dump(exclude={"grader"}),
        "content": data_content(config.data),
        "tokenizer": tokenizer_digest(tokenizer),
        "lengths": budgets_identity(tokenizer, config),
    }
    artifact, _ = produce("datasets", identity, partial(_load_data, config, tokenizer))
    return Ref(uri=artifact.uri)


def _load_data(config: CampaignConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
    with scratch() as downloads:
        data = load_examples(config.data, fetch=lambda uri: download_file(uri, downloads))
    for line in data.report.lines():
        get_run_logger().info(line)
    check_gradable([e for e in data.train + data.validation + data.test if e.answer], grader_name(config.data))
    report, too_long = data.report.as_dict(), []
    builder = PromptBuilder.of(tokenizer, config)
    for split in ("train", "validation", "test"):
        examples = getattr(data, split)
        if split == "train":
            fitting, dropped = fitting_in_every_stage(examples, tokenizer, config)
        else:
            fitting, dropped = fitting_examples(examples, builder, lambda example: None)
        write_examples(folder / f"{split}.parquet", fitting)
        report["sizes"][split] = len(fitting)
        too_long += dropped
    report["prompts_too_long"] = too_long
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    if too_long:
        get_run_logger().warning("%d prompts are too long and dropped (prompts.overflow=drop)", len(too_long))
    counts = [name for name in report if name.startswith("num_")]
    return {name: report[name] for name in ("sizes", "digests", "reasons", *counts)} | {"prompts_too_long": len(too_long)}


@task(name="start-campaign", **STAGE)
def start_campaign(
    config: CampaignConfig,
    initial: PolicyRef,
    data: Ref,
    teachers: Sequence[PolicyRef] = (),
    pretraining: bool = False,
) -> Campaign:
    """Store resolved config, git revision and package versions; open the MLflow run; register a first champion.

    The campaign's identity is its configuration, model and data: triggering it again continues or reuses it.
    """
    identity = {
        "config": config.model_dump(mode="json", exclude={"execution"}),
        "initial": initial.digest,
        "data": data.identity,
    }
    if teachers and not any(source.startswith(MOVING) for source in config.teacher.sources):
        identity["teachers"] = [teacher.digest for teacher in teachers]
    if pretraining:
        identity["pretraining"] = True
    for warning in settings_without_effect(config):
        get_run_logger().warning(warning)
    campaign_id = digest(identity)[:16]
    experiment = tracker()
    run_id = experiment.campaign_run(config.name, campaign_id, identity["config"], _tags(initial, data))
    _log_data(run_id, data)
    champion = _current_champion(config, initial, run_id)
    if champion.digest == initial.digest:  # its weights are the start; its optimiser and adapters are another campaign's
        champion = champion.model_copy(update={"state": None})

    def write(folder: Path) -> dict[str, Any]:
        (folder / "config.json").write_text(config.model_dump_json(indent=1))
        (folder / "environment.json").write_text(json.dumps(environment(), indent=1))
        (folder / "champion.json").write_text(champion.model_dump_json(indent=1))
        return {"name": config.name}

    artifact, _ = produce("campaigns", identity, write)
    folder = local(artifact.uri)
    for name in ("config.json", "environment.json"):
        experiment.log_text(run_id, (folder / name).read_text(), name)
    return Campaign(
        id=campaign_id,
        config=config,
        record=Ref(uri=artifact.uri),
        data=data,
        initial=initial,
        teachers=list(teachers),
        champion=PolicyRef.model_validate_json((folder / "champion.json").read_text()),
        run_id=run_id,
        pretraining=pretraining,
        flow_run_id=flow_run.get_id(),
        git_revision=git_revision(),
    )


def _log_data(run_id: str, data: Ref) -> None:
    """What became of every row of the data set, as metrics and as the whole report."""
    summary = describe(store(), data.uri).summary
    counts = {f"data/{name.removeprefix('num_')}": float(summary[name]) for name in summary if name.startswith("num_")}
    tracker().log_metrics(run_id, [(0, counts)])
    tracker().log_text(run_id, (local(data) / "report.json").read_text(), "data.json")


def _current_champion(config: CampaignConfig, initial: PolicyRef, run_id: str) -> PolicyRef:
    """The registry's champion, or the starting weights registered as the first version."""
    registry = tracker()
    registry.ensure_model(config.name)
    number = registry.version_by_alias(config.name, "champion")
    if number is not None:
        tags = registry.version_tags(config.name, number)
        if "opsd.model_uri" not in tags:
            raise ModelError(
                f"models:/{config.name}@champion (version {number}) was not registered by opsd: tag opsd.model_uri is "
                f"missing. Choose another campaign name (name={config.name!r}) or remove the alias."
            )
        state = Ref(uri=tags["opsd.state_uri"]) if tags.get("opsd.state_uri") else None
        champion = PolicyRef(uri=tags["opsd.model_uri"], digest=tags["opsd.model_digest"], state=state, version=number)
        known = lineage(tags).get("acceptance")
        return champion.model_copy(update={"acceptance": known}) if known else accepted(champion, config.model)
    tags = {"opsd.model_uri": initial.uri, "opsd.model_digest": initial.digest, "opsd.role": "initial"}
    tags["opsd.acceptance"] = initial.acceptance
    number = registry.register(config.name, initial.uri, run_id, tags, "Starting weights of the first campaign.")
    registry.promote(
        config.name, number, why="first version: the starting weights", who="opsd", expected_champion=None
    )
    return initial.model_copy(update={"version": number})


def _tags(initial: PolicyRef, data: Ref) -> dict[str, str]:
    return {
        "opsd.git_revision": git_revision(),
        "opsd.initial_model": initial.uri,
        "opsd.data": data.uri,
        "prefect.flow_run_id": flow_run.get_id() or "",
    }

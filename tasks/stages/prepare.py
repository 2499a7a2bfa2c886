"""Before the first iteration: services, model, data, and the record of what is about to run."""

import json
import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from transformers import PreTrainedTokenizerBase

from opsd_core.config import CampaignConfig
from opsd_core.config.rules.effects import settings_without_effect
from opsd_core.config.rules.risks import risks
from opsd_core.config.schedules import stages
from opsd_core.config.teacher import MOVING
from opsd_core.data import load_examples
from opsd_core.data.others import check_columns
from opsd_core.digest import digest
from opsd_core.errors import ServiceError
from opsd_core.graders import check_gradable, grader_name
from opsd_core.graders.readable import check_readable
from opsd_core.judgement.power import gate_in_words, gate_power
from opsd_core.models.policy import resolve_device, tokenizer_digest
from opsd_core.models.storage.ends import stored_ends
from opsd_core.models.storage.skeleton import stored_config
from opsd_core.prompts.budgets import budgets_identity, fitting_in_every_stage
from opsd_core.prompts.builder import PromptBuilder, fitting_examples
from opsd_core.prompts.limits import check_context, check_items
from opsd_core.prompts.turns import Turns
from opsd_core.records.examples import write_examples
from opsd_core.rollout.engines.kinds import check_architecture, check_offered
from opsd_core.rollout.environments.check import check_environment
from opsd_core.teacher.ends import ends_in_words
from opsd_core.teacher.teachers import check_same_vocabulary
from tasks.champion.ledger import ITEMS_FROM, items_from, upcoming
from tasks.champion.start import CHAMPION_AT_START, champion_at_start, ensure_champion
from tasks.context import local, produce, scratch, settings, store, tracker
from tasks.engines import offer
from tasks.loaded import prompt_builder, shared_policy, shared_tokenizer, stored_examples
from tasks.refs import Campaign, GuardItems, PolicyRef, Ref
from tasks.runtime.environment import environment, git_revision
from tasks.runtime.folders import make_folder
from tasks.runtime.library_folders import check_library_folders
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.sources import data_sources, download_file, functions_identity, model_sources, named
from tasks.stages.evaluate import held_out, measurable
from tasks.stages.weights import accepted, stored_context, stored_weights
from tasks.states import check_sources, data_state, in_words, rehearsal_sources, unchanged_data
from tasks.storage.artifacts import describe

_MIN_FREE_BYTES = 2 << 30
"""Free space under which a campaign is refused: a model, its optimiser state and their staged copies have to fit."""


@task(name="preflight", **STAGE | {"retries": 0})
def preflight(config: CampaignConfig, data: bool = True) -> None:
    """Ask every service, the disk and every named model and data set before any work. An OpsdError names what is missing.

    `data`: whether data.source will be read.
    """
    if config.execution.placement == "inline":
        resolve_device(config.model)
        check_offered(config.execution.engine, {"here": offer()})
    check_library_folders()
    store().ensure_bucket()
    store().probe()
    tracker().check()
    cache = settings().cache
    make_folder(cache)
    free = shutil.disk_usage(cache).free
    if free < _MIN_FREE_BYTES:
        raise ServiceError(
            f"{cache} has {free / 1e9:.1f} GB free, a campaign needs {_MIN_FREE_BYTES / 1e9:.1f} GB. "
            "Free space there or point OPSD_CACHE to a larger disk."
        )
    check_sources(config, data=data)
    for field, section in data_sources(config) if data else ():
        with named(field):
            own = section is config.data
            check_readable(section, graded=own, slices=config.evaluation.slices if own else ())


@task(name="prepare-model", **STAGE)
def prepare_model(config: CampaignConfig) -> PolicyRef:
    """The starting weights as a safetensors folder in the store. ConfigError when context or adapters do not suit them."""
    initial = stored_weights(config, lora=config.model.lora)
    check_context(config, stored_context(initial, config.model))
    check_architecture(config, stored_config(local(initial), config.model).architectures or (), settings().home)
    return initial


@task(name="prepare-teachers", **STAGE)
def prepare_teachers(config: CampaignConfig, initial: PolicyRef) -> list[PolicyRef]:
    """The other models that teach. ModelError when one has another vocabulary than the policy."""
    if all(stage.distillation.teacher_free for _, stage in stages(config)):
        return []
    return resolve_teachers(config, initial)


def resolve_teachers(config: CampaignConfig, initial: PolicyRef) -> list[PolicyRef]:
    """The present weights of teacher.source or teacher.peers, in their order, each with the policy's vocabulary."""
    refs = []
    for field, name in model_sources(config)[1:]:
        other = config.model.model_copy(update={"source": name, "revision": None})
        ref = stored_weights(config.model_copy(update={"model": other}), field)
        check_teacher(config, initial, ref, f"{field}={name!r}")
        refs.append(ref)
    return refs


def check_teacher(config: CampaignConfig, initial: PolicyRef, teacher: PolicyRef, name: str) -> None:
    """ModelError when a teacher has another vocabulary than the policy; other end tokens are said in the log."""
    policy, other = shared_policy(initial, config.model), shared_policy(teacher, config.model)
    check_same_vocabulary(policy, other, name)
    merge_stop = config.distillation.merge_stop
    if said := ends_in_words(policy, other, name, merge_stop):
        get_run_logger().log(logging.WARNING if merge_stop == "off" else logging.INFO, said)


@task(name="prepare-data", **STAGE)
def prepare_data(config: CampaignConfig, initial: PolicyRef) -> Ref:
    """Clean, deduplicate and split the data set, check every prompt's length; splits and report become one artifact."""
    tokenizer = shared_tokenizer(initial)
    identity = data_identity(config, tokenizer)
    get_run_logger().info("data.source=%s: %s", config.data.source, in_words(identity["content"]))
    artifact, _ = produce("datasets", identity, partial(_load_data, config, tokenizer, identity["content"]))
    data = Ref(uri=artifact.uri)
    check_data(config, data, initial)
    return data


def data_identity(config: CampaignConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What decides the splits: the settings of the data, what lies at its address now, and how long prompts may be."""
    identity = {
        "data": config.data.model_dump(exclude={"grader", "grader_function"}),
        "content": data_state(config.data),
        "tokenizer": tokenizer_digest(tokenizer),
        "lengths": budgets_identity(tokenizer, config),
    }
    return identity | ({"also": list(config.evaluation.slices)} if config.evaluation.slices else {})


def check_data(config: CampaignConfig, data: Ref, initial: PolicyRef) -> None:
    """DataError or ConfigError when stored splits do not suit settings that are no part of their identity, or the model."""
    splits = {split: stored_examples(data, split) for split in ("train", "validation", "test")}
    check_gradable([e for examples in splits.values() for e in examples if e.answer], grader_name(config.data))
    if config.rollout.environment != "none":
        turns = Turns(prompt_builder(initial, config), stored_ends(local(initial), config.model))
        check_environment(turns, splits["train"], config.rollout)
    measured = held_out(config, data)
    check_items(config, splits["train"], measured)
    check_columns(config.evaluation.slices, measured, config.data.source)
    if config.promotion.mode != "manual" and all(example.answer for example in measured):
        power = gate_power(config, len(measured), upcoming(config, measurable(data))[1])
        for line in gate_in_words(power):
            get_run_logger().log(logging.WARNING if power.impossible else logging.INFO, line)
    check_context(config, stored_context(initial, config.model), describe(store(), data.uri).summary.get("longest"))


def _load_data(
    config: CampaignConfig, tokenizer: PreTrainedTokenizerBase, state: dict[str, Any], folder: Path
) -> dict[str, Any]:
    with scratch() as downloads:
        data = load_examples(config.data, lambda uri: download_file(uri, downloads), config.evaluation.slices)
    unchanged_data(config.data, state)
    for line in data.report.lines():
        get_run_logger().info(line)
    report, too_long = data.report.as_dict(), []
    longest: dict[str, dict[str, int]] = {"train": {}, "validation": {}, "test": {}}
    builder = PromptBuilder.of(tokenizer, config)
    for split in ("train", "validation", "test"):
        examples = getattr(data, split)
        if split == "train":
            fitting, dropped = fitting_in_every_stage(examples, tokenizer, config, longest[split])
        else:
            fitting, dropped = fitting_examples(examples, builder, lambda example: None, longest[split])
        write_examples(folder / f"{split}.parquet", fitting)
        report["sizes"][split] = len(fitting)
        too_long += dropped
    report["prompts_too_long"] = too_long
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    if too_long:
        get_run_logger().warning("%d prompts are too long and dropped (prompts.overflow=drop)", len(too_long))
    counts = [name for name in report if name.startswith("num_")]
    found = {name: report[name] for name in ("sizes", "digests", "reasons", *counts)}
    return found | {"prompts_too_long": len(too_long), "longest": longest}


@task(name="start-campaign", **STAGE)
def start_campaign(
    config: CampaignConfig,
    initial: PolicyRef,
    data: Ref,
    teachers: Sequence[PolicyRef] = (),
    pretraining: bool = False,
    guards: Sequence[GuardItems] = (),
) -> Campaign:
    """Store resolved config, git revision and package versions; open the MLflow run; register a first champion.

    The campaign's identity is its configuration and everything that it names, in its present state: triggering it again
    continues or reuses it.
    """
    identity = campaign_identity(config, initial, data, teachers, guards)
    if pretraining:
        identity["pretraining"] = True
    for warning in (*settings_without_effect(config), *risks(config)):
        get_run_logger().warning(warning)
    campaign_id = digest(identity)[:16]
    experiment = tracker()
    run_id = experiment.campaign_run(config.name, campaign_id, identity["config"], _tags(initial, data))
    _log_data(run_id, data)
    ensure_champion(config, initial, run_id)

    def write(folder: Path) -> dict[str, Any]:
        champion = champion_at_start(config, initial, campaign_id, run_id, accepted)
        (folder / "config.json").write_text(config.model_dump_json(indent=1))
        (folder / "environment.json").write_text(json.dumps(environment(), indent=1))
        (folder / "champion.json").write_text(champion.model_dump_json(indent=1))
        return {"name": config.name}

    artifact, _ = produce("campaigns", identity, write)
    folder = local(artifact.uri)
    champion = PolicyRef.model_validate_json((folder / "champion.json").read_text())
    experiment.settle(run_id, CHAMPION_AT_START, lambda: str(champion.version))
    first_item = experiment.settle(run_id, ITEMS_FROM, lambda: items_from(config, measurable(data)))
    for name in ("config.json", "environment.json"):
        experiment.log_text(run_id, (folder / name).read_text(), name)
    return Campaign(
        id=campaign_id,
        config=config,
        record=Ref(uri=artifact.uri),
        data=data,
        initial=initial,
        teachers=list(teachers),
        champion=champion,
        run_id=run_id,
        guards=list(guards),
        items_from=first_item,
        pretraining=pretraining,
        flow_run_id=flow_run.get_id(),
        git_revision=git_revision(),
    )


def campaign_identity(
    config: CampaignConfig, initial: PolicyRef, data: Ref, teachers: Sequence[PolicyRef], guards: Sequence[GuardItems]
) -> dict[str, Any]:
    """What decides a campaign's id: its settings, and the present state of everything that they name."""
    identity = {
        "config": config.deciding(),
        "initial": initial.digest,
        "data": data.identity,
    }
    identity |= overlap_identity(config) | functions_identity(config)
    if teachers and not any(source.startswith(MOVING) for source in config.teacher.sources):
        identity["teachers"] = [teacher.digest for teacher in teachers]
    if guards:
        identity["guards"] = [items.identity for items in guards]
    if sources := rehearsal_sources(config):
        identity["rehearsal"] = sources
    return identity


def overlap_identity(config: CampaignConfig) -> dict[str, bool]:
    """The one setting of execution that changes what is learned; nothing where it does not."""
    return {"overlap": True} if config.execution.overlap else {}


def _log_data(run_id: str, data: Ref) -> None:
    """What became of every row of the data set, as metrics and as the whole report."""
    summary = describe(store(), data.uri).summary
    counts = {f"data/{name.removeprefix('num_')}": float(summary[name]) for name in summary if name.startswith("num_")}
    tracker().log_metrics(run_id, [(0, counts)])
    tracker().log_text(run_id, (local(data) / "report.json").read_text(), "data.json")


def _tags(initial: PolicyRef, data: Ref) -> dict[str, str]:
    return {
        "opsd.git_revision": git_revision(),
        "opsd.initial_model": initial.uri,
        "opsd.data": data.uri,
        "prefect.flow_run_id": flow_run.get_id() or "",
    }

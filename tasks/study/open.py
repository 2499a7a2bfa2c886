"""Studies: one base model and one data split for all arms, and what is measured once at the end."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from prefect.runtime import flow_run

from opsd_core.config import CampaignConfig, DataConfig, EvaluationConfig, PromptConfig
from opsd_core.data import load_examples, split_digest
from opsd_core.digest import derive_seed, digest
from opsd_core.graders import VERSION, get_grader
from opsd_core.judgement.evaluation import evaluate_policy
from opsd_core.judgement.likelihood import mean_loglikelihoods
from opsd_core.models.policy import dtype_identity
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import write_outcomes
from opsd_core.study import StudyConfig, resolve_arm
from opsd_core.study.sets import SETS, EvaluationSet
from tasks.context import produce, tracker
from tasks.loaded import prompt_builder, shared_policy, stored_examples
from tasks.refs import PolicyRef, Ref
from tasks.runtime.environment import environment, git_revision
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.sources import data_sources, functions_identity
from tasks.stages.evaluate import held_out, measured
from tasks.stages.prepare import overlap_identity, prepare_data, prepare_model
from tasks.stages.rehearse import prompts_of_source
from tasks.states import check_sources
from tasks.study.refs import Measured, Study, Training


@task(name="open-study", **STAGE)
def open_study(config: StudyConfig) -> Study:
    """Base model, data split and the MLflow parent run; the same configuration continues the same study."""
    base = config.base
    for arm in config.trained_arms:
        check_sources(resolve_arm(config, arm, config.seeds[0], None))
    initial = prepare_model.fn(base)
    data = prepare_data.fn(base, initial)
    identity = {
        "study": config.model_dump(mode="json"),
        "base": base.deciding(),
        "initial": initial.digest,
        "data": data.identity,
    } | overlap_identity(base) | functions_identity(base)
    study_id = digest(identity)[:16]
    artifact, _ = produce("studies", identity, partial(_write_study, config, base))
    tags = {"opsd.git_revision": git_revision(), "prefect.flow_run_id": flow_run.get_id() or "", "opsd.kind": "study"}
    run_id = tracker().campaign_run(config.name, study_id, config.model_dump(mode="json"), tags)
    return Study(
        id=study_id,
        config=config,
        base=base,
        record=Ref(uri=artifact.uri),
        data=data,
        initial=initial,
        run_id=run_id,
        flow_run_id=flow_run.get_id(),
        git_revision=git_revision(),
    )


def _write_study(config: StudyConfig, base: CampaignConfig, folder: Path) -> dict[str, Any]:
    (folder / "study.json").write_text(config.model_dump_json(indent=1))
    (folder / "config.json").write_text(base.model_dump_json(indent=1))
    (folder / "environment.json").write_text(json.dumps(environment(), indent=1))
    return {"name": config.name}


@task(name="measure-arm", task_run_name="measure-{arm}-seed{seed}", **STAGE)
def measure_arm(study: Study, arm: str, seed: int, training: Training | None, threads: int = 0) -> Measured:
    """Test split and further sets, once, with the checkpoint that validation chose; the base model when none is given."""
    if threads:
        torch.set_num_threads(threads)
    policy = training.chosen.policy if training and training.chosen else study.initial
    config = study.config
    measuring = study.measuring(
        num_items=config.test_items,
        num_samples=config.test_samples,
        temperature=config.test_temperature,
    )
    test = measured(measuring, policy, held_out(measuring, study.data, "test"), f"{arm}-seed{seed}-test")
    sets, seconds = {}, test.seconds
    for name in config.sets:
        sets[name], spent = _measure_set(study, policy, name)
        seconds += spent
    if training is not None:
        figures = {name.replace("eval/", "test/"): value for name, value in test.metrics.items()}
        tracker().log_metrics(training.run_id, [(0, figures)])
        tracker().flush()
    return Measured(arm=arm, seed=seed, test=Ref(uri=test.uri), metrics=test.metrics, sets=sets, seconds=seconds)


def _measure_set(study: Study, policy: PolicyRef, name: str) -> tuple[Ref, float]:
    chosen = SETS[name]
    examples, config = _set_examples(study, chosen), _set_config(study, chosen)
    identity = {
        "policy": policy.digest,
        "items": split_digest(examples),
        "score": [chosen.score, chosen.grader, VERSION, chosen.max_completion_length],
        "template": prompt_builder(policy, config).student_digest,
        "dtype": dtype_identity(study.base.model),
    }
    artifact, seconds = produce("study-sets", identity, partial(_score_set, chosen, examples, policy, config))
    return Ref(uri=artifact.uri), seconds


def _set_config(study: Study, chosen: EvaluationSet) -> CampaignConfig:
    """The study's configuration as it is for this set: greedy answers, the set's own prompts where it has some."""
    prompts = study.base.prompts if chosen.prompts is None else PromptConfig.model_validate(chosen.prompts)
    evaluation = EvaluationConfig(max_completion_length=chosen.max_completion_length)
    alone = study.base.rollout.model_copy(update={"environment": "none"})
    changes = {"prompts": prompts, "evaluation": evaluation, "rollout": alone, "seed": derive_seed("study sets")}
    return study.base.model_copy(update=changes)


def _set_examples(study: Study, chosen: EvaluationSet) -> list[Example]:
    """The set's items in their order, without any question that an arm is trained on or rehearses."""
    if chosen.items is not None:
        return chosen.items(study.config.set_items)
    data = load_examples(DataConfig.model_validate(chosen.data))
    trained = {example.question for example in stored_examples(study.data, "train")}
    for arm in study.config.trained_arms:
        for field, source in data_sources(study.arm_config(arm, study.config.seeds[0]))[1:]:
            trained |= {example.question for example in prompts_of_source(source, field)}
    items = [e for e in data.train + data.validation + data.test if e.question not in trained]
    return sorted(items, key=lambda example: example.id)[: study.config.set_items]


def _score_set(
    chosen: EvaluationSet, examples: list[Example], policy: PolicyRef, config: CampaignConfig, folder: Path
) -> dict[str, Any]:
    loaded = shared_policy(policy, config.model)
    if chosen.score == "likelihood":
        values = mean_loglikelihoods(loaded, examples)
    else:
        grader = get_grader("instruction" if chosen.score == "instruction" else chosen.grader)
        outcomes = evaluate_policy(loaded, examples, prompt_builder(policy, config), grader, config)
        write_outcomes(folder / "outcomes.parquet", outcomes)
        values = [float(outcome.correct) for outcome in outcomes]
    table = {"ids": [example.id for example in examples], "values": values}
    (folder / "values.json").write_text(json.dumps(table))
    return {"num_items": len(examples), "mean": sum(values) / len(values)}

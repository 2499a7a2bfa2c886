"""Score stored completions with the teacher: soft targets, computed once and kept beside the rollouts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from prefect import task

from opsd_core.agreement import final_answer
from opsd_core.contexts import Attempt, context_identity
from opsd_core.digest import canonical_json, digest
from opsd_core.grades import read_grades
from opsd_core.mixtures import Transform
from opsd_core.monitors import overlap_ratio
from opsd_core.prompts import PromptBuilder
from opsd_core.rollouts import Rollout, read_rollouts
from opsd_core.targets import score_targets, write_targets
from opsd_core.teacher_prompts import Key, TeacherPrompts, teacher_prompts
from opsd_core.teachers import FixedTeacher, PeersTeacher, TeacherWeights
from tasks.context import load_shared, local, produce, stored_examples, tokenizer_of
from tasks.progress import progress
from tasks.records import Campaign, GradedRef, PolicyRef, ShardRef, TargetsRef
from tasks.retries import STAGE


def teacher_ref(campaign: Campaign, champion: PolicyRef) -> PolicyRef:
    """The fixed weights that teach in this iteration; for peers the digest names them all, without a teacher nothing."""
    if campaign.config.distillation.teacher_free:
        return campaign.initial.model_copy(update={"digest": ""})
    weights = campaign.config.teacher.weights
    if weights == "previous":
        return champion
    if weights == "external":
        return campaign.teachers[0]
    if weights == "peers":
        first, digests = campaign.teachers[0], [peer.digest for peer in campaign.teachers]
        return first.model_copy(update={"digest": digest(digests)})
    return campaign.initial


def fixed_teacher(campaign: Campaign, teacher: PolicyRef, members: Sequence[int] | None = None) -> TeacherWeights:
    """The teacher of `teacher_ref`, loaded; of peers only `members`, unless None."""
    config = campaign.config
    model = config.model.model_dump_json()
    if config.teacher.weights == "peers":
        chosen = campaign.teachers if members is None else [campaign.teachers[member] for member in members]
        peers = [load_shared(peer.uri, model) for peer in chosen]
        return PeersTeacher(peers, config.teacher.mixture, config.teacher.mixture_weights)
    return FixedTeacher(load_shared(teacher.uri, model))


def prompt_builder(campaign: Campaign) -> PromptBuilder:
    """Both sides' prompts, in the policy's tokenizer and chat template whoever teaches."""
    config = campaign.config
    return PromptBuilder(tokenizer_of(campaign.initial.uri), config.prompts, config.teacher, config.model.chat_template)


def prompts_of(campaign: Campaign, rollouts: Sequence[Rollout], correct: Mapping[Key, bool | None]) -> TeacherPrompts:
    """The teacher's prompt of each completion; `rollouts` hold all completions of their prompts. No teacher: the student's."""
    if campaign.config.distillation.teacher_free:
        return TeacherPrompts(ids={rollout.key: rollout.prompt_ids for rollout in rollouts})
    pool, known = stored_examples(campaign.data_uri, "train"), known_prompts(_prompt_settings(campaign))
    prompts = teacher_prompts(prompt_builder(campaign), rollouts, correct, pool, peers_answers(campaign), known)
    for example_id in known.keys() - {rollout.example_id for rollout in rollouts}:
        del known[example_id]
    return prompts


def _prompt_settings(campaign: Campaign) -> str:
    """Everything that decides a teacher's prompt and whether it fits its budget."""
    config = campaign.config
    sides = [config.prompts.model_dump(), config.teacher.model_dump(), config.model.chat_template]
    return canonical_json([*sides, campaign.initial.uri, campaign.data_uri, campaign.solved])


@lru_cache(maxsize=1)
def known_prompts(settings: str) -> dict[str, list[int]]:
    """The prompts that were scored last, which training asks for again; those of one iteration at most."""
    return {}


def grades_for_context(campaign: Campaign, graded: GradedRef) -> dict[Key, bool | None]:
    """Which completions are right, where the context asks for it."""
    if not campaign.config.context_from_rollouts:
        return {}
    return {grade.key: grade.correct for grade in read_grades(local(graded.uri) / "grades.parquet")}


def peers_answers(campaign: Campaign) -> dict[str, list[Attempt]]:
    """Per prompt one answer of every other model, in their order; empty where nothing asks for them."""
    if campaign.solved is None:
        return {}
    stored = json.loads((local(campaign.solved) / "answers.json").read_text())
    return {
        example_id: [Attempt(i, a["text"], final_answer(a["text"]), a["correct"]) for i, a in enumerate(answers)]
        for example_id, answers in stored.items()
    }


def solvers(campaign: Campaign) -> dict[str, tuple[int, ...]] | None:
    """Per prompt the other models that solve it; None where all of them teach everywhere."""
    if campaign.solved is None or campaign.config.teacher.peer_gate == "off":
        return None
    answers = peers_answers(campaign)
    return {example_id: tuple(a.sample_index for a in row if a.correct) for example_id, row in answers.items()}


@task(name="score-targets", task_run_name="score-targets-it{shard.iteration}-shard{shard.shard}", **STAGE)
def score_shard(campaign: Campaign, teacher: PolicyRef, shard: ShardRef, graded: GradedRef) -> TargetsRef:
    """Teacher's top-k and tail at every position of the shard's completions."""
    config = campaign.config
    identity = {
        "rollouts": shard.digest,
        "teacher": teacher.digest,
        "template": prompt_builder(campaign).teacher_digest,
        "context": context_identity(config.teacher),
        "data": campaign.data_uri.rsplit("/", 2)[-2],
        "transform": asdict(Transform.of(config.teacher, config.distillation.temperature)),
        "top_k": config.distillation.top_k,
    }
    if config.teacher.kind.rollouts:
        identity["grades"] = graded.digest
    if campaign.solved:
        identity["solved"] = campaign.solved.rsplit("/", 2)[-2:]
    if config.teacher.weights == "peers":
        identity["mixture"] = [config.teacher.mixture, config.teacher.mixture_weights]
    artifact, seconds = produce("targets", identity, partial(_score, campaign, teacher, shard, graded))
    return TargetsRef(
        shard=shard.shard,
        uri=artifact.uri,
        digest=artifact.digest,
        num_tokens=artifact.summary["num_tokens"],
        metrics=artifact.summary["metrics"],
        seconds=seconds,
    )


def _score(campaign: Campaign, teacher: PolicyRef, shard: ShardRef, graded: GradedRef, folder: Path) -> dict[str, Any]:
    config = campaign.config
    rollouts = read_rollouts(local(shard.uri) / "rollouts.parquet")
    prompts = prompts_of(campaign, rollouts, grades_for_context(campaign, graded)).ids
    rollouts = [rollout for rollout in rollouts if rollout.key in prompts]
    targets = []
    with progress(f"targets-it{shard.iteration}-shard{shard.shard}", "completions") as report:
        for members, taught in _by_members(rollouts, solvers(campaign)):
            targets += score_targets(
                fixed_teacher(campaign, teacher, members),
                taught,
                [prompts[rollout.key] for rollout in taught],
                config.distillation.top_k,
                Transform.of(config.teacher, config.distillation.temperature),
                config.optimizer.microbatch_tokens,
                report,
            )
    write_targets(folder / "targets.parquet", targets)
    num_tokens = sum(len(t.tail_logprob_T) for t in targets)
    return {"num_tokens": num_tokens, "metrics": overlap_ratio(rollouts, targets)}


def _by_members(
    rollouts: Sequence[Rollout], solved: Mapping[str, tuple[int, ...]] | None
) -> list[tuple[tuple[int, ...] | None, list[Rollout]]]:
    """Rollouts by who teaches them; those that nobody may teach are left out."""
    if solved is None:
        return [(None, list(rollouts))]
    groups: dict[tuple[int, ...], list[Rollout]] = {}
    for rollout in rollouts:
        if members := solved[rollout.example_id]:
            groups.setdefault(members, []).append(rollout)
    return sorted(groups.items())

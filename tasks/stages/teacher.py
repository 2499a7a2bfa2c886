"""Who teaches in an iteration, and what it sees."""

import json
from collections.abc import Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from opsd_core.config import CampaignConfig
from opsd_core.digest import canonical_json, digest
from opsd_core.graders.agreement import final_answer
from opsd_core.models.policy import Policy
from opsd_core.models.storage.ends import stored_ends
from opsd_core.objective.stops import Stops
from opsd_core.prompts.context_inputs import Attempt
from opsd_core.prompts.known import KnownPrompts
from opsd_core.prompts.teacher import TeacherPrompts, student_prompts, teacher_prompts
from opsd_core.records.rollouts import Key, Rollout
from opsd_core.teacher.ends import stops_between
from opsd_core.teacher.parts import Models, Parts, models_that_teach
from tasks.context import local
from tasks.loaded import grades_of, load, prompt_builder, shared_policy, stored_examples
from tasks.refs import GradedRef, Iteration, PolicyRef


def teacher_ref(iteration: Iteration) -> PolicyRef:
    """The fixed weights that teach in this iteration; for peers the digest names them all, without a teacher nothing."""
    initial = iteration.campaign.initial
    refs = models_that_teach(iteration.config, Models(initial, iteration.champion, iteration.teachers))
    if len(refs) == 1:
        return refs[0]
    first, digests = (refs or (initial,))[0], [ref.digest for ref in refs]
    return first.model_copy(update={"digest": digest(digests) if digests else ""})


def stops_of(iteration: Iteration) -> Stops | None:
    """The end tokens of policy and fixed weights that are compared as one event; None where nothing is merged."""
    initial, model = iteration.campaign.initial, iteration.config.model
    refs = models_that_teach(iteration.config, Models(initial, iteration.champion, iteration.teachers))
    student, *members = (stored_ends(local(ref), model) for ref in (initial, *refs))
    return stops_between(student, members, iteration.config.distillation)


def teacher_parts(
    iteration: Iteration, student: Policy | None = None, members: Sequence[int] | None = None
) -> Parts[PolicyRef]:
    """What the iteration's teacher is made of; of other models only `members`, unless None."""
    model, others = iteration.config.model, iteration.teachers
    return Parts(
        config=iteration.config,
        models=Models(
            initial=iteration.campaign.initial,
            champion=iteration.champion,
            others=others if members is None else [others[member] for member in members],
            policy=iteration.policy,
        ),
        load=lambda ref: shared_policy(ref, model),
        load_copy=lambda ref: load(ref, model, torch.float32),
        student=student,
    )


def prompts_of(iteration: Iteration, rollouts: Sequence[Rollout], correct: Mapping[Key, bool | None]) -> TeacherPrompts:
    """The teacher's prompt of each completion; `rollouts` hold all completions of their prompts. No teacher: the student's."""
    if iteration.config.distillation.teacher_free:
        return student_prompts(rollouts)
    campaign, known = iteration.campaign, known_prompts(_prompt_settings(iteration))
    builder, pool = prompt_builder(campaign.initial, iteration.config), stored_examples(campaign.data, "train")
    return teacher_prompts(builder, rollouts, correct, pool, peers_answers(iteration), known)


def teacher_budget(config: CampaignConfig) -> dict[str, Any]:
    """What decides which contexts made from completions are too long; those of the data set were measured with it."""
    return config.prompts.model_dump(include={"max_teacher_prompt_length", "overflow"})


def _prompt_settings(iteration: Iteration) -> str:
    """Everything that decides a teacher's prompt and whether it fits its budget."""
    config, campaign = iteration.config, iteration.campaign
    sides = [config.prompts.model_dump(), config.teacher.model_dump(), config.model.chat_template]
    solved = iteration.solved.uri if iteration.solved else None
    return canonical_json([*sides, campaign.initial.uri, campaign.data.uri, solved])


@lru_cache(maxsize=1)
def known_prompts(settings: str) -> MutableMapping[str, list[int]]:
    """The prompts that were scored last, which training asks for again; as many as `KnownPrompts` holds."""
    return KnownPrompts()


def grades_for_context(iteration: Iteration, graded: GradedRef) -> dict[Key, bool | None]:
    """Which completions are right, where the context asks for it."""
    if not iteration.config.context_from_rollouts:
        return {}
    return grades_of(graded).correct()


def peers_answers(iteration: Iteration) -> dict[str, list[Attempt]]:
    """Per prompt one answer of every other model, in their order; empty where nothing asks for them."""
    if iteration.solved is None:
        return {}
    stored = json.loads((local(iteration.solved) / "answers.json").read_text())
    return {
        example_id: [Attempt(i, a["text"], final_answer(a["text"]), a["correct"]) for i, a in enumerate(answers)]
        for example_id, answers in stored.items()
    }


def solvers(iteration: Iteration) -> dict[str, tuple[int, ...]] | None:
    """Per prompt the other models that solve it; None where all of them teach everywhere."""
    if iteration.solved is None or iteration.config.teacher.peer_filter == "off":
        return None
    answers = peers_answers(iteration)
    return {example_id: tuple(a.sample_index for a in row if a.correct) for example_id, row in answers.items()}

"""Score stored completions with the teacher: soft targets, computed once and kept beside the rollouts."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from opsd_core.digest import canonical_json, digest
from opsd_core.graders.agreement import final_answer
from opsd_core.models.policy import Policy
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.context_inputs import Attempt
from opsd_core.prompts.teacher import Key, TeacherPrompts, teacher_prompts
from opsd_core.records.grades import read_grades
from opsd_core.records.rollouts import Rollout
from opsd_core.teacher.kinds import teacher_before_training
from opsd_core.teacher.parts import Models, Parts, models_that_teach
from opsd_core.teacher.teachers import TeacherWeights
from tasks.context import load_shared, local, stored_examples, tokenizer_of
from tasks.refs import Campaign, GradedRef, PolicyRef


def teacher_ref(campaign: Campaign, champion: PolicyRef) -> PolicyRef:
    """The fixed weights that teach in this iteration; for peers the digest names them all, without a teacher nothing."""
    refs = models_that_teach(campaign.config, Models(campaign.initial, champion, campaign.teachers))
    if len(refs) == 1:
        return refs[0]
    first, digests = (refs or (campaign.initial,))[0], [ref.digest for ref in refs]
    return first.model_copy(update={"digest": digest(digests) if digests else ""})


def fixed_teacher(campaign: Campaign, teacher: PolicyRef, members: Sequence[int] | None = None) -> TeacherWeights:
    """The teacher of `teacher_ref`, loaded; of other models only `members`, unless None."""
    others = campaign.teachers if members is None else [campaign.teachers[member] for member in members]
    models = Models(campaign.initial, champion=teacher, others=others, policy=teacher)
    return teacher_before_training(Parts(campaign.config, models, shared_policy(campaign)))


def shared_policy(campaign: Campaign) -> Callable[[PolicyRef], Policy]:
    """How a model of the campaign is loaded to be read."""
    model = campaign.config.model.model_dump_json()
    return lambda ref: load_shared(ref.uri, model)


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

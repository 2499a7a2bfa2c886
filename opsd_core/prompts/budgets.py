"""Every prompt and reference that a campaign will use, measured before its first iteration, scheduled settings included."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from opsd_core.config import CampaignConfig, TeacherConfig
from opsd_core.config.schedules import stages
from opsd_core.digest import canonical_json
from opsd_core.errors import DataError
from opsd_core.prompts.builder import PromptBuilder, fitting_examples
from opsd_core.prompts.context_inputs import ContextInputs, Variables
from opsd_core.prompts.contexts import build_context, context_identity
from opsd_core.prompts.references import fitting_references, reference_template
from opsd_core.records.examples import Example


def fitting_in_every_stage(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    config: CampaignConfig,
    longest: dict[str, int] | None = None,
) -> tuple[list[Example], list[str]]:
    """Training items whose prompts and references fit in every iteration, and the ids of those that do not.

    Contexts made from rollouts are checked when these exist. Contexts that show another item are checked again after a
    drop, for the dropped items are shown no more. `longest`: as `fitting_examples`. DataError with prompts.overflow=error: how
    many items, which iteration.
    """
    kept, too_long = list(examples), []
    while True:
        size = len(kept)
        for iteration, stage in _different(config):
            builder = PromptBuilder(tokenizer, stage.prompts, stage.teacher, stage.model.chat_template)
            try:
                for view in builder.views:
                    static = not (stage.distillation.teacher_free or view.teacher.kind.rollouts)
                    shown = partial(_context, view.teacher, kept) if static else lambda example: None
                    kept, dropped = fitting_examples(kept, view, shown, longest)
                    too_long += dropped
                if stage.uses_references:
                    limit = config.rollout.max_completion_length
                    kept, dropped = fitting_references(kept, stage, tokenizer, limit)
                    too_long += dropped
            except DataError as error:
                if iteration == 0:
                    raise
                raise DataError(
                    f"with the settings that curriculum.schedules gives iteration {iteration}: {error}"
                ) from error
        if len(kept) == size:
            return kept, too_long


def budgets_identity(tokenizer: PreTrainedTokenizerBase, config: CampaignConfig) -> dict[str, Any]:
    """Everything besides the data that decides which training items fit."""
    found = [_stage_identity(tokenizer, stage) for _, stage in _different(config)]
    limits = {"max_prompt_length", "max_teacher_prompt_length", "overflow"}
    identity: dict[str, Any] = {"stages": found, "budgets": config.prompts.model_dump(include=limits)}
    if any(stage["references"] for stage in found):
        identity["max_completion_length"] = config.rollout.max_completion_length
    return identity


def _different(config: CampaignConfig) -> Iterator[tuple[int, CampaignConfig]]:
    """The first iteration of every stage that shows a teacher or trains on something else than those before it."""
    seen: set[str] = set()
    for iteration, stage in stages(config):
        settings = canonical_json([stage.teacher.model_dump(), stage.distillation.teacher_free, _references(stage)])
        if settings not in seen:
            seen.add(settings)
            yield iteration, stage


def _stage_identity(tokenizer: PreTrainedTokenizerBase, stage: CampaignConfig) -> dict[str, Any]:
    builder = PromptBuilder(tokenizer, stage.prompts, stage.teacher, stage.model.chat_template)
    static = _static_context(stage)
    return {
        "student": builder.student_digest,
        "teacher": builder.teacher_digest if static else None,
        "context": context_identity(stage.teacher) if static else None,
        "references": _references(stage),
    }


def _references(stage: CampaignConfig) -> str | None:
    return reference_template(stage) if stage.uses_references else None


def _static_context(stage: CampaignConfig) -> bool:
    """Whether some context is made of the data set alone."""
    static = any(not view.kind.rollouts for view in stage.teacher.views)
    return static and not stage.distillation.teacher_free


def _context(teacher: TeacherConfig, pool: Sequence[Example], example: Example) -> Variables | None:
    return build_context(ContextInputs(example, teacher, pool))

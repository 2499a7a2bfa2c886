"""The teacher's prompt for every completion: context, template, budget; and why a completion gets none."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opsd_core.errors import DataError
from opsd_core.graders.agreement import final_answer
from opsd_core.prompts.builder import PromptBuilder, PromptTooLongError
from opsd_core.prompts.context_inputs import Attempt, ContextInputs, Variables
from opsd_core.prompts.contexts import build_context
from opsd_core.records.examples import Example
from opsd_core.records.rollouts import Key, Rollout

NO_CONTEXT = "no_context"
TOO_LONG = "teacher_prompt_too_long"


@dataclass
class TeacherPrompts:
    """Token ids by completion (example id, sample index), and the reason for each completion without."""

    ids: dict[Key, list[int]] = field(default_factory=dict)
    withheld: dict[Key, str] = field(default_factory=dict)


def teacher_prompts(
    builder: PromptBuilder,
    rollouts: Sequence[Rollout],
    correct: Mapping[Key, bool | None],
    pool: Sequence[Example],
    peers: Mapping[str, Sequence[Attempt]] | None = None,
    known: dict[str, list[int]] | None = None,
) -> TeacherPrompts:
    """The teacher's prompt of each completion; `pool` is the training split, `correct` the grades (may be empty).

    `rollouts` must hold all completions of a prompt when the context is made from rollouts; `peers` holds other models'
    answers by example id, for contexts that show them. `known` holds prompts by example id that the same builder made for a
    context that is the same for all completions, and gets those of this call. DataError when prompts do not fit and
    prompts.overflow=error, with their number.
    """
    config = builder.teacher
    examples = {example.id: example for example in pool}
    groups = _groups(rollouts, correct) if config.kind.rollouts else {}
    prompts, first_error = TeacherPrompts(), ""
    static = {} if known is None else known
    for rollout in rollouts:
        example, answers = examples[rollout.example_id], (peers or {}).get(rollout.example_id, ())
        inputs = ContextInputs(example, config, pool, groups.get(rollout.example_id, ()), rollout.sample_index, answers)
        try:
            if config.kind.rollouts:
                ids = _ids(builder, example, build_context(inputs))
            else:
                if example.id not in static:
                    static[example.id] = builder.teacher_ids(example, build_context(inputs))
                ids = static[example.id]
        except PromptTooLongError as error:
            prompts.withheld[rollout.key] = TOO_LONG
            first_error = first_error or str(error)
            continue
        if ids is None:
            prompts.withheld[rollout.key] = NO_CONTEXT
        else:
            prompts.ids[rollout.key] = ids
    if first_error and builder.prompts.overflow == "error":
        count = list(prompts.withheld.values()).count(TOO_LONG)
        raise DataError(
            f"{count} of {len(rollouts)} completions have a teacher prompt that does not fit. The first: {first_error}"
        )
    return prompts


def _ids(builder: PromptBuilder, example: Example, context: Variables | None) -> list[int] | None:
    if context is None and builder.teacher.missing_context == "drop":
        return None
    return builder.teacher_ids(example, context)


def _groups(rollouts: Iterable[Rollout], correct: Mapping[Key, bool | None]) -> dict[str, list[Attempt]]:
    groups: dict[str, list[Attempt]] = defaultdict(list)
    for rollout in sorted(rollouts, key=lambda rollout: rollout.key):
        attempt = Attempt(
            sample_index=rollout.sample_index,
            text=rollout.completion_text,
            answer=final_answer(rollout.completion_text),
            correct=correct.get(rollout.key),
        )
        groups[rollout.example_id].append(attempt)
    return groups

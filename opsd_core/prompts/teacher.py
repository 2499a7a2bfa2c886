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
Shown = tuple[Example, Variables | None]


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
    static: dict[str, list[int]] = {} if known is None else known
    wanted: dict[Key | str, Shown] = {}
    for rollout in rollouts:
        name = _name(rollout, builder)
        if name not in wanted and name not in static:
            example, answers = examples[rollout.example_id], (peers or {}).get(rollout.example_id, ())
            group = groups.get(rollout.example_id, ())
            context = build_context(ContextInputs(example, config, pool, group, rollout.sample_index, answers))
            wanted[name] = (example, context)
    made = _made(builder, wanted)
    static |= {name: ids for name, ids in made.items() if isinstance(name, str) and isinstance(ids, list)}
    for rollout in rollouts:
        name = _name(rollout, builder)
        ids = static[name] if name in static else made[name]
        if isinstance(ids, PromptTooLongError):
            prompts.withheld[rollout.key] = TOO_LONG
            first_error = first_error or str(ids)
        elif ids is None:
            prompts.withheld[rollout.key] = NO_CONTEXT
        else:
            prompts.ids[rollout.key] = ids
    if first_error and builder.prompts.overflow == "error":
        count = list(prompts.withheld.values()).count(TOO_LONG)
        raise DataError(
            f"{count} of {len(rollouts)} completions have a teacher prompt that does not fit. The first: {first_error}"
        )
    return prompts


def _name(rollout: Rollout, builder: PromptBuilder) -> Key | str:
    """What a teacher's prompt depends on: the completion where the context is made from rollouts, else the example alone."""
    return rollout.key if builder.teacher.kind.rollouts else rollout.example_id


def _made(builder: PromptBuilder, wanted: Mapping[Key | str, Shown]) -> dict[Key | str, list[int] | PromptTooLongError | None]:
    """Token ids of each prompt, None where a completion without context is left out, or how far it is too long."""
    dropped = builder.teacher.kind.rollouts and builder.teacher.missing_context == "drop"
    asked = {name: shown for name, shown in wanted.items() if not (dropped and shown[1] is None)}
    made: dict[Key | str, list[int] | PromptTooLongError | None] = dict.fromkeys(wanted)
    for name, ids in zip(asked, builder.teachers(list(asked.values())), strict=True):
        if isinstance(ids, DataError) and not isinstance(ids, PromptTooLongError):
            raise ids
        made[name] = ids
    return made


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

"""The teacher's prompt for every completion: context, template, budget; and why a completion gets none."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from opsd_core.errors import DataError
from opsd_core.graders import get_grader, grader_kind
from opsd_core.graders.agreement import final_answer
from opsd_core.prompts.builder import PromptBuilder, PromptTooLongError
from opsd_core.prompts.context_inputs import Attempt, ContextInputs, Variables
from opsd_core.prompts.contexts import build_context
from opsd_core.prompts.known import KnownPrompts
from opsd_core.records.examples import Example, by_id
from opsd_core.records.keys import ByKey, Keys
from opsd_core.records.rollouts import Key, Rollout
from opsd_core.records.spool import IDS, room_like
from opsd_core.records.tables import ROWS_PER_GROUP, parts_of
from opsd_core.records.views import joined

NO_CONTEXT = "no_context"
TOO_LONG = "teacher_prompt_too_long"
_REASONS = ("", NO_CONTEXT, TOO_LONG)
Shown = tuple[Example, Variables | None]
Prompt = list[int] | PromptTooLongError | None


@dataclass
class TeacherPrompts:
    """Token ids by completion (example id, sample index), and the reason for each completion without."""

    ids: Mapping[Key, list[int]] = field(default_factory=dict)
    withheld: Mapping[Key, str] = field(default_factory=dict)


def teacher_prompts(
    builder: PromptBuilder,
    rollouts: Sequence[Rollout],
    correct: Mapping[Key, bool | None],
    pool: Sequence[Example],
    peers: Mapping[str, Sequence[Attempt]] | None = None,
    known: MutableMapping[str, list[int]] | None = None,
) -> TeacherPrompts:
    """The teacher's prompt of each completion; `pool` is the training split, `correct` the grades (may be empty).

    Of a teacher whose members see several contexts the prompts are `joined`, and a completion without one of them has none.

    `rollouts` must hold all completions of a prompt when the context is made from rollouts; where they lie on disk
    (`folder`), the prompts do. `peers` holds other models' answers by example id, for contexts that show them. `known` holds
    prompts by example id that the same builder made for a context that is the same for all completions, and gets those of this
    call. DataError when prompts do not fit and prompts.overflow=error, with their number.
    """
    views = builder.views
    caches = [{} if known is None else known] if len(views) == 1 else [KnownPrompts() for _ in views]
    makers = [_Maker(view, correct, pool, peers or {}, cache) for view, cache in zip(views, caches, strict=True)]
    found, reasons, first_error = room_like(rollouts, IDS), np.zeros(len(rollouts), np.uint8), ""
    keys = Keys.of(rollout.key for rollout in rollouts)
    parts = _whole_prompts(rollouts, keys) if builder.teacher.kind.rollouts else parts_of(rollouts)
    number = 0
    for part in parts:
        for ids in map(_together, *(maker.prompts(part) for maker in makers)):
            if isinstance(ids, PromptTooLongError):
                reasons[number], first_error = _REASONS.index(TOO_LONG), first_error or str(ids)
            elif ids is None:
                reasons[number] = _REASONS.index(NO_CONTEXT)
            else:
                found[number] = ids
            number += 1
    if first_error and builder.prompts.overflow == "error":
        count = int((reasons == _REASONS.index(TOO_LONG)).sum())
        raise DataError(
            f"{count} of {len(rollouts)} completions have a teacher prompt that does not fit. The first: {first_error}"
        )
    withheld = ByKey(keys, lambda number: _REASONS[reasons[number]], reasons > 0)
    return TeacherPrompts(ByKey(keys, found.__getitem__, reasons == 0), withheld)


def _together(*views: Prompt) -> Prompt:
    """One prompt of all views, or why one of them is missing."""
    missing = [ids for ids in views if not isinstance(ids, list)]
    return next((error for error in missing if error is not None), None) if missing else joined(views)


def student_prompts(rollouts: Sequence[Rollout]) -> TeacherPrompts:
    """Where nobody teaches: what the student read, of every completion."""
    found = room_like(rollouts, IDS)
    for number, rollout in enumerate(rollouts):
        found[number] = rollout.prompt_ids
    return TeacherPrompts(ByKey(Keys.of(rollout.key for rollout in rollouts), found.__getitem__))


def _whole_prompts(rollouts: Sequence[Rollout], keys: Keys) -> Iterator[list[Rollout]]:
    """Some rollouts at a time, all of a prompt together; where those are scattered, everything at once."""
    if not keys.grouped:
        yield list(rollouts)
        return
    part: list[Rollout] = []
    for _, group in groupby(rollouts, key=lambda rollout: rollout.example_id):
        part += group
        if len(part) >= ROWS_PER_GROUP:
            yield part
            part = []
    yield part


@dataclass
class _Maker:
    """Makes the prompts of some completions after the other."""

    builder: PromptBuilder
    correct: Mapping[Key, bool | None]
    pool: Sequence[Example]
    peers: Mapping[str, Sequence[Attempt]]
    known: MutableMapping[str, list[int]]

    def __post_init__(self) -> None:
        self._examples = by_id(self.pool)

    def prompts(self, rollouts: Sequence[Rollout]) -> list[Prompt]:
        """One per rollout, in order."""
        config, wanted = self.builder.teacher, {}
        groups = self._groups(rollouts) if config.kind.rollouts else {}
        static = {r.example_id: ids for r in rollouts if (ids := self.known.get(_name(r, self.builder))) is not None}
        for rollout in rollouts:
            name = _name(rollout, self.builder)
            if name not in wanted and name not in static:
                example, answers = self._examples[rollout.example_id], self.peers.get(rollout.example_id, ())
                group = groups.get(rollout.example_id, ())
                context = build_context(ContextInputs(example, config, self.pool, group, rollout.sample_index, answers))
                wanted[name] = (example, context)
        made: dict[Key | str, Prompt] = static | _made(self.builder, wanted)
        self.known.update({n: ids for n, ids in made.items() if isinstance(n, str) and isinstance(ids, list)})
        return [made[_name(rollout, self.builder)] for rollout in rollouts]

    def _groups(self, rollouts: Iterable[Rollout]) -> dict[str, list[Attempt]]:
        """Each prompt's completions, in order."""
        groups: dict[str, list[Attempt]] = defaultdict(list)
        for rollout in sorted(rollouts, key=lambda rollout: rollout.key):
            attempt = Attempt(
                sample_index=rollout.sample_index,
                text=rollout.completion_text,
                answer=final_answer(rollout.answer_text),
                correct=self.correct.get(rollout.key),
                report=self._report(rollout),
                num_tokens=rollout.num_sampled,
            )
            groups[rollout.example_id].append(attempt)
        return groups

    def _report(self, rollout: Rollout) -> str:
        """What the grader says of a completion; "" where it has no words of its own, or no context shows them."""
        grader = self.builder.grader
        if not grader or not grader_kind(grader).reports or self.correct.get(rollout.key) is None:
            return ""
        grade = get_grader(grader)
        return grade(self._examples[rollout.example_id], rollout.answer_text).extracted or ""


def _name(rollout: Rollout, builder: PromptBuilder) -> Key | str:
    """What a teacher's prompt depends on: the completion where the context is made from rollouts, else the example alone."""
    return rollout.key if builder.teacher.kind.rollouts else rollout.example_id


def _made(builder: PromptBuilder, wanted: Mapping[Key | str, Shown]) -> dict[Key | str, Prompt]:
    """Token ids of each prompt, None where a completion without context is left out, or how far it is too long."""
    dropped = builder.teacher.kind.rollouts and builder.teacher.missing_context == "drop"
    asked = {name: shown for name, shown in wanted.items() if not (dropped and shown[1] is None)}
    made: dict[Key | str, Prompt] = dict.fromkeys(wanted)
    for name, ids in zip(asked, builder.teachers(list(asked.values())), strict=True):
        if isinstance(ids, DataError) and not isinstance(ids, PromptTooLongError):
            raise ids
        made[name] = ids
    return made

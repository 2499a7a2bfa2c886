"""Conversations: the policy's turns, and between them what an environment answers.

Every turn is one batched call of whatever samples, for all conversations that still go on. The tokens of all turns are one
completion; what stands between two turns follows them as the chat template writes it (`opsd_core.prompts.turns`).

T = tokens of a conversation after its prompt, K = entries kept
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from opsd_core.config import RolloutConfig
from opsd_core.digest import derive_seed
from opsd_core.errors import DataError
from opsd_core.models.policy import Policy
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.turns import Turns
from opsd_core.records.examples import Example
from opsd_core.records.rollouts import Rollout
from opsd_core.rollout.environments import Environment, Message, environment_of
from opsd_core.rollout.sampling import Completion, Sampling, rollout_of

Ask = Callable[[Sequence[Sequence[int]], Sequence[int], Sampling], list[Completion]]
"""What samples one completion per prompt and seed."""
Progress = Callable[[int, int], None]
_BETWEEN = "\n\n"
"""Between the policy's turns in their common text."""
_COLUMNS = ("ids_T", "logprobs_T", "sampling_logprobs_T", "topk_ids_TK", "topk_logprobs_TK", "tail_mass_T", "entropy_T")


@dataclass
class Conversation:
    """One conversation, as far as it has come."""

    example_id: str
    prompt_ids: list[int]
    seed: int
    messages: list[Message]
    """Those before the policy's first turn, then in turns its own and the environment's."""
    completion: Completion = field(default_factory=Completion)
    """All that follows the prompt; at an environment's tokens nothing is recorded (nan)."""
    sampled_T: list[bool] = field(default_factory=list)
    """Whether the policy wrote the token."""
    turns: list[str] = field(default_factory=list)
    """What it wrote in each turn."""
    finish_reason: str = ""
    """eos = its last turn ended and so did the conversation; length, turns = a limit cut it; empty = it goes on."""

    @property
    def ids(self) -> list[int]:
        """Everything so far, prompt included."""
        return self.prompt_ids + self.completion.ids_T

    @property
    def text(self) -> str:
        """What the policy wrote in all turns."""
        return _BETWEEN.join(self.turns)

    @property
    def answer(self) -> str:
        """What it wrote last, which is judged."""
        return self.turns[-1]

    def own(self, values_T: Sequence[Any]) -> list[Any]:
        """Of one value per token those of the policy's tokens."""
        return [value for value, own in zip(values_T, self.sampled_T, strict=True) if own]

    def add_turn(self, turn: Completion, limit: int) -> bool:
        """Take as much of a turn as `limit` leaves room for; whether that is all of it, to its end token."""
        taken = min(limit - len(self.sampled_T), len(turn.ids_T))
        for name in _COLUMNS:
            getattr(self.completion, name).extend(getattr(turn, name)[:taken])
        self.sampled_T += [True] * taken
        return turn.finish_reason == "eos" and taken == len(turn.ids_T)

    def add_message(self, ids: Sequence[int]) -> None:
        """An environment's tokens."""
        kept, size, nothing = self.completion, len(ids), [float("nan")] * len(ids)
        kept.ids_T.extend(ids)
        for column in (kept.logprobs_T, kept.sampling_logprobs_T, kept.entropy_T):
            column.extend(nothing)
        if kept.topk_ids_TK:
            kept.tail_mass_T.extend(nothing)
            kept.topk_ids_TK.extend([np.zeros_like(kept.topk_ids_TK[0])] * size)
            kept.topk_logprobs_TK.extend([np.full_like(kept.topk_logprobs_TK[0], np.nan)] * size)
        self.sampled_T += [False] * size

    def rollout(self, sample_index: int) -> Rollout:
        """Its record."""
        self.completion.finish_reason = self.finish_reason
        made = rollout_of((self.example_id, sample_index), self.seed, self.prompt_ids, self.completion, self.text)
        return replace(made, sampled_T=np.array(self.sampled_T, bool), answer_start=len(self.text) - len(self.answer))


@dataclass(frozen=True)
class Talk:
    """How conversations are held: who answers, how messages become tokens, within which limits."""

    environment: Environment
    turns: Turns
    max_turns: int
    max_positions: int
    """The policy's context, in tokens."""

    @classmethod
    def of(cls, policy: Policy, builder: PromptBuilder, config: RolloutConfig) -> "Talk | None":
        """As `config` wants it; None where nobody answers. ConfigError for a function that cannot be imported."""
        environment = environment_of(config)
        if environment is None:
            return None
        return cls(environment, Turns(builder, tuple(policy.eos_ids)), config.max_turns, policy.max_positions)

    def opened(self, examples: Sequence[Example], prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Conversation]:
        """Conversations that nobody has said a word in; one for each, of which examples may be the same."""
        different = list({example.id: example for example in examples}.values())
        messages = dict(zip((example.id for example in different), self.turns.opening(different), strict=True))
        rows = zip(examples, prompts, seeds, strict=True)
        return [Conversation(e.id, list(prompt), seed, [*messages[e.id]]) for e, prompt, seed in rows]

    def hold(
        self, ask: Ask, conversations: Sequence[Conversation], sampling: Sampling, on_progress: Progress | None = None
    ) -> None:
        """Go on with all of them until each has ended. `sampling.max_completion_length` holds for a whole conversation.

        The seed of a turn follows from the conversation's and the turn's number; the first one's is the conversation's own.
        DataError naming the item for which the environment does not answer, ModelError for a template that cannot go on.
        """
        going = list(conversations)
        for turn in range(self.max_turns if going else 0):
            whole = self._ask(ask, going, sampling, turn)
            replies = [self._reply(c) if all_of_it else None for c, all_of_it in zip(going, whole, strict=True)]
            for c, all_of_it, reply in zip(going, whole, replies, strict=True):
                c.finish_reason = "length" if not all_of_it else "eos" if reply is None else "turns"
            answered = [(c, reply) for c, reply in zip(going, replies, strict=True) if reply is not None]
            going = self._answer(answered if turn + 1 < self.max_turns else [], sampling.max_completion_length)
            if on_progress:
                on_progress(len(conversations) - len(going), len(conversations))
            if not going:
                return

    def _ask(self, ask: Ask, going: Sequence[Conversation], sampling: Sampling, turn: int) -> list[bool]:
        """The next turn of each; whether it is whole, to its end token."""
        whole = [False] * len(going)
        for rows in self._fitting(going, range(len(going)), sampling.max_completion_length):
            chosen = [going[row] for row in rows]
            longest = max(sampling.max_completion_length - len(c.sampled_T) for c in chosen)
            seeds = [derive_seed("turn", c.seed, turn) if turn else c.seed for c in chosen]
            made = ask([c.ids for c in chosen], seeds, replace(sampling, max_completion_length=longest))
            for row, c, completion in zip(rows, chosen, made, strict=True):
                start = len(c.sampled_T)
                whole[row] = c.add_turn(completion, sampling.max_completion_length)
                c.turns.append(self.turns.builder.tokenizer.decode(c.completion.ids_T[start:], skip_special_tokens=True))
                c.messages.append({"role": "assistant", "content": c.turns[-1]})
        return whole

    def _fitting(self, going: Sequence[Conversation], rows: Sequence[int], limit: int) -> Iterator[Sequence[int]]:
        """Rows that can be asked together: the longest so far leaves room for the longest that is to come."""
        so_far = max(len(going[row].ids) for row in rows)
        to_come = max(limit - len(going[row].sampled_T) for row in rows)
        if so_far + to_come <= self.max_positions or len(rows) == 1:
            yield rows
            return
        half = len(rows) // 2
        yield from self._fitting(going, rows[:half], limit)
        yield from self._fitting(going, rows[half:], limit)

    def _reply(self, conversation: Conversation) -> Message | None:
        try:
            return self.environment(conversation.messages).message
        except DataError as error:
            raise DataError(f"item {conversation.example_id}: {error}") from error

    def _answer(self, answered: Sequence[tuple[Conversation, Message]], limit: int) -> list[Conversation]:
        """The conversations that go on: those in which the message leaves room for one more token."""
        going, following = [], self.turns.following([[*c.messages, reply] for c, reply in answered])
        for (c, reply), ids in zip(answered, following, strict=True):
            if len(c.sampled_T) + len(ids) < limit:
                c.messages.append(reply)
                c.add_message(ids)
                c.finish_reason = ""
                going.append(c)
            else:
                c.finish_reason = "length"
        return going

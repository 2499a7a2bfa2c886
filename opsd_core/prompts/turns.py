"""What stands between two turns of the policy: an environment's message, as the chat template writes it, in tokens.

    prompt | turn 1 <end> | message 1, and where turn 2 begins | turn 2 <end> | ...
             sampled        of the template                      sampled

What the policy sampled is never encoded again. The template is asked for the whole conversation with a word in place of each of
the policy's turns, and what it writes behind the last of these words is taken. That is right where the template is consistent: a
conversation that goes on begins, character for character, with what it was before. `check_turns` tries that beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from opsd_core.errors import ModelError
from opsd_core.models.chat import chat_texts, worded
from opsd_core.models.plain_text import MARK, encode, shielded
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.examples import Example

Messages = Sequence[dict[str, str]]
_TURN, _REPLY = "opsdprobeturn", "opsdprobereply"
_THOUGHT = "<think>\nopsdprobethought\n</think>\n\n"


@dataclass(frozen=True)
class Turns:
    """How a conversation of one tokenizer and template goes on."""

    builder: PromptBuilder
    end_ids: tuple[int, ...]
    """Tokens with which the policy ends a turn."""

    def opening(self, examples: Sequence[Example]) -> list[list[dict[str, str]]]:
        """The messages before the policy's first turn, as plain text: those of `PromptBuilder.student_ids`."""
        system = self.builder.prompts.system
        first = [] if system is None else [{"role": "system", "content": system}]
        texts = self.builder.student_texts(examples)
        return [[*first, {"role": "user", "content": text.replace(MARK, "")}] for text in texts]

    def following(self, chats: Sequence[Messages]) -> list[list[int]]:
        """Token ids of each chat's last message, an environment's, and of where the policy's next turn begins.

        They follow the token with which the policy ended its turn. ModelError when the template writes none there, or is not
        consistent.
        """
        builder, template = self.builder, self.builder.template
        for role in {chat[-1]["role"] for chat in chats}:
            self.check(role)
        word = _TURN
        while any(word in message["content"] for chat in chats for message in chat):
            word += "x"
        masked = [[self._masked(message, word) for message in chat] for chat in chats]
        shown = [worded(builder.tokenizer, template, chat) for chat in masked]
        texts = chat_texts(builder.tokenizer, template, shown, enable_thinking=builder.prompts.student_thinking)
        return [self._behind(text.rpartition(word)[2]) for text in texts]

    def check(self, role: str) -> None:
        """ModelError when conversations in which an environment speaks as `role` cannot be continued token by token."""
        builder = self.builder
        settings = (builder.prompts.system is not None, builder.prompts.student_thinking)
        check_turns(builder.tokenizer, builder.template, *settings, role, self.end_ids)

    def _masked(self, message: dict[str, str], word: str) -> dict[str, str]:
        if message["role"] == "assistant":
            return message | {"content": word}
        if message["role"] == "system":  # the settings' own words
            return message
        return message | {"content": shielded(self.builder.tokenizer, message["content"], self.builder.template)}

    def _behind(self, text: str) -> list[int]:
        return encode(self.builder.tokenizer, text)[1:]


@lru_cache(maxsize=64)
def check_turns(
    tokenizer: PreTrainedTokenizerBase, template: str, system: bool, thinking: bool, role: str, end_ids: tuple[int, ...]
) -> None:
    """Render a conversation of three turns. ModelError naming what the template does with it that sampling cannot follow.

    It has to begin with what was there before at every turn, thoughts included where the policy thinks, to end each of the
    policy's turns with a token with which the policy ends it, and to be encoded there as it is when it stands alone.
    """
    said = _THOUGHT + _TURN if thinking or "</think>" in template else _TURN
    opening = [{"role": "system", "content": "opsdprobesystem"}] if system else []
    opening.append({"role": "user", "content": "opsdprobequestion"})
    round_of = [{"role": "assistant", "content": said}, {"role": role, "content": _REPLY}]
    chats = [worded(tokenizer, template, [*opening, *round_of * count]) for count in range(3)]
    asked, once, twice = chat_texts(tokenizer, template, chats, enable_thinking=thinking)
    for before, after in ((asked, once), (once, twice)):
        if not after.startswith(before + said):
            kept = next((i for i, pair in enumerate(zip(before + said, after, strict=False)) if pair[0] != pair[1]), len(before))
            raise _inconsistent(
                template, role, f"it rewrites what was said before: {(before + said)[kept:][:60]!r} became {after[kept:][:60]!r}"
            )
        behind = after.removeprefix(before + said)
        if _REPLY not in behind:
            raise _inconsistent(template, role, "it does not show the message")
        ids, whole = encode(tokenizer, behind), encode(tokenizer, after)
        if not ids or ids[0] not in end_ids:
            ends = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in end_ids)
            raise _inconsistent(
                template, role, f"behind the assistant's words it writes {behind[:40]!r}, and no token that ends them ({ends})"
            )
        if whole[-len(ids) :] != ids:
            raise _inconsistent(template, role, "its tokens depend on the text before them")


def _inconsistent(template: str, role: str, why: str) -> ModelError:
    return ModelError(
        f"rollout.environment cannot be used with the chat template {template!r:.120}: in a conversation that goes on with a "
        f"message of the role {role}, {why}. What the policy sampled would not be what a server shows it later. Set "
        "model.chat_template to a template that writes every message as it was and the end token behind each of the assistant's, "
        "or rollout.environment=none."
    )

"""Chat templates: which one counts, what text it makes of messages, and the token that ends a turn.

A template is code that somebody else wrote: it runs in a sandbox in a process of its own, on a fixed date, each time with a limit
of time and memory (`opsd_core.bounded.templates`), and whatever it raises becomes a ModelError.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from opsd_core.bounded.templates import DATE, MAX_TEMPLATE, RenderError, rendered
from opsd_core.errors import ModelError

Message = Mapping[str, Any]

BAKED_BEGIN, BAKED_END = "{#- opsd: what the model was judged with #}\n", "{#- opsd: end #}\n"
_QUESTION, _OTHER, _ANSWER, _SYSTEM = "opsdprobeone", "opsdprobetwo", "opsdprobeanswer", "opsdprobesystem"


def chat_template(tokenizer: PreTrainedTokenizerBase, chosen: str | None = None) -> str:
    """The template's text: `chosen` (a template, or the name of one of the tokenizer's), else the tokenizer's default.

    Without the defaults that `opsd_core.models.storage.serving` writes before it. ModelError when there is none.
    """
    own = tokenizer.chat_template
    if isinstance(own, list):
        entries = [entry for entry in own if isinstance(entry, dict) and {"name", "template"} <= entry.keys()]
        own = {entry["name"]: entry["template"] for entry in entries}
    named = own if isinstance(own, dict) else {}
    template = own if chosen is None and not named else named.get(chosen or "default", chosen)
    if template is None and named:
        raise ModelError(
            f"the tokenizer has several chat templates ({', '.join(sorted(named))}) and none is called 'default'. Set "
            "model.chat_template to one of these names."
        )
    if template is None:
        raise ModelError(
            "the tokenizer has no chat template, so a prompt cannot be built. It is probably a base model: "
            "set model.chat_template to the template of its instruct version."
        )
    if not isinstance(template, str):
        raise ModelError(
            f"the tokenizer's chat template is no text but a {type(template).__name__}: {template!r:.80}. tokenizer_config.json "
            "of model.source is damaged; set model.chat_template to the template."
        )
    if "{" not in template:
        names = f"the tokenizer's templates are {', '.join(sorted(named))}" if named else "the tokenizer has no named templates"
        raise ModelError(
            f"model.chat_template={template!r:.120} is no template (nothing in it would be replaced by a message), no file that "
            f"exists and no name: {names}. Give Jinja text, the path of a .jinja file or a name."
        )
    if len(template) > MAX_TEMPLATE:
        raise ModelError(
            f"the chat template has {len(template):,} characters, more than {MAX_TEMPLATE:,}; a usual one has some thousands. "
            "tokenizer_config.json or chat_template.jinja of model.source is damaged or made to do harm: set model.chat_template "
            "to a right one."
        )
    return without_baked(template)


def without_baked(template: str) -> str:
    """The template that defaults were written before."""
    if not template.startswith(BAKED_BEGIN):
        return template
    return template.partition(BAKED_END)[2]


def chat_text(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Message], *, reply: bool = True, **arguments: Any
) -> str:
    """The text that the template makes of the messages, as `chat_texts`."""
    return chat_texts(tokenizer, template, [messages], reply=reply, **arguments)[0]


def chat_texts(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    chats: Sequence[Sequence[Message]],
    *,
    reply: bool = True,
    **arguments: Any,
) -> list[str]:
    """The text that the template makes of each chat; with `reply`, up to where the assistant begins.

    Byte for byte what the tokenizer's `apply_chat_template` makes. `arguments` are the template's own, such as enable_thinking.
    ModelError when the template fails or passes a limit.
    """
    given = {"tools": None, "documents": None, "add_generation_prompt": reply, **tokenizer.special_tokens_map, **arguments}
    variables = [{"messages": [_without_none(message) for message in messages], **given} for messages in chats]
    try:
        return rendered("chat", date_line(template) + template, variables)
    except RenderError as error:
        roles = ", ".join(dict.fromkeys(message["role"] for messages in chats for message in messages))
        raise ModelError(
            f"the chat template {template!r:.120} cannot be rendered for messages of the roles {roles}: {error}. Correct it, or "
            "set model.chat_template to one that works"
            f"{'; a template without a system role needs prompts.system=null' if 'system' in roles else ''}."
        ) from error


def _without_none(message: Message) -> dict[str, Any]:
    return {name: value for name, value in message.items() if value is not None}


def _is_limit(error: ModelError) -> bool:
    """Whether a template ran into a limit, and would again."""
    return isinstance(error.__cause__, RenderError) and error.__cause__.limit


def as_messages(tokenizer: PreTrainedTokenizerBase, template: str, user: str, system: str | None) -> list[dict[str, Any]]:
    """A user's message behind a system message, in the form of content (a text, or a list of parts) that the template reads."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    return worded(tokenizer, template, [*messages, {"role": "user", "content": user}])


def worded(tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages of plain text in the form of content that the template reads."""
    if not _wants_parts(tokenizer, template):
        return [dict(message) for message in messages]
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


@lru_cache(maxsize=32)
def _wants_parts(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Whether the template shows parts of a multimodal message and not a plain text."""
    if "type" not in template:
        return False

    def shows(content: Any) -> bool:
        try:
            return _QUESTION in chat_text(tokenizer, template, [{"role": "user", "content": content}])
        except ModelError as error:
            if _is_limit(error):
                raise
            return False

    return not shows(_QUESTION) and shows([{"type": "text", "text": _QUESTION}])


@lru_cache(maxsize=64)
def check_template(tokenizer: PreTrainedTokenizerBase, template: str, system: bool, thinking: bool) -> None:
    """Render probes. ModelError when the template fails, never ends, changes by itself, or leaves out a message's text.

    `system`: whether a system message will be given.
    """

    questions = (_QUESTION, _QUESTION, _OTHER)
    chats = [as_messages(tokenizer, template, question, _SYSTEM if system else None) for question in questions]
    one, again, other = chat_texts(tokenizer, template, chats, enable_thinking=thinking)
    if one != again:
        raise ModelError(
            f"the chat template {template!r:.120} makes another text of the same message each time, so prompts could not be made "
            "again. Take what is random or timed out of it, and set model.chat_template to the result."
        )
    if _QUESTION not in one or _OTHER not in other:
        raise ModelError(
            f"the chat template {template!r:.120} does not show the user's message: every prompt would be {one!r:.120}. Set "
            "model.chat_template to a template that writes message['content'] of each message."
        )
    if system and _SYSTEM not in one:
        raise ModelError(
            f"the chat template {template!r:.120} leaves out the system message. Set prompts.system=null (and "
            "teacher.system_template='') and put the text into prompts.student, or set model.chat_template to a template with a "
            "system role."
        )


@lru_cache(maxsize=64)
def _turn_end(tokenizer: PreTrainedTokenizerBase, template: str, size: int) -> int | None:
    try:
        question = as_messages(tokenizer, template, _QUESTION, None)
        answer = [{**question[-1], "role": "user"}, {**_with_text(question[-1], _ANSWER), "role": "assistant"}]
        text = chat_text(tokenizer, template, answer, reply=False)
        before, found, after = text.rpartition(_ANSWER)
        ids = tokenizer.encode(after.strip(), add_special_tokens=False) if found and after.strip() else []
    except ModelError as error:
        if _is_limit(error):
            raise
        return None
    added = tokenizer.added_tokens_decoder
    if not ids or (ids[0] not in added and ids[0] not in tokenizer.all_special_ids):
        return None
    opens = before.lstrip().startswith(tokenizer.convert_ids_to_tokens(ids[0])) and ids[0] != tokenizer.eos_token_id
    return None if opens else ids[0]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the tokenizer's chat template writes behind an assistant's message; None where it writes none."""
    try:
        template = chat_template(tokenizer)
    except ModelError:
        return None
    return _turn_end(tokenizer, template, len(tokenizer))


def _with_text(message: Message, text: str) -> dict[str, Any]:
    parts = isinstance(message["content"], list)
    return {**message, "content": [{"type": "text", "text": text}] if parts else text}


def date_line(template: str) -> str:
    """A line of Jinja that stops the clock of a template that reads it; empty for any other.

    ModelError where the template computes the format, so that what it writes cannot be known.
    """
    if "macro strftime_now(" in template:
        return ""
    formats = re.findall(r"strftime_now\(\s*[\"']([^\"']+)[\"']\s*\)", template)
    if len(formats) < template.count("strftime_now("):
        raise ModelError(
            f"the chat template {template!r:.120} asks for the date in a format that it computes, so its prompts would change "
            "from day to day. Write the date into it and set model.chat_template to the result."
        )
    cases = "".join(
        f"{{%- if format == {json.dumps(wanted)} %}}{{{{- {json.dumps(DATE.strftime(wanted))} }}}}{{%- endif %}}"
        for wanted in sorted(set(formats))
    )
    return f"{{%- macro strftime_now(format) %}}{cases}{{%- endmacro %}}\n" if formats else ""

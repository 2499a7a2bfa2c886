"""What a policy was judged with, written into its folder, so that whoever serves the folder gives the same answers.

tokenizer               the chat template, with its arguments and the system message as defaults in its first lines
generation_config.json  every end token, greedy decoding or the sampler's settings, the most tokens of an answer
config.json             the dtype that the policy was judged in
README.md               the same in words
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from opsd_core.config import CampaignConfig
from opsd_core.models.chat import BAKED_BEGIN, BAKED_END, chat_template, date_line
from opsd_core.models.devices import resolve_dtype
from opsd_core.models.types import Policy


@dataclass(frozen=True)
class Serving:
    """What an answer depends on besides weights and question."""

    chat_template: str | None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Such as {"enable_thinking": False}."""
    system: str | None = None
    eos_ids: tuple[int, ...] = ()
    temperature: float = 0.0
    """0: greedy."""
    top_p: float = 1.0
    max_new_tokens: int | None = None
    dtype: str | None = None
    """"float32" or "bfloat16"; None: that of the stored weights."""
    user_template: str = "{{ question }}"
    """What the gate made of a question before the chat template; whoever asks writes it, no file can."""
    base: str | None = None
    """Name of the model that training began from."""

    @classmethod
    def of(cls, policy: Policy, config: CampaignConfig) -> "Serving":
        """What the gate's greedy answers of a campaign are made with."""
        return cls(
            chat_template=chat_template(policy.tokenizer, config.model.chat_template),
            template_arguments={"enable_thinking": config.prompts.student_thinking},
            system=config.prompts.system,
            eos_ids=policy.eos_ids,
            max_new_tokens=config.evaluation.max_completion_length,
            dtype=str(resolve_dtype(config.model)).removeprefix("torch."),
            user_template=config.prompts.student,
            base=config.model.source,
        )


def served_settings(config: CampaignConfig) -> dict[str, Any]:
    """The settings that `Serving.of` reads: part of a stored folder's identity."""
    return {
        "chat_template": config.model.chat_template,
        "source": config.model.source,
        "dtype": str(resolve_dtype(config.model)),
        "system": config.prompts.system,
        "thinking": config.prompts.student_thinking,
        "student": config.prompts.student,
        "length": config.evaluation.max_completion_length,
    }


def write_serving(serving: Serving, policy: Policy, folder: Path) -> None:
    """Rewrite the files of a saved policy; weights and vocabulary stay. The same record gives the same bytes."""
    tokenizer, own = policy.tokenizer, policy.tokenizer.chat_template
    if serving.chat_template is not None:
        try:
            tokenizer.chat_template = baked(serving)
            tokenizer.save_pretrained(folder)
        finally:
            tokenizer.chat_template = own
    settings = _generation(serving, policy)
    (folder / "generation_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    if serving.dtype is not None:
        config = json.loads((folder / "config.json").read_text())
        config["dtype"] = serving.dtype
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").write_text(_card(serving, settings))


def baked(serving: Serving) -> str:
    """The chat template, behind lines that give its arguments and the system message where a caller gives none.

    `apply_chat_template(messages, add_generation_prompt=True)` then makes the prompt that the policy was judged with. A template
    that reads no argument, for a campaign without a system message, stays as it is.
    """
    template, lines = serving.chat_template or "", []
    for name, value in sorted(serving.template_arguments.items()):
        if name in template:
            lines.append(f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}\n")
    if serving.system is not None:
        message = f"[{{'role': 'system', 'content': {_literal(serving.system)}}}]"
        absent = "not messages or messages[0]['role'] != 'system'"
        lines.append(f"{{%- if {absent} %}}{{%- set messages = {message} + messages %}}{{%- endif %}}\n")
    if dated := date_line(template):
        lines.append(dated)
    return f"{BAKED_BEGIN}{''.join(lines)}{BAKED_END}{template}" if lines else template


def _literal(value: Any) -> str:
    """A Jinja literal."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False)


def _generation(serving: Serving, policy: Policy) -> dict[str, Any]:
    """Only what was judged: a source's own repetition penalty or temperature would give other answers."""
    own = policy.causal_lm.generation_config
    ends = list(serving.eos_ids or policy.eos_ids)
    pad = policy.tokenizer.pad_token_id
    settings = {
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "pad_token_id": ends[0] if pad is None else pad,
        "do_sample": serving.temperature > 0,
        "transformers_version": GenerationConfig().to_dict().get("transformers_version"),
    }
    if own.bos_token_id is not None:
        settings["bos_token_id"] = own.bos_token_id
    if serving.temperature > 0:
        settings |= {"temperature": serving.temperature, "top_p": serving.top_p, "top_k": 0}
    else:
        settings |= {"temperature": 0.0}  # what other servers read as greedy
    if serving.max_new_tokens is not None:
        settings["max_new_tokens"] = serving.max_new_tokens
    return {name: value for name, value in settings.items() if value is not None}


def _card(serving: Serving, settings: Mapping[str, Any]) -> str:
    decoding = f"temperature {serving.temperature:g}, top-p {serving.top_p:g}" if serving.temperature > 0 else "greedy"
    ends = settings["eos_token_id"]
    arguments = ", ".join(f"`{name}={value}`" for name, value in sorted(serving.template_arguments.items())) or "none"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [on-policy-self-distillation]",
        "---",
        "",
        "# What this model was judged with",
        "",
        "The files of this folder hold it, so a server that reads them gives the same greedy answers.",
        "",
        f"- Started from: {serving.base or 'not recorded'}",
        f"- Dtype: {serving.dtype or 'that of the weights'}",
        f"- Decoding: {decoding}; at most {serving.max_new_tokens or 'the context'} tokens",
        f"- End tokens: {', '.join(str(end) for end in (ends if isinstance(ends, list) else [ends]))}",
        f"- Arguments of the chat template: {arguments}",
        f"- System message: {'none' if serving.system is None else json.dumps(serving.system, ensure_ascii=False)}",
        f"- User message made of a question by: `{serving.user_template}`",
        "",
        "```python",
        "tokenizer.apply_chat_template(messages, add_generation_prompt=True)  # the defaults stand in the template",
        "```",
        "",
    ]
    return "\n".join(lines)

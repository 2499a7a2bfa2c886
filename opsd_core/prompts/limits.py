"""Limits between settings, data and model that are known before anything is sampled.

    longest prompt + longest completion <= the model's context      of rollouts, of the teacher's side, of evaluations

`longest` is measured when a data set is prepared: split -> {"student": tokens, "teacher": tokens}.
"""

from collections.abc import Mapping, Sequence

from opsd_core.config import CampaignConfig
from opsd_core.data.splits import question_key
from opsd_core.errors import ConfigError, DataError
from opsd_core.records.examples import Example

Longest = Mapping[str, Mapping[str, int]]
MIN_MEASURED = 2
"""Items from which an accuracy has an error."""


def check_context(config: CampaignConfig, positions: int, longest: Longest | None = None) -> None:
    """ConfigError naming the setting when prompt and completion do not fit the model's context of `positions` tokens.

    Without `longest` only completions are looked at, for prompts are not known yet.
    """
    lengths = longest or {}
    train, held_out = lengths.get("train", {}), lengths.get("validation", {})
    rows = (
        ("evaluation.max_completion_length", config.evaluation.max_completion_length, held_out.get("student", 1), "held-out"),
        ("rollout.max_completion_length", config.rollout.max_completion_length, train.get("student", 1), "training"),
        ("rollout.max_completion_length", config.rollout.max_completion_length, train.get("teacher", 1), "teacher's"),
    )
    for field, completion, prompt, whose in rows:
        if prompt + completion > positions:
            budget = "prompts.max_teacher_prompt_length" if whose == "teacher's" else "prompts.max_prompt_length"
            known = f"the longest {whose} prompt has {prompt} tokens" if longest else "a prompt has at least one"
            raise ConfigError(
                f"{field}={completion} exceeds the model's context of {positions} tokens: {known}. Lower {field} to at most "
                f"{max(positions - prompt, 0)}, or lower {budget} and set prompts.overflow=drop."
            )


def check_items(config: CampaignConfig, train: Sequence[Example], measured: Sequence[Example]) -> None:
    """DataError when the items that are trained on or measured are too few, or are one question many times."""
    if len(measured) < MIN_MEASURED:
        raise DataError(
            f"{len(measured)} held-out item is measured (evaluation.num_items={config.evaluation.num_items}, of the validation "
            f"split those with an answer); an accuracy with an error needs {MIN_MEASURED}, a decision of the gate many more. Use "
            "more rows (data.size), or raise data.validation_fraction."
        )
    for name, examples in (("training", train), ("held-out", measured)):
        if len({question_key(example) for example in examples}) == 1 and len(examples) > 1:
            raise DataError(
                f"all {len(examples)} {name} items of data.source={config.data.source} ask the same question "
                f"({examples[0].question!r:.80}), so they are one item. Is data.columns.question the right column?"
            )

"""A guard's items: read once, stored, and refused by the guard's name before a campaign pays for anything."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from opsd_core.config import CampaignConfig, EvaluationConfig
from opsd_core.config.guards import GuardConfig
from opsd_core.data import load_items, same_question, split_digest
from opsd_core.errors import ConfigError, DataError
from opsd_core.graders import check_gradable, grader_name
from opsd_core.judgement.guard_sizes import fewest_items, size_in_words
from opsd_core.judgement.likelihood import text_pairs
from opsd_core.models.policy import tokenizer_digest
from opsd_core.prompts.builder import PromptBuilder, fitting_examples
from opsd_core.records.examples import Example, read_examples, write_examples
from tasks.context import local, produce, scratch
from tasks.loaded import prompt_builder, stored_examples
from tasks.refs import GuardItems, PolicyRef, Ref
from tasks.runtime.retries import STAGE
from tasks.runtime.stage import task
from tasks.sources import data_sources, download_file, named
from tasks.stages.rehearse import prompts_of_source
from tasks.stages.weights import stored_context
from tasks.states import data_state, in_words, unchanged_data

_ITEMS, _SUITE = "items.parquet", "suite"


@task(name="prepare-guards", **STAGE)
def prepare_guards(config: CampaignConfig, initial: PolicyRef, data: Ref) -> list[GuardItems]:
    """The items of every guard. DataError or ConfigError by the guard's name where they cannot be used, or can never hold.

    Refused are items that cannot be read, are none, have no answers, do not fit the model, are too few for any conclusion, or ask
    what the training split or a rehearsal asks.
    """
    trained, found = _trained(config, data), []
    for guard in config.promotion.guards:
        identity = _identity(config, guard, initial)
        get_run_logger().info("%s.data.source=%s: %s", guard.field, guard.data.source, in_words(identity["content"]))
        builder = prompt_builder(initial, guarded(config, guard))
        artifact, _ = produce("guards", identity, partial(_load, guard, builder, identity["content"]))
        items = GuardItems(uri=artifact.uri, guard=guard.title, **artifact.summary["items"])
        _check(config, guard, guard_examples(items), trained)
        _check_lengths(config, guard, builder, guard_examples(items), stored_context(initial, config.model))
        get_run_logger().info(size_in_words(guard, items.num_items, config.promotion.guard_alpha))
        found.append(items)
    return found


def guarded(config: CampaignConfig, guard: GuardConfig) -> CampaignConfig:
    """The configuration under which a guard's items are answered: greedily, alone, the same whatever the campaign's seed."""
    evaluation = EvaluationConfig(
        num_items=guard.num_items,
        max_completion_length=guard.max_completion_length or config.evaluation.max_completion_length,
    )
    changes = {"data": guard.data, "prompts": guard.prompts or config.prompts, "evaluation": evaluation, "seed": 0}
    changes["rollout"] = config.rollout.model_copy(update={"environment": "none"})
    return config.model_copy(update=changes)


def guard_examples(items: GuardItems) -> list[Example]:
    """The stored items, by id."""
    return read_examples(local(items) / _ITEMS)


def _identity(config: CampaignConfig, guard: GuardConfig, initial: PolicyRef) -> dict[str, Any]:
    answered = guarded(config, guard)
    builder = prompt_builder(initial, answered)
    return {
        "data": guard.data.model_dump(exclude={"grader", "grader_function", "validation_fraction", "test_fraction"}),
        "content": data_state(guard.data, f"{guard.field}.data.source"),
        "rows": guard.rows,
        "measure": guard.measure,
        "num_items": guard.num_items,
        "template": builder.student_digest,
        "prompts": answered.prompts.model_dump(include={"max_prompt_length", "overflow"}),
        "tokenizer": tokenizer_digest(builder.tokenizer),
    }


def _load(guard: GuardConfig, builder: PromptBuilder, state: dict[str, Any], folder: Path) -> dict[str, Any]:
    field = f"{guard.field}.data.source"
    with of_guard(guard), scratch() as downloads:
        loaded = load_items(guard.data, fetch=lambda uri: download_file(uri, downloads, field))
        unchanged_data(guard.data, state, field)
        examples = _own_rows(guard, loaded)
        as_they_stand = [e for e in examples if guard.measure == "likelihood" and not (e.solution or e.answer)]
        unprompted = {example.id for example in as_they_stand}
        fitting, _ = fitting_examples([e for e in examples if e.id not in unprompted], builder, lambda example: None)
    chosen = sorted([*fitting, *as_they_stand], key=lambda example: example.id)[: guard.num_items]
    if not chosen:
        raise DataError(f"{field}={guard.data.source} gives no item whose prompt fits. Raise prompts.max_prompt_length.")
    write_examples(folder / _ITEMS, chosen)
    return {"items": {"num_items": len(chosen), "items_digest": split_digest(chosen)}}


def _own_rows(guard: GuardConfig, examples: Sequence[Example]) -> list[Example]:
    """Those whose column `suite` names this guard's suite, where its file holds several."""
    if not guard.rows:
        return list(examples)
    named_in = [str(example.metadata.get("columns", {}).get(_SUITE, "")) for example in examples]
    chosen = [example for example, suite in zip(examples, named_in, strict=True) if suite == guard.rows]
    if not chosen:
        there = ", ".join(sorted(set(filter(None, named_in)))[:20])
        what = f"its suites are {there}" if there else f"no row has a value of at most 40 characters in a column {_SUITE!r}"
        raise DataError(
            f"{guard.field}.suite={guard.rows!r}: {guard.data.source} has no row of it; {what}. Correct suite, or leave it out "
            "to use all rows."
        )
    return chosen


def _check(config: CampaignConfig, guard: GuardConfig, examples: Sequence[Example], trained: dict[str, str]) -> None:
    if guard.measure == "grader":
        if missing := [example for example in examples if not example.answer]:
            raise DataError(
                f"{guard.field}: {len(missing)} of its {len(examples)} items have no answer, the first asks "
                f"{missing[0].question!r:.80}; nothing can be graded. Correct {guard.field}.data.columns.answer, or use "
                f"{guard.field}.measure=likelihood."
            )
        with of_guard(guard):
            check_gradable(examples, grader_name(guard.data))
    fewest = fewest_items(guard, config.promotion.guard_alpha)
    if len(examples) < fewest:
        high = "" if guard.measure == "likelihood" else " even if no answer changed"
        raise ConfigError(
            f"{guard.field}: with {len(examples)} items it can never hold{high}: a drop of max_drop={guard.max_drop:g} cannot be "
            f"ruled out at promotion.guard_alpha={config.promotion.guard_alpha:g} with fewer than {fewest} items. Raise "
            f"{guard.field}.num_items ({guard.num_items}) to {fewest} or more and give as many, or raise max_drop."
        )
    asked = [(example, trained[key]) for example in examples if (key := same_question(example)) in trained]
    if asked:
        example, where = asked[0]
        raise DataError(
            f"{guard.field}: {len(asked)} of its {len(examples)} items ask what the campaign trains on ({where}); the first is "
            f"item {example.id} ({example.question!r:.80}). What is trained on shows no loss elsewhere: take these rows out "
            f"of {guard.field}.data.source={guard.data.source}, or out of {where}."
        )


def _check_lengths(
    config: CampaignConfig, guard: GuardConfig, builder: PromptBuilder, examples: Sequence[Example], positions: int
) -> None:
    """ConfigError when an item does not fit the model's context."""
    if guard.measure == "likelihood":
        longest = max(len(given) + len(text) for given, text in text_pairs(builder.tokenizer, examples, builder))
        said = f"its longest text has {longest} tokens with its prompt"
    else:
        answer = guarded(config, guard).evaluation.max_completion_length
        prompt = max(map(len, builder.all_student_ids(examples)))
        longest, said = prompt + answer, f"its longest prompt has {prompt} tokens and max_completion_length={answer} come on top"
    if longest > positions:
        raise ConfigError(
            f"{guard.field} exceeds the model's context of {positions} tokens: {said}. Shorten the items, or lower "
            f"{guard.field}.max_completion_length."
        )


def _trained(config: CampaignConfig, data: Ref) -> dict[str, str]:
    """What the campaign trains on or rehearses: question -> the setting of its source."""
    trained = {same_question(example): "data.source" for example in stored_examples(data, "train")}
    for field, section in data_sources(config)[1:]:
        trained |= {same_question(example): field for example in prompts_of_source(section, field)}
    return trained


@contextmanager
def of_guard(guard: GuardConfig) -> Iterator[None]:
    """Errors about data.* and prompts.* as errors about the guard's own sections."""
    try:
        with named(f"{guard.field}.data.source"):
            yield
    except (DataError, ConfigError) as error:
        own = guard.prompts is not None
        text = re.sub(r"(?<![\w.\]])prompts\.(?=[a-z])", lambda _: f"{guard.field}.prompts." if own else "prompts.", str(error))
        raise type(error)(text if guard.field in text else f"{guard.field}: {text}") from error

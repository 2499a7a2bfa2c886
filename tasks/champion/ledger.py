"""What a model's decisions have spent of its error budget, where promotion.alpha_per=model.

An entry is written before its verdict is known, so that a process that dies in between has spent what it might have used, and
the same iteration triggered again finds its entry, whatever others have decided since.
"""

from collections.abc import Sequence
from dataclasses import replace

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from opsd_core.config import CampaignConfig
from opsd_core.judgement.budget import Decision, next_decision, on_these_items, starts_at, wear
from opsd_core.judgement.gate import level
from opsd_core.judgement.verdict import Verdict
from opsd_core.judgement.words import ledger_table
from opsd_core.records.examples import Example
from tasks.context import tracker
from tasks.exclusive import champion_moves
from tasks.refs import Iteration
from tasks.runtime.progress import artifact_key

ITEMS_FROM = "opsd.items_from"
"""Tag of a campaign's run: the id from which on it takes held-out items."""
LEDGER = "ledger.md"


def open_decision(iteration: Iteration, item_ids: Sequence[str]) -> Decision | None:
    """The entry of this iteration's decision, written now unless it is there; None where the model keeps no ledger."""
    rules, name = iteration.config.promotion, iteration.name
    if rules.alpha_per != "model":
        return None
    with champion_moves(name):
        history = tracker().decisions(name)
        mine = _own(history, iteration)
        if mine is not None:
            return history[mine]
        items = (min(item_ids), max(item_ids))
        opened = next_decision(history, iteration.campaign.id, iteration.number, items, rules.alpha)
        tracker().write_decision(name, len(history), opened)
    return opened


def close_decision(iteration: Iteration, decision: Decision, verdict: Verdict) -> None:
    """Write what the gate said into the entry, and the ledger where people look: MLflow's run and Prefect."""
    name = iteration.name
    with champion_moves(name):
        history = tracker().decisions(name)
        mine = _own(history, iteration)
        if mine is None or history[mine].promote is not None:
            return
        history[mine] = replace(decision, p_value=verdict.p_value, promote=verdict.promote)
        tracker().write_decision(name, mine, history[mine])
    table = ledger_table(name, history, iteration.config.promotion.alpha)
    tracker().log_text(iteration.run_id, table, LEDGER)
    create_markdown_artifact(table, key=f"opsd-{artifact_key(name)}-ledger", description=f"Error budget of {name}")


def decision_in_words(iteration: Iteration, verdict: Verdict) -> str:
    """The level of the iteration's decision and its p, with its number where the model keeps a ledger."""
    rules, name = iteration.config.promotion, iteration.name
    tested_at, what = level(rules, iteration.config.iterations), f"Level (promotion.alpha_per={rules.alpha_per})"
    if rules.alpha_per == "model":
        history = tracker().decisions(name)
        mine = _own(history, iteration)
        if mine is not None:
            tested_at, what = history[mine].level, f"Decision {mine + 1} of the model's error budget, at level"
    return f"{what} {tested_at:.3g}: p = {verdict.p_value:.3g}"


def upcoming(config: CampaignConfig, examples: Sequence[Example]) -> tuple[str, float]:
    """Of a campaign that begins now: the id from which on it takes held-out items, empty for the first one, and its first level.

    examples: items of the split that can be measured, by id.
    """
    rules, registry = config.promotion, tracker()
    if rules.alpha_per != "model" or not examples:
        return "", level(rules, config.iterations)
    history = registry.decisions(config.name) if config.name in registry.model_names() else []
    ids, wanted = [example.id for example in examples], config.evaluation.num_items
    first = starts_at(history, ids, wanted, refresh=config.evaluation.refresh == "after_promotion")
    taken = [number for number in ids if number >= first][:wanted]
    return first, next_decision(history, "", 0, (taken[0], taken[-1]), rules.alpha).level


def items_from(config: CampaignConfig, examples: Sequence[Example]) -> str:
    """The first half of `upcoming`, with what there is to say about it in the log."""
    if config.promotion.alpha_per != "model":
        return ""
    first, tested_at = upcoming(config, examples)
    history, log, wanted = tracker().decisions(config.name), get_run_logger(), config.evaluation.num_items
    if not history:
        return first
    worn = wear(on_these_items(history, (history[-1].first_item, history[-1].last_item)))
    if first > max(decision.last_item for decision in history):
        log.info("a version was promoted on the held-out items in use: this campaign measures %d others", wanted)
    elif config.evaluation.refresh == "after_promotion" and worn.promotions:
        log.warning(
            "the held-out items in use have promoted %d versions, and the split has fewer unseen ones than the %d that "
            "evaluation.num_items asks for: they are used again, at level %.2g. Add rows, or raise data.validation_fraction.",
            worn.promotions, wanted, tested_at,
        )  # fmt: skip
    elif worn.decisions >= config.evaluation.max_decisions:
        log.warning(
            "%d decisions were made on the same held-out items (evaluation.max_decisions=%d): the next one has a level of %.2g. "
            "Add rows and start a model of another name, or raise evaluation.num_items.",
            worn.decisions, config.evaluation.max_decisions, tested_at,
        )  # fmt: skip
    return first


def _own(history: Sequence[Decision], iteration: Iteration) -> int | None:
    key = (iteration.campaign.id, iteration.number)
    return next((place for place, decision in enumerate(history) if decision.key == key), None)

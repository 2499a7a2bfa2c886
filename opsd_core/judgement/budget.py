"""One error budget for a registered model's whole life: the level that the gate's next decision is tested at.

Decisions are numbered on the held-out items that they look at. The first one of a set of items that no decision has seen
opens it with a share of alpha; the following ones divide what the set has:

    level = B_s * w_j * v(p, m) / C(m, p)

    s       number of the set, in the order in which the model's decisions came to use them
    m, p    decisions on this set so far, and promotions among them; j = m + 1
    w_j     .7 for the first, .3 / (j (j - 1)) for the others, which sums to 1 over all j
    v(p, m) .1^p (1 - .1) / (1 - .1^(m + 1)), which sums to 1 over p = 0 .. m
    B_s     alpha * g_s + c_s with g_1 = .8 and g_s = .2 / 2^(s-1) afterwards; c_s: levels of promotions that no set has taken yet

Why alpha holds, whatever the candidates learn from earlier verdicts. (1) On one set: a candidate depends on the set's items only
through the verdicts before it. For each of the C(m, p) histories of m verdicts with p promotions the candidate is given, its
p-value is a p-value, and the union bound over histories, p and j gives at most B_s. (2) Over sets: items that no decision has
seen know nothing of the past, so B_s may depend on it. A promotion that was right put no alpha at risk, so its level goes to
the next set; at the first wrong one the count ends. So the sum of what was at risk is at most alpha * (g_1 + g_2 + ...) = alpha.

A set wears out by promotions: after refusals alone C(m, 0) is 1. `evaluation.refresh` takes unseen items when one was promoted.
Outside all of this: what a person reads in the answers of held-out items and then does, alarms on held-out accuracy whose remedy
changes settings, and decisions that were made with another promotion.alpha_per, which are not entered.

Sources: spending a level over a sequence, Foster & Stine 2008; handing on the level of a rejected hypothesis, Wiens & Dmitrienko
2005 and Tian & Ramdas 2021 (online fallback); the union over promotion histories has the form that arXiv 2609.33180 reports
(w_t, v_p, C(t-1, p)); that paper's own text was not available, so the argument above is what the rule rests on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_FIRST_SET, _FIRST_DECISION, _AFTER_PROMOTION = 0.8, 0.7, 0.1
"""Large first terms: a model that improves hands its level on, and its sets are renewed as they promote."""


@dataclass(frozen=True)
class Decision:
    """One decision of the gate on a model: an entry of its ledger."""

    campaign: str
    iteration: int
    first_item: str
    """Smallest id of the held-out items; a set is everything from here to `last_item`, as items are taken in this order."""
    last_item: str
    set_number: int
    """From 1: which set of items."""
    budget: float
    """B_s of that set."""
    level: float
    p_value: float | None = None
    promote: bool | None = None
    """What the gate said of the held-out items, whatever its guards or a person said then; None while it has not."""

    @property
    def key(self) -> tuple[str, int]:
        """Whose it is: no campaign's iteration decides twice."""
        return self.campaign, self.iteration


@dataclass(frozen=True)
class Wear:
    """How often a set of items has decided."""

    decisions: int
    promotions: int

    @property
    def share(self) -> float:
        """Of the set's budget that its next decision gets: w_j * v(p, m) / C(m, p)."""
        m, p = self.decisions, self.promotions
        w = _FIRST_DECISION if m == 0 else (1.0 - _FIRST_DECISION) / (m * (m + 1))
        v = _AFTER_PROMOTION**p * (1.0 - _AFTER_PROMOTION) / (1.0 - _AFTER_PROMOTION ** (m + 1))
        return w * v / math.comb(m, p)


def next_decision(
    history: Sequence[Decision], campaign: str, iteration: int, items: tuple[str, str], alpha: float
) -> Decision:
    """The entry of the decision that follows `history`, on the items from `items[0]` to `items[1]`."""
    seen = on_these_items(history, items)
    if seen:
        number, budget = min(d.set_number for d in seen), min(d.budget for d in seen)
    else:
        number = 1 + max((d.set_number for d in history), default=0)
        budget = alpha * set_share(number) + _not_taken_yet(history)
    level = budget * wear(seen).share
    return Decision(campaign, iteration, *items, set_number=number, budget=budget, level=level)


def starts_at(history: Sequence[Decision], ids: Sequence[str], wanted: int, *, refresh: bool) -> str:
    """From which of the split's ids on the next campaign takes its `wanted` items; empty: from the first one.

    The items in use, unless they promoted a version, `refresh` asks for others and enough are unseen. Where too few are left from
    there on, as many as are wanted at the split's end.
    """
    if not history or not ids:
        return ""
    last = history[-1]
    if refresh and wear(on_these_items(history, (last.first_item, last.last_item))).promotions:
        unseen = [number for number in ids if number > max(d.last_item for d in history)]
        if len(unseen) >= wanted:
            return unseen[0]
    return min(last.first_item, ids[-min(wanted, len(ids))])


def set_share(number: int) -> float:
    """g_s: the share of alpha that set `number` brings by itself."""
    return _FIRST_SET if number == 1 else (1.0 - _FIRST_SET) / 2.0 ** (number - 1)


def wear(decisions: Sequence[Decision]) -> Wear:
    """Of decisions on one set; one that has not ended counts as a refusal."""
    return Wear(len(decisions), sum(bool(decision.promote) for decision in decisions))


def on_these_items(history: Sequence[Decision], items: tuple[str, str]) -> list[Decision]:
    """Decisions that looked at some of these items, or at items of a set that shares some with them."""
    first, last = items
    found: list[Decision] = []
    while True:
        overlapping = [d for d in history if d.first_item <= last and first <= d.last_item]
        if len(overlapping) == len(found):
            return overlapping
        found = overlapping
        first, last = min(first, *(d.first_item for d in found)), max(last, *(d.last_item for d in found))


def _not_taken_yet(history: Sequence[Decision]) -> float:
    """Levels of the promotions since the newest set was opened: no set has taken them."""
    newest = max((d.set_number for d in history), default=0)
    opened = next((place for place, d in enumerate(history) if d.set_number == newest), 0)
    return math.fsum(d.level for d in history[opened:] if d.promote)

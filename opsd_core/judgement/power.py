"""What a gate can see: chance of a promotion, smallest gain seen, items needed, for the fixed and the sequential test.

Rates are those of single answers: an item turns wrong with chance `newly_wrong`, which a retrained model always has, and right
with chance newly_wrong + gain. Churn is the share of items that change without any gain, 2 newly_wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtrc

from opsd_core.config import CampaignConfig
from opsd_core.judgement.sequential import BET, FUTILE, chance_of_promotion, log_wealth, look
from opsd_core.judgement.statistics import mcnemar, mcnemar_power

CHURNS = (0.02, 0.1, 0.2)
"""At which power is stated: hardly anything is unlearned; a usual share; much is."""
CHURN = CHURNS[1]
WANTED = 0.8
_LOOKS = 40
"""Looks that are simulated at most."""


@dataclass(frozen=True)
class Design:
    """How a sequential test looks."""

    num_items: int
    level: float
    block: int
    """Items between two looks."""
    step: int = 0
    """Items between two looks at the wealth in a simulation; divides `block`. 0 = after blocks alone, which is faster and takes
    about 3 % more items than `sequential.look`, which knows it after every item."""
    futile: float = FUTILE
    bet: float = BET
    """Share of the level that is bet; 1 = no test of all items."""


@dataclass(frozen=True)
class Operating:
    """How the sequential test goes on average."""

    power: float
    """Chance of a promotion."""
    mean_items: float
    """Items answered until it stops."""


def sequential_operating(
    design: Design, gain: float, newly_wrong: float, *, runs: int = 4000, seed: int = 0
) -> Operating:
    """Simulated runs of `sequential.look`; the standard error of a chance is at most .5 / sqrt(runs).

    ValueError when the two rates add up to more than 1.
    """
    rates = [gain + newly_wrong, newly_wrong, 1.0 - gain - 2.0 * newly_wrong]
    if rates[2] < -1e-9:
        raise ValueError(f"sequential_operating: gain {gain:g} + 2 * newly_wrong {newly_wrong:g} is above 1")
    rates[2] = max(0.0, rates[2])
    generator = np.random.default_rng(seed)
    wins_R, losses_R, peak_R = np.zeros(runs, dtype=np.int64), np.zeros(runs, dtype=np.int64), np.zeros(runs)
    promoted = used = 0
    step, num_items = design.step or design.block, design.num_items
    for start in range(0, num_items, step):
        answered = min(start + step, num_items)
        drawn_R3 = generator.multinomial(answered - start, np.array(rates) / sum(rates), size=wins_R.size)
        wins_R, losses_R = wins_R + drawn_R3[:, 0], losses_R + drawn_R3[:, 1]
        peak_R = np.maximum(peak_R, log_wealth(wins_R, losses_R))
        if answered % design.block and answered < num_items:
            continue
        outcome_R = _outcomes(wins_R, losses_R, peak_R, answered, design)
        stops_R = outcome_R != 0
        promoted += int((outcome_R > 0).sum())
        used += answered * int(stops_R.sum())
        wins_R, losses_R, peak_R = wins_R[~stops_R], losses_R[~stops_R], peak_R[~stops_R]
        if not wins_R.size:
            break
    return Operating(promoted / runs, used / runs)


def _outcomes(
    wins_R: np.ndarray, losses_R: np.ndarray, peak_R: np.ndarray, answered: int, design: Design
) -> np.ndarray:
    """1 promoted, -1 refused or given up, 0 undecided: `sequential.look` for many runs of single answers at once."""

    def exact(wins: np.ndarray, losses: np.ndarray) -> np.ndarray:
        return bdtrc(wins - 1, wins + losses, 0.5) <= (1 - design.bet) * design.level

    bound, left = -np.log(design.bet * design.level), design.num_items - answered
    promoted_R = peak_R >= bound
    if not left:
        return np.where(promoted_R | exact(wins_R, losses_R), 1, -1)
    can_R = (log_wealth(wins_R + left, losses_R) >= bound) | exact(wins_R + left, losses_R)
    chance_R = chance_of_promotion(wins_R - losses_R, wins_R + losses_R, answered, design.num_items, design.level)
    return np.where(promoted_R, 1, np.where(~can_R | (chance_R < design.futile), -1, 0))


def smallest_gain(power_of: Callable[[float], float], newly_wrong: float, wanted: float = WANTED) -> float | None:
    """The gain from which on `power_of(gain)` reaches `wanted`, to a tenth of a point; None when no gain does."""
    low, high = 0, round(1000 * (1.0 - 2.0 * newly_wrong))
    if power_of(high / 1000) < wanted:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle / 1000) >= wanted else (middle, high)
    return high / 1000


@dataclass(frozen=True)
class GatePower:
    """What the gate of a configuration can see at its sizes."""

    num_items: int
    num_samples: int
    level: float
    """Of one decision."""
    test: str
    gains: dict[float, float | None]
    """Churn -> smallest gain seen with chance WANTED; None where no gain is."""
    mean_items: tuple[float, float]
    """Items that the candidate answers on average without a gain and with the one seen at CHURN; num_items with a fixed test."""
    impossible: bool
    """Even all items won would not be enough."""


def gate_power(config: CampaignConfig, num_items: int, level: float) -> GatePower:
    """For `num_items` held-out items and the level of one decision: exact for the fixed tests, simulated for the sequential one.

    Of single answers: the mean of several samples of an item varies less, so that smaller gains are seen than stated.
    """
    sequential = config.promotion.test == "sequential"
    design, runs = Design(num_items, level, max(config.evaluation.block, num_items // _LOOKS)), 1000

    def power_of(gain: float, churn: float) -> float:
        if sequential:
            return sequential_operating(design, gain, churn / 2, runs=runs).power
        return mcnemar_power(num_items, gain, churn / 2, level)

    gains = {churn: smallest_gain(lambda gain, churn=churn: power_of(gain, churn), churn / 2) for churn in CHURNS}
    used = (float(num_items), float(num_items))
    if sequential:
        seen = gains[CHURN] or 0.0
        used = tuple(sequential_operating(design, gain, CHURN / 2, runs=runs).mean_items for gain in (0.0, seen))
    best = look(np.ones(num_items), num_items, level).p_value if sequential else mcnemar(num_items, 0)
    samples = config.evaluation.num_samples
    return GatePower(num_items, samples, level, config.promotion.test, gains, used, bool(best > level))


def gate_in_words(power: GatePower, minutes: float | None = None, tokens_per_second: float | None = None) -> list[str]:
    """Sentences before a campaign starts.

    minutes, tokens_per_second: measured, for both sides' answers to all items; without them nothing is said of the time.
    """
    found = [
        f"{100 * gain:.1f} points where {churn:.0%} of the answers change by chance" if gain is not None
        else f"none where {churn:.0%} of the answers change by chance"
        for churn, gain in power.gains.items()
    ]  # fmt: skip
    of = "" if power.num_samples == 0 or power.test == "mcnemar" else " of single answers (less with the mean of samples)"
    lines = [
        f"The gate compares {power.num_items} held-out items at level {power.level:.3g} ({power.test}). Smallest gain{of} that "
        f"it sees with {WANTED:.0%} chance: {'; '.join(found)}."
    ]
    if power.impossible:
        return [
            f"The gate can promote nothing: of {power.num_items} held-out items even all won give a p-value above the level of "
            f"one decision, {power.level:.3g}. Raise evaluation.num_items, use more rows, or lower iterations."
        ]
    none, seen = power.mean_items
    if power.test == "sequential":
        lines.append(
            f"An evaluation ends as soon as the verdict is known: after {none:.0f} items on average if nothing is gained, after "
            f"{seen:.0f} with the gain seen at {CHURN:.0%}, at most {power.num_items}."
        )
    if minutes is not None and tokens_per_second is not None:
        share = max(none, seen) / power.num_items
        lines.append(
            f"Evaluation, champion and candidate: about {minutes * share * 60 * tokens_per_second:,.0f} tokens and "
            f"{minutes * share:.1f} minutes an iteration; the champion's are kept, so that they cost nothing in the next one."
        )
    return lines

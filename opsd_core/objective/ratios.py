"""Importance ratios r = pi(y) / pi_old(y) of sampled tokens: their bounds, and how many tokens they leave."""

MAX_LOG_RATIO = 20.0
"""Nats beyond which a ratio says no more than that there is none."""


def effective_sample_size(total: float, squares: float, number: int) -> float:
    """(sum r)^2 / (N sum r^2), as a share of the tokens: 1 = every token counts alike; 1 without any.

    All ratios may round to 0; then nothing is left. Source: Kish 1965.
    """
    return total**2 / max(number * squares, 1e-300) if number else 1.0

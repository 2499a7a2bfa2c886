"""Which completion tokens count, and how much."""

import numpy as np

from opsd_core.config import DistillationConfig


def token_weights(num_tokens: int, config: DistillationConfig) -> np.ndarray:
    """Weights (T,) of one completion: 0 for the first `skip_first_tokens`, 1 after them. End-of-sequence counts."""
    weights_T = np.ones(num_tokens, np.float32)
    weights_T[: config.skip_first_tokens] = 0.0
    return weights_T

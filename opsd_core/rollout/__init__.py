"""Sampling completions and recording the distribution at every position."""

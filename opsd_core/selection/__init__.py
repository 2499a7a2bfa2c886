"""Which completions are trained on, and how much each of their tokens counts."""

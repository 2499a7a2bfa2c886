"""Prompts without a right completion are asked again, round after round (rollout.refill)."""

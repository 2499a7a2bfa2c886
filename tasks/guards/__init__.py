"""Guards of the gate: their items, the version that nobody may fall behind, and everybody's answers."""

ANCHOR = "opsd.anchor"
"""Tag of a version that guards compare with; `tasks.upkeep.retention` keeps its weights."""

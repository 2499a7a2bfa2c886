"""Guards of the gate: their items, the version that nobody may fall behind, and everybody's answers."""

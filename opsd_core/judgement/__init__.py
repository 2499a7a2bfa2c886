"""Is the candidate really better? Held-out measurement, statistics, the gate."""

"""Shipped items: what a model should not lose, made offline; the table is opsd_core.config.kinds.suites."""

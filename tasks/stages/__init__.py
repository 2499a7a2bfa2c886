"""The stages of an iteration, in the order of their names in flows/iterate.py."""

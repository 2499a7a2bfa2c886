"""Whose weights teach, and what they say of a completion."""

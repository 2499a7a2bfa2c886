"""Rules between settings, checked before any work, and which settings are read when."""

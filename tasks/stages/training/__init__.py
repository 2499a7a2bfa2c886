"""How a candidate is trained on several devices (`together.py`); on one, `tasks.stages.distil` does it in its own process."""

"""The process that a stage runs in: its environment, retries, progress and memory."""

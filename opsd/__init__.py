"""The running system from Python: start campaigns, wait for them, read their answers, load their champions.

    import opsd
    run = opsd.run("mine.yaml", iterations=2)       submitted to the worker, as by the command line
    run.wait()                                      its progress, then its outcome in words
    opsd.answers("mine")                            what the model wrote, before and after: a DataFrame
    opsd.champion("mine").path()                    a verified folder for transformers or vLLM

These are the names of `opsd.client`. The method alone, without servers, is `opsd_core`.
"""

from importlib import import_module
from typing import Any

__all__ = ["Run", "Version", "answers", "champion", "check", "promote", "rollback", "run", "versions", "wait"]


def __getattr__(name: str) -> Any:
    """A name of the client, or the client itself, which is loaded at the first use."""
    if name not in __dir__():
        raise AttributeError(f"module 'opsd' has no attribute {name!r}; it has {', '.join(__dir__())}")
    client = import_module("opsd.client")
    return client if name == "client" else getattr(client, name)


def __dir__() -> list[str]:
    return [*__all__, "client"]

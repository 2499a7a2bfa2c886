"""The kinds of rollout engines, the class of each and what it needs: data that configuration rules and engines share."""

from typing import NamedTuple


class EngineKind(NamedTuple):
    """One kind of engine: what samples completions."""

    engine: str
    """Its class, below `opsd_core`."""
    meaning: str
    """What it is, in a few words."""
    made_by: str = ""
    """The command that makes its own environment; empty where it comes with opsd."""
    reads: tuple[str, ...] = ()
    """Settings of `execution` that only kinds like this one read."""
    least_temperature: float = 0.0
    """The lowest temperature above 0 that it samples at; it would take this one in silence for anything below."""


ENGINE_KINDS: dict[str, EngineKind] = {
    "transformers": EngineKind("rollout.engines.own.OwnEngine", "opsd's own sampler on transformers' models"),
    "vllm": EngineKind(
        "rollout.engines.vllm.VllmEngine",
        "vLLM in a process and an environment of its own",
        made_by="make engine-vllm",
        reads=("engine_memory", "checked_share", "max_mismatch"),
        least_temperature=0.01,
    ),
}

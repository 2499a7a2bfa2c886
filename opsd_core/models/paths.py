"""Which of several ways a model is computed: the fast ones assume things that not every architecture keeps.

    sampling   fast        rows [prefix][padding][suffix], one prefix for all; right where only positions and the mask count
               aligned     rows [padding][prefix][suffix]: no gap inside, so windows, chunks and ALiBi count tokens
               lockstep    prompts of one length at a time, no padding, with the model's own cache (or state)
               recomputed  the same without any cache: the whole sequence at every step
               alone       recomputed, one sequence at a time
    scoring    shared      the prompts' common beginning once, its cache repeated; rows padded on the right
               padded      whole rows padded on the right, no cache
               alone       one sequence at a time

`usual_paths` reads from the configuration what a model needs; `acceptance.accept` measures it.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

SamplingPath = Literal["fast", "aligned", "lockstep", "recomputed", "alone"]
ScoringPath = Literal["shared", "padded", "alone"]
SAMPLING, SCORING = get_args(SamplingPath), get_args(ScoringPath)
"""From fast to plain."""

_WINDOW = re.compile(r"sliding_window|attention_(window|chunk)|^local_att|window_size|keep_window|index_topk|block_size")
_FULL = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)


@dataclass(frozen=True)
class Paths:
    """The ways that a policy is sampled and scored."""

    sampling: SamplingPath = "fast"
    scoring: ScoringPath = "shared"


def usual_paths(model: PreTrainedModel) -> Paths:
    """The fastest ways that the configuration allows.

    Only caches of keys and values can share prefixes, only models that take positions can be padded, and windows need rows
    without gaps.
    """
    kinds = _cache_kinds(model)
    if not kinds or not kinds <= set(_FULL) or not accepts(model, "position_ids"):
        return Paths("lockstep", "padded")
    counts_slots = DynamicSlidingWindowLayer in kinds or has_window(model.config)
    return Paths("aligned" if counts_slots else "fast", "shared")


def has_window(config: PretrainedConfig) -> bool:
    """Whether attention may depend on distances between slots: windows, chunks or sparse blocks below the context, ALiBi."""
    alibi = any("alibi" in name and value is True for name, value in _settings(config.get_text_config(decoder=True)))
    return alibi or longest_window(config) > 0


def longest_window(config: PretrainedConfig) -> int:
    """Tokens of the longest window, chunk or sparse block that is shorter than the context; 0 where there is none."""
    text = config.get_text_config(decoder=True)
    limit = getattr(text, "max_position_embeddings", None) or 1 << 30
    sizes = [value for name, value in _settings(text) if _WINDOW.search(name) and type(value) is int and 0 < value < limit]
    return max(sizes, default=0)


def _settings(config: PretrainedConfig) -> Iterator[tuple[str, Any]]:
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            yield from _settings(value)
        else:
            yield name, value


def _cache_kinds(model: PreTrainedModel) -> set[type]:
    """Classes of the layers of the model's cache; empty where it has no cache of transformers' kind."""
    if not accepts(model, "past_key_values"):
        return set()
    try:
        return {type(layer) for layer in DynamicCache(config=model.config).layers}
    except (AttributeError, KeyError, TypeError, ValueError):  # no such layer type, or layers that cannot be counted
        return set()


def accepts(model: PreTrainedModel, name: str) -> bool:
    """Whether the model's forward pass names this argument; one that names none, a wrapper, takes what the model takes."""
    named, _ = _arguments(type(model).forward)
    return name in named or "input_ids" not in named


def takes_use_cache(model: PreTrainedModel) -> bool:
    """Whether the forward pass takes `use_cache`, by name or among its keyword arguments."""
    named, others = _arguments(type(model).forward)
    return others or "use_cache" in named


@cache
def _arguments(forward: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """Names of a forward pass' arguments, and whether it takes others."""
    parameters = inspect.signature(forward).parameters
    return frozenset(parameters), any(entry.kind is inspect.Parameter.VAR_KEYWORD for entry in parameters.values())

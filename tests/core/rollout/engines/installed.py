"""Which engines these tests can start, as parameters: one with an environment of its own is marked with its name."""

from pathlib import Path

import pytest

from opsd_core.config.kinds.engines import ENGINE_KINDS
from opsd_core.rollout.engines.environment import Environment

ROOT = Path(__file__).resolve().parents[4]


def marks(name):
    """What a test of this engine is marked with; skipped where it is not installed."""
    made_by = ENGINE_KINDS[name].made_by
    missing = bool(made_by) and not Environment.of(name, ROOT).version
    return [getattr(pytest.mark, name), pytest.mark.skipif(missing, reason=f"needs `{made_by}`")] if made_by else []


ENGINES = [pytest.param(name, marks=marks(name), id=name) for name in ENGINE_KINDS]

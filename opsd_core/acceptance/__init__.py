"""Whether a model may be trusted, and with which shortcuts: it is tested against itself."""

from opsd_core.acceptance.accept import Acceptance, accept, sentences, with_paths
from opsd_core.acceptance.checks import CHECKS

__all__ = ["CHECKS", "Acceptance", "accept", "sentences", "with_paths"]

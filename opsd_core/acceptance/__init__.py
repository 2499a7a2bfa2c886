"""Whether a model may be trusted, and with which shortcuts: it is tested against itself."""

from opsd_core.acceptance.accept import CHECKS, Acceptance, accept, sentences, with_paths

__all__ = ["CHECKS", "Acceptance", "accept", "sentences", "with_paths"]

"""What the model wrote, before and after, as one page and as files: built from records alone, without any service."""

from opsd_core.answers.page import Answers, render
from opsd_core.answers.sides import Side

__all__ = ["Answers", "Side", "render"]

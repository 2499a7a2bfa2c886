"""What the model wrote, before and after: one page per iteration, and of any two versions of a model."""

from tasks.answers.exports import export_answers
from tasks.answers.versions import accuracies, answers_of, answers_table

__all__ = ["accuracies", "answers_of", "answers_table", "export_answers"]

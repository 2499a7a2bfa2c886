"""On-policy self-distillation, without an orchestrator.

One iteration of the method, and the folder of each step:
    1. sample    completions of the student's prompt from the current policy     rollout/ (prompts/, models/)
    2. select    grade them, drop the unusable with a reason                     graders/, selection/
    3. score     teacher = weights x privileged context x temperature            teacher/ (prompts/contexts.py)
    4. distil    minimise a token-level divergence student vs. teacher           training/, objective/
    5. judge     held-out accuracy; a paired test between candidate and champion judgement/
What each step leaves on disk is in records/, what a user sets in config/, where items come from in data/.
Read training/trainer.py first, then teacher/scoring.py and objective/.

`import opsd_core` gives the names that a whole iteration needs, each loaded at its first use;
examples/without_servers.py is that iteration.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "resolve": "config",
    "load_examples": "data",
    "get_grader": "graders",
    "build_tiny": "models.tiny",
    "load_policy": "models.policy",
    "save_policy": "models.policy",
    "PromptBuilder": "prompts.builder",
    "teacher_prompts": "prompts.teacher",
    "choose_prompts": "selection.choice",
    "sample_rollouts": "rollout.sample",
    "grade_rollouts": "selection.grading",
    "FixedTeacher": "teacher.teachers",
    "score_rollouts": "teacher.scoring",
    "training_items": "training.items",
    "Schedule": "training.trainer",
    "distil": "training.trainer",
    "evaluate_policy": "judgement.evaluation",
    "decide": "judgement.gate",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    """A name of the method, from the module that has it."""
    if name not in _NAMES:
        raise AttributeError(f"module 'opsd_core' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"opsd_core.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

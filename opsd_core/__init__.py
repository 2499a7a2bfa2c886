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

from opsd_core.doors import door

__getattr__, __dir__, __all__ = door(
    __name__,
    {
        "opsd_core.config": ("resolve",),
        "opsd_core.data": ("load_examples",),
        "opsd_core.graders": ("get_grader",),
        "opsd_core.models.tiny": ("build_tiny",),
        "opsd_core.models.policy": ("load_policy", "save_policy"),
        "opsd_core.prompts.builder": ("PromptBuilder",),
        "opsd_core.prompts.teacher": ("teacher_prompts",),
        "opsd_core.selection.choice": ("choose_prompts",),
        "opsd_core.rollout.sample": ("sample_rollouts",),
        "opsd_core.selection.grading": ("grade_rollouts",),
        "opsd_core.teacher.teachers": ("FixedTeacher",),
        "opsd_core.teacher.scoring": ("score_rollouts",),
        "opsd_core.training.items": ("training_items",),
        "opsd_core.training.trainer": ("Schedule", "distil"),
        "opsd_core.judgement.evaluation": ("evaluate_policy",),
        "opsd_core.judgement.gate": ("decide",),
    },
)

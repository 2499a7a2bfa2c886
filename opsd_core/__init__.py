"""On-policy self-distillation, without an orchestrator.

One iteration of the method, and the folder of each step:
    1. sample    completions of the student's prompt from the current policy     rollout/ (prompts/, models/)
    2. select    grade them, drop the unusable with a reason                     graders/, selection/
    3. score     teacher = weights x privileged context x temperature            teacher/ (prompts/contexts.py)
    4. distil    minimise a token-level divergence student vs. teacher           training/, objective/
    5. judge     held-out accuracy; a paired test between candidate and champion judgement/
What each step leaves on disk is in records/, what a user sets in config/, where items come from in data/.
Read training/trainer.py first, then teacher/scoring.py and objective/.
"""

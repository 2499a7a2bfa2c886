"""On-policy self-distillation, without an orchestrator.

One iteration of the method, and where each step lives:
    1. sample    completions of the student prompt from the current policy      generation.py, rollouts.py
    2. filter    grade them, drop the unusable with a reason                     graders.py, filters.py
    3. score     teacher = weights x privileged context x temperature            teachers.py, contexts.py, targets.py
    4. distil    minimise a token-level divergence student vs. teacher           objective/, trainer.py
    5. evaluate  greedy and sampled accuracy on held-out items                   evaluation.py, metrics.py
    6. decide    paired test between candidate and champion                      gate.py
The configuration is config/; read trainer.py first, then targets.py and objective/.
"""

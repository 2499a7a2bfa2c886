"""Records that tests of answers share: items, outcomes, completions with both sides' distributions; and hostile text."""

import numpy as np

from opsd_core.answers.tokens import Sampled
from opsd_core.records.examples import Example
from opsd_core.records.grades import GradedRollout
from opsd_core.records.outcomes import ItemOutcome
from opsd_core.records.rollouts import Rollout
from opsd_core.records.targets import Target

HOSTILE = (
    "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=1'>"
    "\u202egnp.exe\x00\u2028]]><!--<svg onload=hurt()>"
)
WORDS = ["The", " answer", " is", " ", "1", "2", "\n", "<eos>", HOSTILE, "&amp;"]


def examples(number, answer="7.5", question="Which number? {0}"):
    """Items with ids in their order."""
    return [
        Example(f"{i:016x}", question.format(i), answer, "", {"colour": "red" if i % 2 else "blue"})
        for i in range(number)
    ]


def outcomes(number, right, mode="greedy", sample=0, text="The answer is {0}."):
    """One outcome per item; `right` holds the places of the right ones."""

    def outcome(i):
        graded = (i in right, float(i in right), str(i))
        return ItemOutcome(f"{i:016x}", mode, sample, *graded, 5 + i % 9, i % 11 == 0, 1.0, 0.5, text.format(i))

    return [outcome(i) for i in range(number)]


def sampled(number, num_tokens=12):
    """Completions of random tokens: every third right, every fifth dropped, every seventh cut; with targets."""
    generator, rollouts, grades, targets, privileged = np.random.default_rng(0), [], {}, {}, {}
    size = len(WORDS)
    ids_TV = np.tile(np.arange(size, dtype=np.int32), (num_tokens, 1))
    for index in range(number):
        ids = generator.integers(0, size, num_tokens)
        student_TV, teacher_TV = (generator.normal(size=(num_tokens, size)).astype(np.float32) for _ in range(2))
        student_TV -= np.log(np.exp(student_TV).sum(1, keepdims=True))
        teacher_TV -= np.log(np.exp(teacher_TV).sum(1, keepdims=True))
        none_T, at = np.zeros(num_tokens, np.float32), (np.arange(num_tokens), ids)
        rollout = Rollout(
            f"{index:016x}", 0, 0, [0, 1], [int(i) for i in ids], HOSTILE, "length" if index % 7 == 0 else "eos",
            student_TV[at], student_TV[at], ids_TV, student_TV, none_T, none_T,
        )  # fmt: skip
        key = rollout.key
        rollouts.append(rollout)
        grades[key] = GradedRollout(*key, index % 3 == 0, 1.0, HOSTILE, index % 5 != 0, "" if index % 5 else "too_long")
        targets[key] = Target(*key, 3, ids_TV, teacher_TV, none_T, teacher_TV[at], none_T)
        privileged[key] = [0, 1, 2, 8]
    known = {e.id: e for e in examples(number)}
    return Sampled(
        rollouts,
        grades,
        lambda token: WORDS[token],
        lambda ids: "".join(WORDS[i] for i in ids),
        targets,
        known,
        privileged,
    )

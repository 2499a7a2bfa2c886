"""Measuring a policy on held-out items: greedy and sampled completions, graded one by one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.graders import Grade
from opsd_core.models.policy import Policy
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome, Mode
from opsd_core.rollout.conversations import Talk
from opsd_core.rollout.generation import check_lengths, generate
from opsd_core.rollout.sampling import Completion, Sampling
from opsd_core.selection.filters import repetition_factor

Grader = Callable[[Example, str], Grade]


def evaluate_policy(
    policy: Policy,
    examples: Sequence[Example],
    builder: PromptBuilder,
    grader: Grader,
    config: CampaignConfig,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ItemOutcome]:
    """One greedy completion per item, then `num_samples` sampled ones; the same draws for every policy.

    How they are sampled is `config.evaluation`; with rollout.environment each is a whole conversation. Seeds depend on
    (seed, item, sample) alone, so two policies are compared on common random numbers.
    """
    settings = config.evaluation
    prompts, talk = builder.all_student_ids(examples), Talk.of(policy, builder, config.rollout)
    outcomes: list[ItemOutcome] = []
    for mode, samples in (("greedy", 1), ("sampled", settings.num_samples)):
        pairs = [(row, sample) for row in range(len(examples)) for sample in range(samples)]
        if not pairs:
            continue
        sampling = Sampling(
            temperature=0.0 if mode == "greedy" else settings.temperature,
            top_p=settings.top_p if mode == "sampled" else 1.0,
            max_completion_length=settings.max_completion_length,
        )
        seeds = [derive_seed("evaluation", config.seed, examples[row].id, sample) for row, sample in pairs]
        asked, together = [prompts[row] for row, _ in pairs], config.execution.evaluation_batch_size
        check_lengths(policy, asked, sampling, "evaluation.max_completion_length")
        ask = partial(generate, policy, batch_size=together)
        if talk is None:
            written = [_alone(c, policy) for c in ask(asked, seeds, sampling, on_progress=on_progress)]
        else:
            held = talk.opened([examples[row] for row, _ in pairs], asked, seeds)
            talk.hold(ask, held, sampling, on_progress)
            written = [_Written(c.finish_reason, c.own(c.completion.entropy_T), c.text, c.answer) for c in held]
        for (row, sample), found in zip(pairs, written, strict=True):
            outcomes.append(_outcome(found, grader(examples[row], found.answer), (examples[row].id, mode, sample)))
    return outcomes


class _Written(NamedTuple):
    """What a policy wrote to a question."""

    finish_reason: str
    entropy_T: Sequence[float]
    """Nats, at its own tokens."""
    text: str
    answer: str
    """What is judged: the text, or of a conversation the last turn."""


def _alone(completion: Completion, policy: Policy) -> _Written:
    text = policy.tokenizer.decode(completion.ids_T, skip_special_tokens=True)
    return _Written(completion.finish_reason, completion.entropy_T, text, text)


def _outcome(found: _Written, grade: Grade, key: tuple[str, Mode, int]) -> ItemOutcome:
    return ItemOutcome(
        *key,
        correct=grade.correct,
        score=grade.score,
        extracted=grade.extracted,
        num_tokens=len(found.entropy_T),
        truncated=found.finish_reason != "eos",
        repetition=repetition_factor(found.text),
        mean_entropy=sum(found.entropy_T) / len(found.entropy_T),
        text=found.text,
    )

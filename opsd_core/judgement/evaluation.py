"""Measuring a policy on held-out items: greedy and sampled completions, graded one by one."""

from collections.abc import Callable, Sequence

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.graders import Grade
from opsd_core.models.policy import Policy
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome, Mode
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

    How they are sampled is `config.evaluation`. Seeds depend on (seed, item, sample) alone, so two policies are compared on
    common random numbers.
    """
    settings = config.evaluation
    prompts = builder.all_student_ids(examples)
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
        completions = generate(policy, asked, seeds, sampling, together, on_progress)
        for (row, sample), completion in zip(pairs, completions, strict=True):
            text = policy.tokenizer.decode(completion.ids_T, skip_special_tokens=True)
            outcomes.append(_outcome(completion, text, grader(examples[row], text), (examples[row].id, mode, sample)))
    return outcomes


def _outcome(completion: Completion, text: str, grade: Grade, key: tuple[str, Mode, int]) -> ItemOutcome:
    return ItemOutcome(
        *key,
        correct=grade.correct,
        score=grade.score,
        extracted=grade.extracted,
        num_tokens=len(completion.ids_T),
        truncated=completion.finish_reason == "length",
        repetition=repetition_factor(text),
        mean_entropy=sum(completion.entropy_T) / len(completion.entropy_T),
        text=text,
    )

"""Measuring a policy on held-out items: greedy and sampled completions, graded one by one."""

from collections.abc import Callable, Sequence

from opsd_core.config import EvaluationConfig
from opsd_core.digest import derive_seed
from opsd_core.graders import Grade
from opsd_core.models.policy import Policy
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.examples import Example
from opsd_core.records.outcomes import ItemOutcome, Mode
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Completion, Sampling
from opsd_core.selection.filters import repetition_factor


def evaluate_policy(
    policy: Policy,
    examples: Sequence[Example],
    builder: PromptBuilder,
    config: EvaluationConfig,
    judge: Callable[[Example, str], Grade],
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ItemOutcome]:
    """One greedy completion per item, then `num_samples` sampled ones; the same draws for every policy.

    Seeds depend on (seed, item, sample) alone, so two policies are compared on common random numbers.
    """
    prompts = [builder.student_ids(example) for example in examples]
    outcomes: list[ItemOutcome] = []
    modes: tuple[tuple[Mode, int], ...] = (("greedy", 1), ("sampled", config.num_samples))
    for mode, samples in modes:
        pairs = [(row, sample) for row in range(len(examples)) for sample in range(samples)]
        if not pairs:
            continue
        sampling = Sampling(
            temperature=0.0 if mode == "greedy" else config.temperature,
            top_p=config.top_p if mode == "sampled" else 1.0,
            max_completion_length=config.max_completion_length,
        )
        seeds = [derive_seed("evaluation", seed, examples[row].id, sample) for row, sample in pairs]
        completions = generate(
            policy, [prompts[row] for row, _ in pairs], seeds, sampling, config.batch_size, on_progress
        )
        for (row, sample), completion in zip(pairs, completions, strict=True):
            text = policy.tokenizer.decode(completion.ids_T, skip_special_tokens=True)
            grade = judge(examples[row], text)
            outcomes.append(_outcome((examples[row].id, mode, sample), completion, text, grade))
    return outcomes


def _outcome(key: tuple[str, Mode, int], completion: Completion, text: str, grade: Grade) -> ItemOutcome:
    """`key`: example id, mode and sample index."""
    example_id, mode, sample = key
    return ItemOutcome(
        example_id=example_id,
        mode=mode,
        sample_index=sample,
        correct=grade.correct,
        score=grade.score,
        extracted=grade.extracted,
        num_tokens=len(completion.ids_T),
        truncated=completion.finish_reason == "length",
        repetition=repetition_factor(text),
        mean_entropy=sum(completion.entropy_T) / len(completion.entropy_T),
        text=text,
    )

"""An iteration's rollouts: who answers each prompt, how often and with which seed, sampled and packed as records."""

from collections.abc import Sequence

from opsd_core.config import CampaignConfig
from opsd_core.digest import derive_seed
from opsd_core.models.policy import Policy
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.examples import Example
from opsd_core.records.rollouts import Rollout
from opsd_core.rollout.conversations import Talk
from opsd_core.rollout.engines.interface import Engine, Progress, Weights
from opsd_core.rollout.engines.own import OwnEngine
from opsd_core.rollout.references import off_policy, reference_rollouts
from opsd_core.rollout.sampling import Sampling, rollout_of


def sample_rollouts(
    policy: Policy,
    examples: Sequence[Example],
    iteration: int,
    config: CampaignConfig,
    on_progress: Progress | None = None,
    engine: Engine | None = None,
) -> list[Rollout]:
    """rollout.group_size completions of every prompt that the policy answers itself, then one reference for each other.

    With rollout.environment a completion is the policy's whole conversation with it.

    `engine` samples with the policy's weights, and its record needs `engine.checked`; None = opsd's own, whose record is whole.
    Each completion's seed follows from (seed, iteration, example, sample) alone, so any split into shards gives the same.
    """
    given = [example for example in examples if off_policy(example.id, iteration, config)]
    asked = [example for example in examples if not off_policy(example.id, iteration, config)]
    engine = engine or OwnEngine(Weights(policy), config.execution.rollout_batch_size)
    rollouts = sample_each(engine, asked, range(config.rollout.group_size), iteration, config, on_progress)
    prompts = PromptBuilder.of(policy.tokenizer, config).all_student_ids(given)
    return rollouts + reference_rollouts(policy, given, prompts, config)


def sample_each(
    engine: Engine,
    examples: Sequence[Example],
    samples: Sequence[int],
    iteration: int,
    config: CampaignConfig,
    on_progress: Progress | None = None,
) -> list[Rollout]:
    """The completions of these indices of every prompt.

    They are the ones that a larger group would have had at these indices, so asking again goes on where a group ended.
    """
    builder = PromptBuilder.of(engine.weights.policy.tokenizer, config)
    ids = dict(zip([example.id for example in examples], builder.all_student_ids(examples), strict=True))
    keys = [(example.id, sample) for example in examples for sample in samples]
    seeds = [derive_seed("rollout", config.seed, iteration, *key) for key in keys]
    prompts = [ids[example_id] for example_id, _ in keys]
    talk = Talk.of(engine.weights.policy, builder, config.rollout)
    if talk is None:
        return complete(engine, keys, prompts, seeds, config, on_progress)
    held = talk.opened([example for example in examples for _ in samples], prompts, seeds)
    talk.hold(engine.generate, held, _sampling(config), on_progress)
    return [conversation.rollout(sample) for conversation, (_, sample) in zip(held, keys, strict=True)]


def complete(
    engine: Engine,
    keys: Sequence[tuple[str, int]],
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    config: CampaignConfig,
    on_progress: Progress | None = None,
) -> list[Rollout]:
    """One completion per (example id, sample index), prompt and seed, as `config.rollout` samples, with its distributions.

    No environment answers here.
    """
    tokenizer = engine.weights.policy.tokenizer
    completions = engine.generate(prompts, seeds, _sampling(config), on_progress)
    texts = [tokenizer.decode(completion.ids_T, skip_special_tokens=True) for completion in completions]
    return [
        rollout_of(key, seed, prompt, completion, text)
        for key, seed, prompt, completion, text in zip(keys, seeds, prompts, completions, texts, strict=True)
    ]


def _sampling(config: CampaignConfig) -> Sampling:
    settings = config.rollout
    return Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_completion_length=settings.max_completion_length,
        record_top_k=settings.record_top_k,
    )

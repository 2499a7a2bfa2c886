"""Rules between the engine that samples rollouts and what is asked of its record."""

from collections.abc import Callable

from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.kinds.engines import ENGINE_KINDS


def _engine_samples_so_cold(config: CampaignSettings) -> str | None:
    engine, temperature = config.execution.engine, config.rollout.temperature
    least = ENGINE_KINDS[engine].least_temperature
    if temperature < least:
        return (
            f"rollout.temperature={temperature} with execution.engine={engine}: it would sample at {least} instead and say "
            f"nothing. Set rollout.temperature to {least} or more, or execution.engine=transformers."
        )
    return None


def _what_is_read_of_every_completion_is_computed(config: CampaignSettings) -> str | None:
    execution, rollout = config.execution, config.rollout
    if not ENGINE_KINDS[execution.engine].made_by or execution.checked_share == 1.0:
        return None
    readers = {
        f"rollout.temperature={rollout.temperature}": rollout.temperature != 1.0,
        f"rollout.top_k={rollout.top_k}": rollout.top_k > 0,
        f"rollout.top_p={rollout.top_p}": rollout.top_p < 1.0,
        "token_weights.entropy_of=student": config.token_weights.entropy_of == "student"
        and config.token_weights.entropy != "uniform",
        f"distillation.divergence={config.distillation.divergence}": config.distillation.divergence == "opsa",
        "curriculum.length_max_entropy": config.curriculum.length_start > 0 and config.curriculum.length_max_entropy is not None,
    }
    asked = [name for name, reads in readers.items() if reads]
    if asked:
        return (
            f"execution.checked_share={execution.checked_share} leaves completions without the distribution that they were "
            f"drawn from and without their exact entropy, which {' and '.join(asked)} needs of every one. Set "
            "execution.checked_share=1."
        )
    return None


ENGINE_RULES: tuple[Callable[[CampaignSettings], str | None], ...] = (
    _engine_samples_so_cold,
    _what_is_read_of_every_completion_is_computed,
)

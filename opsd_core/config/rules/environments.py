"""Rules about what can be asked of conversations with an environment."""

from collections.abc import Callable

from opsd_core.config.campaign import CampaignSettings


def _engine_can_converse(config: CampaignSettings) -> str | None:
    if config.rollout.environment != "none" and config.execution.engine != "transformers":
        return (
            f"rollout.environment={config.rollout.environment} with execution.engine={config.execution.engine}: its "
            "record of a conversation cannot be held against transformers yet. Set execution.engine=transformers, or "
            "rollout.environment=none."
        )
    return None


def _peers_would_answer_alone(config: CampaignSettings) -> str | None:
    teacher, context = config.teacher, f"teacher.context={config.teacher.context}"
    if config.rollout.environment == "none" or config.distillation.teacher_free:
        return None
    asking = {"teacher.peer_filter=solved": teacher.peer_filter == "solved", context: teacher.kind.peers}
    if asked := [name for name, asks in asking.items() if asks]:
        return (
            f"rollout.environment={config.rollout.environment} with {' and '.join(asked)}: other models would have to answer the "
            "prompts, and they answer without an environment. Use another context and filter, or rollout.environment=none."
        )
    return None


ENVIRONMENT_RULES: tuple[Callable[[CampaignSettings], str | None], ...] = (_engine_can_converse, _peers_would_answer_alone)

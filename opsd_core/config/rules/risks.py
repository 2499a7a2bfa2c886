"""What is allowed and often goes wrong: said in the log when a campaign starts. One function, one line of RISKS, one test."""

from collections.abc import Callable, Iterator

from opsd_core.config.campaign import CampaignSettings
from opsd_core.config.kinds.engines import ENGINE_KINDS

Risk = Callable[[CampaignSettings], str | None]


def _sampled_token_without_a_length_guard(config: CampaignSettings) -> str | None:
    """In SimOPD's runs top-k supports escaped ever longer completions in 7 of 8 arms, the sampled token alone in 4 of 21."""
    alarms = config.alarms
    limits = alarms.max_truncation is not None or alarms.max_truncation_growth is not None
    if not config.distillation.kind.sampled_only or (limits and alarms.remedy != "warn"):
        return None
    return (
        f"distillation.divergence={config.distillation.divergence} often ends in completions that grow until they are cut, and "
        f"nothing would stop it: alarms.remedy={alarms.remedy}, alarms.max_truncation={alarms.max_truncation}. Set alarms.remedy "
        "to one that stops an iteration (refresh_teacher, lower_rate, end) with a limit on truncation, or compare more than one "
        "token (distillation.divergence=reverse_kl)."
    )


def _sampled_tail_of_another_distribution(config: CampaignSettings) -> str | None:
    """The correction is the sum over the vocabulary for tokens that are drawn from the distribution that is trained."""
    rollout, distillation = config.rollout, config.distillation
    differs = rollout.temperature != distillation.temperature or rollout.top_p < 1.0 or rollout.top_k > 0
    if not (distillation.samples_tail and differs):
        return None
    return (
        "distillation.tail=sampled is right on average for completions drawn from the distribution that is trained, and these "
        f"are drawn with rollout.temperature={rollout.temperature}, top_p={rollout.top_p}, top_k={rollout.top_k} against "
        f"distillation.temperature={distillation.temperature}. Make the temperatures equal and leave truncation off, or set "
        "distillation.tail=bucket."
    )


def _another_engine_without_correction(config: CampaignSettings) -> str | None:
    engine = config.execution.engine
    if not ENGINE_KINDS[engine].made_by or config.token_weights.importance_correction:
        return None
    return (
        f"execution.engine={engine} samples with other kernels than the ones that train, and token_weights.importance_correction="
        "false leaves the difference in the gradient. It is measured and bounded (execution.max_mismatch); set "
        "token_weights.importance_correction=true to correct it."
    )


def _what_an_attempt_shares_with_another_is_no_leak(config: CampaignSettings) -> str | None:
    span, teacher = config.token_weights.leak_span, config.teacher
    if not span or not teacher.kind.siblings or config.distillation.teacher_free:
        return None
    return (
        f"token_weights.leak_span={span} with teacher.context={teacher.context}: the teacher's prompt holds another completion "
        f"of the same prompt, which the policy wrote without help, and {span} tokens in a row that two of its completions share "
        "count as a leak. Set token_weights.leak_span=0, or to more than they usually share."
    )


def _a_tool_lengthens_completions(config: CampaignSettings) -> str | None:
    """Conversations of the tiny model that learned to call were 4.2 times as long (docs/LOG.md)."""
    limit = config.promotion.max_length_ratio
    if config.rollout.environment == "none" or limit != type(config.promotion).model_fields["max_length_ratio"].default:
        return None
    return (
        f"rollout.environment={config.rollout.environment} with promotion.max_length_ratio={limit}: a policy that learns to use "
        "a tool writes a turn more, and the gate refuses it for its length. Set promotion.max_length_ratio to what may become of "
        "the policy's own tokens."
    )


RISKS: tuple[Risk, ...] = (
    _a_tool_lengthens_completions,
    _sampled_token_without_a_length_guard,
    _sampled_tail_of_another_distribution,
    _another_engine_without_correction,
    _what_an_attempt_shares_with_another_is_no_leak,
)


def risks(config: CampaignSettings) -> Iterator[str]:
    """A sentence for each."""
    for risk in RISKS:
        if said := risk(config):
            yield said

"""What a campaign keeps of this model: saved, loaded and adapted, it must be the same model."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from opsd_core.acceptance.checks import TOLERANCE, gradients_flow, largest, refuse
from opsd_core.acceptance.errors import scoring_error
from opsd_core.acceptance.probe import Probe
from opsd_core.config import LoraConfig
from opsd_core.errors import IntegrityError, ModelError
from opsd_core.models.policy import Policy, add_lora, save_policy, verify_stored

LARGEST_COPY = 4 << 30
"""Bytes of weights up to which a copy is written and read back here; every export is compared before it is registered anyway."""
_TRAINED = 0.02
"""Standard deviation of what stands in for a trained adapter: at 0 an adapter that is ignored would look right."""


def saved_and_loaded(policy: Policy, scratch: Path) -> float:
    """Largest difference between the logits of the policy and of its stored copy. ModelError when it is another model."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in policy.model.parameters())
    if size > LARGEST_COPY:
        return 0.0
    with TemporaryDirectory(dir=scratch) as folder:
        try:
            save_policy(policy, Path(folder))
            return verify_stored(policy, Path(folder))
        except (IntegrityError, ModelError) as error:
            reason = str(error).replace(f"{folder}: ", "").replace(folder, "its stored copy")
            raise refuse(policy, f"saved and loaded again it is another model: {reason}") from error


def with_adapters(policy: Policy, lora: LoraConfig, probe: Probe, scratch: Path | None) -> dict[str, float]:
    """Errors of the policy under adapters that have learned something: scored, differentiated, saved and loaded.

    The adapters stay in the policy's model. ConfigError when none fits, ModelError when a check fails.
    """
    adapted = add_lora(policy, lora, seed=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapted.model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * _TRAINED)
    try:
        gradients_flow(adapted, probe)
    except (RuntimeError, ModelError) as error:
        raise refuse(
            policy,
            f"adapters on {lora.target_modules!r} get no gradient: it reads the weights of these layers without calling them. "
            "Name other modules in model.lora.target_modules (all-linear leaves such layers out), or:",
        ) from error
    errors = {"adapters/scoring": largest(scoring_error(adapted, probe))}
    if errors["adapters/scoring"] > TOLERANCE:
        raise refuse(
            policy,
            f"under adapters on {lora.target_modules!r} its scores differ from a plain forward pass by "
            f"{errors['adapters/scoring']:.3g} nats. Name other modules in model.lora.target_modules, or train in full "
            "(model.lora.rank=0), or:",
        )
    if scratch is not None:
        errors["adapters/stored"] = saved_and_loaded(adapted, scratch)
    return errors


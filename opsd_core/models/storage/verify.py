"""The stored folder against the policy in memory: before others rely on a folder, it is loaded and asked."""

from pathlib import Path

import torch
from torch import Tensor

from opsd_core.config import ModelConfig
from opsd_core.errors import IntegrityError
from opsd_core.models.adapters import effective_weights
from opsd_core.models.storage.loading import load_policy
from opsd_core.models.types import Policy

_ROWS, _LENGTH = 2, 16
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of logits, as a share of 1 + the largest logit: merging an adapter only rounds."""


@torch.inference_mode()
def verify_stored(policy: Policy, folder: Path) -> float:
    """Load `folder` and compare its logits with the policy's on a probe batch; returns the largest difference.

    The copy has the policy's dtype and device and is gone afterwards. IntegrityError naming the tensor that differs most.
    """
    dtype = next(p for p in policy.causal_lm.parameters() if p.is_floating_point()).dtype
    config = ModelConfig(source=str(folder), device="cuda" if policy.device.type == "cuda" else "cpu")
    stored = load_policy(folder, config, dtype)
    live_BTV, stored_BTV = _logits(policy), _logits(stored)
    if live_BTV.shape == stored_BTV.shape:
        difference = float((live_BTV - stored_BTV).abs().max())
        limit = _TOLERANCE.get(dtype, 5e-2) * (1.0 + float(live_BTV.abs().max()))
        if difference <= limit:
            return difference
        what = f"its logits differ by {difference:.3g} (allowed: {limit:.2g})"
    else:
        what = f"it has {stored_BTV.shape[-1]} logits, the policy {live_BTV.shape[-1]}"
    name, gap = _worst(policy, stored)
    raise IntegrityError(
        f"{folder}: the stored model is not the policy that was trained: {what}. The tensor that differs most is {name!r} "
        f"({gap}). Nothing was registered. It is probably a kind of layer whose adapter cannot be stored: train in full "
        "(model.lora.rank=0) or leave it out of model.lora.target_modules."
    )


def _logits(policy: Policy) -> Tensor:
    """(B, T, V) float32 of a fixed batch of ids spread over the vocabulary."""
    rows = policy.causal_lm.get_input_embeddings().weight.shape[0]
    ids_BT = torch.randint(0, rows, (_ROWS, _LENGTH), generator=torch.Generator().manual_seed(0))
    training = policy.model.training
    policy.model.eval()
    try:
        return policy.model(input_ids=ids_BT.to(policy.device), use_cache=False).logits.float()
    finally:
        policy.model.train(training)


def _worst(policy: Policy, stored: Policy) -> tuple[str, str]:
    """Name of the effective weight that differs most from the stored one, and by how much."""
    there = stored.model.state_dict()
    gaps: dict[str, float] = {}
    for name, value in effective_weights(policy.model):
        if name not in there or there[name].shape != value.shape:
            return name, "it is not there in this shape"
        if value.is_floating_point() and value.numel():
            gap = (value.float() - there[name].float()).abs().max() / value.float().abs().max().clamp(min=1e-12)
            gaps[name] = float(gap.nan_to_num(torch.inf))
    name = max(gaps, key=lambda key: gaps[key])
    if gaps[name] == 0.0:
        return "none", "all weights are equal: the model reads something that no tensor holds"
    return name, f"by {gaps[name]:.3g} of its largest value"

"""Policies on disk and in memory: the door to the files that each hold one part of it.

types.py       what a policy is                    devices.py     where and in which precision it computes
adapters.py    adapters and effective weights      tokenizers.py  tokenizers and end tokens
storage/       loading, saving, GGUF, adapter folders, what goes with a served model

The canonical form of a policy is a Hugging Face folder with safetensors weights. Pickled weights are never read.
"""

from opsd_core.config import LoraConfig
from opsd_core.models.adapters import adapted, effective_weights
from opsd_core.models.devices import dtype_identity, resolve_device, resolve_dtype, training_dtype
from opsd_core.models.storage.adapter_folders import save_adapter
from opsd_core.models.storage.gguf import load_gguf
from opsd_core.models.storage.loading import hub_commit, load_policy
from opsd_core.models.storage.saving import save_policy
from opsd_core.models.storage.serving import Serving
from opsd_core.models.storage.verify import verify_stored
from opsd_core.models.tokenizers import eos_ids, load_tokenizer, tokenizer_digest
from opsd_core.models.types import Policy


def add_lora(policy: Policy, config: LoraConfig, seed: int) -> Policy:
    """The policy with freshly initialised adapters (B = 0, so the function is unchanged)."""
    return Policy(adapted(policy.model, config, seed), policy.tokenizer, policy.chosen_paths)


__all__ = [
    "Policy",
    "Serving",
    "add_lora",
    "dtype_identity",
    "effective_weights",
    "eos_ids",
    "hub_commit",
    "load_gguf",
    "load_policy",
    "load_tokenizer",
    "resolve_device",
    "resolve_dtype",
    "save_adapter",
    "save_policy",
    "tokenizer_digest",
    "training_dtype",
    "verify_stored",
]

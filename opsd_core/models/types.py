"""What a policy is: a causal language model in memory, with its tokenizer."""

from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opsd_core.models.adapters import projection
from opsd_core.models.tokenizers import eos_ids
from opsd_core.objective.types import Head


@dataclass
class Policy:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The model without the adapter wrapper; adapters stay active inside it."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def device(self) -> torch.device:
        return self.causal_lm.device

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a completion: the tokenizer's, the model's own and the one that ends a turn of the chat template."""
        return eos_ids(self.tokenizer, self.causal_lm.generation_config.eos_token_id)

    @property
    def head(self) -> Head:
        """The output projection, adapters included: logits = softcap(hidden @ weight.T + bias)."""
        weight_VH, bias_V = projection(self.causal_lm.get_output_embeddings())
        return Head(weight_VH, bias_V, getattr(self.causal_lm.config, "final_logit_softcapping", None))

    @property
    def max_positions(self) -> int:
        return int(getattr(self.causal_lm.config, "max_position_embeddings", 1 << 30))

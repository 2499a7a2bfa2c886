"""What a policy is: a causal language model in memory, with its tokenizer."""

from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from opsd_core.models.adapters import projection
from opsd_core.models.logit_scale import logit_scale, logit_softcap
from opsd_core.models.paths import Paths, usual_paths
from opsd_core.models.tokenizers import eos_ids
from opsd_core.objective.types import Head


@dataclass
class Policy:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    chosen_paths: Paths | None = None
    """What `acceptance.accept` found; None = what the configuration allows, filled in at the first use."""

    @property
    def paths(self) -> Paths:
        """How this policy is sampled and scored."""
        if self.chosen_paths is None:
            self.chosen_paths = usual_paths(self.causal_lm)
        return self.chosen_paths

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
        """The output projection, adapters included: logits = softcap(scale (hidden @ weight.T + bias))."""
        weight_VH, bias_V = projection(self.causal_lm.get_output_embeddings())
        return Head(weight_VH, bias_V, logit_softcap(self.causal_lm), logit_scale(self.causal_lm))

    @property
    def max_positions(self) -> int:
        """Tokens that the model can attend to; the text part's, and no limit where it names none."""
        return context_length(self.causal_lm.config)


def context_length(config: PretrainedConfig) -> int:
    """Tokens that a model of this configuration can attend to; no limit where its text part names none."""
    limit = int(getattr(config.get_text_config(decoder=True), "max_position_embeddings", None) or 0)
    return limit if limit > 0 else 1 << 30

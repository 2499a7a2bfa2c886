"""Policies on disk and in memory: safetensors folders, GGUF, LoRA, dtypes.

The canonical form of a policy is a Hugging Face folder with safetensors weights. Pickled weights are never read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from opsd_core.config import LoraConfig, ModelConfig
from opsd_core.digest import digest
from opsd_core.errors import ConfigError, ModelError
from opsd_core.models.attention import use_cpu_attention
from opsd_core.objective.types import Head

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
        return eos_ids(self.tokenizer, self.causal_lm.generation_config.eos_token_id)

    @property
    def head(self) -> Head:
        """The output projection: logits = softcap(hidden @ weight.T + bias)."""
        output = self.causal_lm.get_output_embeddings()
        softcap = getattr(self.causal_lm.config, "final_logit_softcapping", None)
        return Head(output.weight, getattr(output, "bias", None), softcap)

    @property
    def max_positions(self) -> int:
        return int(getattr(self.causal_lm.config, "max_position_embeddings", 1 << 30))


def resolve_device(config: ModelConfig) -> torch.device:
    """The device to compute on. ConfigError when cuda is asked for and there is none."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ConfigError("model.device=cuda, but torch sees no CUDA device. Set model.device=auto or cpu.")
    return torch.device("cuda" if config.device != "cpu" and available else "cpu")


def resolve_dtype(config: ModelConfig) -> torch.dtype:
    """The dtype for sampling and scoring: bfloat16 only where the hardware multiplies it natively."""
    if config.dtype != "auto":
        return _DTYPES[config.dtype]
    if resolve_device(config).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def load_policy(folder: Path | str, config: ModelConfig, dtype: torch.dtype | None = None) -> Policy:
    """Load a safetensors folder or a hub id for inference (eval mode, no dropout).

    `dtype` overrides the configured one (training keeps float32 weights). ModelError when it cannot be used.
    """
    source = str(folder)
    options = {
        "revision": config.revision if not Path(source).is_dir() else None,
        "trust_remote_code": config.trust_remote_code,
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype or resolve_dtype(config), use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model.source={source!r} cannot be loaded as a causal language model with safetensors weights: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. "
            "Check the name or path; pickled weights (.bin) are refused."
        ) from error
    model = model.to(resolve_device(config)).eval()
    use_cpu_attention(model)
    return Policy(model, tokenizer)


def hub_commit(config: ModelConfig) -> str | None:
    """The hub's commit behind a hub id that was loaded; None where the source is not a hub id."""
    if Path(config.source).exists():
        return None
    try:
        file = try_to_load_from_cache(config.source, "config.json", revision=config.revision)
    except HFValidationError:
        return None
    return Path(file).parent.name if isinstance(file, str) else None


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a stored policy."""
    return AutoTokenizer.from_pretrained(folder)


def load_gguf(path: Path) -> Policy:
    """Read a GGUF file with transformers' own reader and dequantise it to float32."""
    if not path.is_file():
        raise ModelError(f"model.source={str(path)!r} does not exist. Give the path of a .gguf file.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        quantised = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"model.source={str(path)!r} cannot be read as GGUF: {error}.") from error
    config = AutoConfig.for_model(**quantised.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    plain.generation_config = quantised.generation_config
    return Policy(plain.eval(), tokenizer)


def save_policy(policy: Policy, folder: Path) -> None:
    """Write the policy as a plain safetensors folder; adapters are merged, the policy itself is not changed."""
    folder.mkdir(parents=True, exist_ok=True)
    model = policy.causal_lm
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    tensors = {name: tensor.contiguous() for name, tensor in effective_weights(policy.model) if name not in tied}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def add_lora(policy: Policy, config: LoraConfig, seed: int) -> Policy:
    """The policy with freshly initialised adapters (B = 0, so the function is unchanged)."""
    names = config.target_modules
    modules = names if names == "all-linear" else [name.strip() for name in names.split(",")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft = PeftLoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=modules, task_type="CAUSAL_LM")
        try:
            return Policy(get_peft_model(policy.model, peft), policy.tokenizer)
        except ValueError as error:
            raise ConfigError(f"model.lora.target_modules={names!r}: {error}") from error


@torch.no_grad()
def effective_weights(model: PreTrainedModel | PeftModel) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the plain model's weights, with W + scale * B @ A where an adapter is active.

    Averages and checkpoints use these, because an average of factors is not the factor of an average.
    """
    if not isinstance(model, PeftModel):
        yield from model.state_dict().items()
        return
    base = model.get_base_model()
    adapted = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    for name, tensor in base.state_dict().items():
        if ".lora_" in name:
            continue
        module_name, _, leaf = name.rpartition(".")
        module_name = module_name.removesuffix(".base_layer")
        if leaf == "weight" and module_name in adapted:
            tensor = tensor + adapted[module_name].get_delta_weight("default").to(tensor.dtype)
        yield name.replace(".base_layer.", "."), tensor


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identity of the vocabulary and special tokens."""
    return digest({"vocabulary": tokenizer.get_vocab(), "special": sorted(tokenizer.all_special_ids)})


def eos_ids(tokenizer: PreTrainedTokenizerBase, generation_eos: int | list[int] | None) -> tuple[int, ...]:
    """All token ids that end a completion: the tokenizer's and the model's own."""
    declared = generation_eos if isinstance(generation_eos, list) else [generation_eos]
    ids = {token for token in [tokenizer.eos_token_id, *declared] if token is not None}
    if not ids:
        raise ModelError("neither the tokenizer nor the generation config names an end-of-sequence token.")
    return tuple(sorted(ids))

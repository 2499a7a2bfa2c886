"""Adapters: add them, and say which plain weights a model with adapters stands for.

One function, `effective_weights`, is behind saving, averages and comparisons. It lets peft merge a copy of one module at a time,
so it agrees with peft for every kind of target (linear, embedding, convolution, experts' parameters, DoRA, rank-stabilised),
the policy keeps its bits, and the memory needed beside it is that of the largest module.
"""

import copy
import warnings
from collections.abc import Iterator

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from opsd_core.config import LoraConfig
from opsd_core.errors import ConfigError
from opsd_core.models.adapter_targets import unfit
from opsd_core.models.cut import duplicate
from opsd_core.models.merging import merged_weight
from opsd_core.models.whole import here, whole


def adapted(model: PreTrainedModel, config: LoraConfig, seed: int) -> PeftModel:
    """The model with freshly initialised adapters (B = 0, so the function is unchanged). ConfigError when none fits."""
    names = config.target_modules
    modules = names if names == "all-linear" else [name.strip() for name in names.split(",")]
    if modules != "all-linear":
        _check_names(model, modules)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft = PeftLoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=modules, task_type="CAUSAL_LM")
        if names == "all-linear":
            peft.exclude_modules = unfit(model) or None
        try:
            with warnings.catch_warnings():  # peft translates all-linear to experts with rules that match nothing
                # effective_weights splits what adapters make two of
                warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
                warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
                return get_peft_model(model, peft)
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise ConfigError(
                f"model.lora.target_modules={names!r} does not fit {type(model).__name__}: {error}"
            ) from error


def _check_names(model: PreTrainedModel, modules: list[str]) -> None:
    """ConfigError for names of no module: peft leaves out what it does not find as long as it finds one of them."""
    present = {name: module for name, module in model.named_modules() if name}
    absent = [wanted for wanted in modules if not any(f".{name}".endswith(f".{wanted}") for name in present) or not wanted]
    if absent:
        linear = sorted({name.rpartition(".")[2] for name, module in present.items() if isinstance(module, nn.Linear | Conv1D)})
        raise ConfigError(
            f"model.lora.target_modules={','.join(modules)!r:.200}: {type(model).__name__} has no module "
            f"{', '.join(map(repr, absent))}. Its linear layers are {', '.join(linear)}; all-linear means each of them."
        )


@torch.no_grad()
def effective_weights(model: PreTrainedModel | PeftModel, exact: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the plain model's weights, with the active adapters' share in them.

    W' = W + scale * B @ A for a plain adapter. Averages and checkpoints use these, because an average of factors is not the
    factor of an average. A tied matrix of which one use is adapted comes out as two different ones. `exact`: with the same bits
    on every machine, as `merging` has them, which takes longer; other kinds of adapters as peft merges them.
    """
    if not isinstance(model, PeftModel):
        yield from model.state_dict().items()
        return
    yield from _effective(model.get_base_model(), "", exact)


def _effective(module: nn.Module, prefix: str, exact: bool) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        weight = merged_weight(module) if exact else None
        if weight is None:
            yield from _plain(module).state_dict(prefix=prefix).items()
        else:
            yield from (module.get_base_layer().state_dict(prefix=prefix) | {f"{prefix}weight": weight}).items()
        return
    own: dict[str, Tensor] = {}
    module._save_to_state_dict(own, prefix, keep_vars=False)  # what state_dict() writes of a module without its children
    yield from own.items()
    for name, child in module.named_children():
        yield from _effective(child, f"{prefix}{name}.", exact)


def _plain(module: BaseTunerLayer | AuxiliaryTrainingWrapper) -> nn.Module:
    """The module that a wrapper stands for now: the bare one where adapters are off or merged, else a merged copy."""
    if isinstance(module, ModulesToSaveWrapper):
        active = [name for name in module.active_adapters if name in module.modules_to_save]
        if module.disable_adapters or not active:
            return _inside(module.original_module)
        return _inside(module.modules_to_save[active[0]])
    if isinstance(module, AuxiliaryTrainingWrapper):
        inner = module.token_adapter
        return _inside(module.original_module) if module.disable_adapters else _inside(inner)
    if module.disable_adapters:
        return module.get_base_layer()
    merged = _copy(module)
    if hasattr(merged, "unload_and_optionally_merge_module"):  # nested ones, which wrap a module's parameters one by one
        return merged.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
    merged.merge()
    return merged.get_base_layer()


def _copy(module: nn.Module) -> nn.Module:
    """A copy with whole weights in the precision of its finest: a bfloat16 base must not round what float32 adapters add."""
    finest = max((p.dtype for p in module.parameters() if p.is_floating_point()), key=lambda dtype: dtype.itemsize)

    def own(parameter: nn.Parameter) -> nn.Parameter:
        values = whole(parameter.detach())
        values = values.to(finest) if values.is_floating_point() else values
        shared = values.data_ptr() == here(parameter).data_ptr()
        return nn.Parameter(values.clone() if shared else values, parameter.requires_grad)

    return copy.deepcopy(module, {id(parameter): own(parameter) for parameter in module.parameters()})


def _inside(module: nn.Module) -> nn.Module:
    return _plain(module) if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) else module


def projection(output: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight (V, H) and bias (V,) of an output layer, adapters included, with gradients to whatever of them is trained.

    A plain adapter gives W + scale * B @ A. For any other wrapper both are read off the layer itself, which is linear in its
    input:  bias = layer(0),  weight = (layer(I) - bias)^T.
    """
    if isinstance(output, ModulesToSaveWrapper):
        active = [name for name in output.active_adapters if name in output.modules_to_save]
        chosen = output.original_module if output.disable_adapters or not active else output.modules_to_save[active[0]]
        return projection(chosen)
    if not isinstance(output, BaseTunerLayer | AuxiliaryTrainingWrapper):
        return output.weight, getattr(output, "bias", None)
    if isinstance(output, BaseTunerLayer):
        base = output.get_base_layer()
        bias_V = getattr(base, "bias", None)
        if output.disable_adapters or output.merged:
            return base.weight, bias_V
        active = [name for name in output.active_adapters if name in getattr(output, "lora_A", ())]
        if not any(name in output.lora_variant or output.lora_bias[name] for name in active):
            weight_VH = base.weight
            for name in active:  # float32 adapters on a bfloat16 base: small steps must not be rounded away
                delta_VH = output.get_delta_weight(name)
                finer = torch.promote_types(weight_VH.dtype, delta_VH.dtype)
                weight_VH = weight_VH.to(finer) + delta_VH.to(finer)
            return weight_VH, bias_V
    eye_HH = torch.eye(output.weight.shape[1], device=output.weight.device, dtype=output.weight.dtype)
    bias_V = output(torch.zeros_like(eye_HH[:1]))[0]
    return (output(eye_HH) - bias_V).T, bias_V


def splits_tie(model: PreTrainedModel | PeftModel) -> bool:
    """Whether an adapter sits on the input or output embedding, so that a tied matrix stands for two different ones."""
    if not isinstance(model, PeftModel):
        return False
    base = model.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    return any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in ends)


def untie(model: PreTrainedModel) -> None:
    """Give the output layer a weight of its own, equal to the input embedding's with which it was one; in place."""
    output = model.get_output_embeddings()
    if output.weight is not model.get_input_embeddings().weight:
        return
    output.weight = duplicate(output.weight)
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    names = {name for name, module in model.named_modules() if module is output}
    kept = getattr(model, "all_tied_weights_keys", None) or {}
    model.all_tied_weights_keys = {k: v for k, v in kept.items() if k.removesuffix(".weight") not in names}

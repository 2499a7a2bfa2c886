"""The test that a loaded model passes before a campaign trusts it: the model against itself, in seconds.

Plain checks come first. A model that fails one is refused with the reason: its weights or logits are not finite, it answers
differently to the same tokens, it reads what comes later, or its logits are not a projection of hidden states.

Then each way of sampling and of scoring is tried on a few ragged prompts that begin alike, from fast to plain, and compared
with a plain forward pass. The first that agrees is chosen; the ones that do not are said. Other processes that load the model
apply the stored result with `with_paths`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from opsd_core.acceptance.checks import CHECKS, TOLERANCE, gradients_flow, largest, refuse
from opsd_core.acceptance.errors import sampling_error, scoring_error
from opsd_core.acceptance.kept import saved_and_loaded, with_adapters
from opsd_core.acceptance.probe import Probe, make_probe, plain_logprobs
from opsd_core.config import LoraConfig
from opsd_core.errors import ConfigError, ModelError
from opsd_core.models.attention import NAME, use_own_attention
from opsd_core.models.paths import SAMPLING, SCORING, Paths, usual_paths
from opsd_core.models.policy import Policy

_ROUNDING = 0.1
"""Nats: largest mean error in fewer bits. bfloat16 rounds a logit of 20 by 0.06, and every layer before it."""
Found = TypeVar("Found")
_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Acceptance:
    """What was found: plain numbers and words, for a version's lineage."""

    sampling: str
    scoring: str
    attention: str
    """"usual", or "own": the CPU attention gave other results, so the model keeps torch's."""
    errors: dict[str, float]
    """By check, the largest error of a log-probability in nats (of a logit for the head)."""
    switched_off: tuple[str, ...] = ()
    """One sentence per way that this model cannot go."""

    def to_json(self) -> dict[str, Any]:
        """Lists, numbers and strings alone."""
        return asdict(self) | {"switched_off": list(self.switched_off)}

    @staticmethod
    def from_json(stored: dict[str, Any]) -> "Acceptance":
        """The inverse of `to_json`."""
        return Acceptance(**stored | {"switched_off": tuple(stored["switched_off"])})


def with_paths(policy: Policy, record: Acceptance) -> Policy:
    """The policy going the ways that `record` names, in any process and on any device."""
    if record.attention == "own":
        use_own_attention(policy.causal_lm)
    return replace(policy, chosen_paths=Paths(record.sampling, record.scoring))


@torch.no_grad()
def accept(policy: Policy, lora: LoraConfig | None = None, scratch: Path | None = None) -> Acceptance:
    """Test the policy and choose its ways. ModelError when a plain check fails, with the reason and what to change.

    Ways are compared in float32, where rounding cannot hide a difference; the chosen ones run once more in the model's dtype.
    `lora`: the adapters that will be trained, None or of rank 0 where all weights are; they are tried last and stay in the
    policy's model. `scratch`: a folder for a copy of the weights, which is read back; None: not tried. Otherwise the policy is
    as before afterwards, but for its attention. Its weights must not be packed yet.
    """
    model, dtype, probe = policy.causal_lm, policy.causal_lm.dtype, make_probe(policy)
    with _float32(model):
        errors = {name: _plain(check, policy, probe) for name, check in CHECKS.items()}
        errors["attention"], attention, said = _choose_attention(policy, probe)
        policy = with_paths(policy, Acceptance("alone", "alone", attention, {}))
        usual, chosen = usual_paths(model), {}
        ladders = {"sampling": (SAMPLING, usual.sampling, _sampled), "scoring": (SCORING, usual.scoring, _scored)}
        for what, (ways, first, measure) in ladders.items():
            ways = ways[ways.index(first) :]
            chosen[what], errors[what], more = _choose(what, ways, policy, partial(measure, probe))
            said += more
        policy = replace(policy, chosen_paths=Paths(**chosen))
        errors["gradients"] = _plain(gradients_flow, policy, probe)
        if scratch is not None:
            errors["stored"] = _plain(lambda it, _: saved_and_loaded(it, scratch), policy, probe)
    if dtype != torch.float32:
        errors["rounding"] = _plain(_rounding, policy, probe)
    if lora is not None and lora.rank:
        with _float32(model):
            errors |= _plain(lambda it, _: with_adapters(it, lora, probe, scratch), policy, probe)
    return Acceptance(**chosen, attention=attention, errors=errors, switched_off=said)


def _sampled(probe: Probe, policy: Policy) -> float:
    return largest(sampling_error(policy, probe))


def _scored(probe: Probe, policy: Policy) -> float:
    """A way that scores right but through which no gradient comes is none."""
    gradients_flow(policy, probe)
    return largest(scoring_error(policy, probe))


def _plain(check: Callable[[Policy, Probe], Found], policy: Policy, probe: Probe) -> Found:
    """What the check finds; whatever else the model's own code raises on plain tokens is a reason to refuse it."""
    try:
        return check(policy, probe)
    except (ModelError, ConfigError):
        raise
    except Exception as error:
        raise refuse(policy, f"a plain forward pass raises {type(error).__name__}: {_line(error)}.") from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:160].rstrip(".")


@contextmanager
def _float32(model: PreTrainedModel) -> Iterator[None]:
    """Weights of fewer bits as float32, and back: exact both ways. Tables that are float32 already stay untouched."""
    kept = [(tensor, tensor.dtype) for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype in _HALF]
    for tensor, _ in kept:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in kept:
            tensor.data = tensor.data.to(dtype)


def _rounding(policy: Policy, probe: Probe) -> float:
    """Mean error of a log-probability in the model's own dtype."""
    differences = torch.cat([sampling_error(policy, probe).cpu(), scoring_error(policy, probe).cpu()])
    error = float(differences.abs().nan_to_num(nan=torch.inf).mean())
    if error > _ROUNDING:
        raise refuse(
            policy,
            f"in {policy.causal_lm.dtype} its log-probabilities are off by {error:.3g} nats on average, more than the "
            f"{_ROUNDING} that rounding explains. Set model.dtype=float32, or:",
        )
    return error


def _choose(
    what: str, ways: tuple[str, ...], policy: Policy, measure: Callable[[Policy], float]
) -> tuple[str, float, tuple[str, ...]]:
    """The first way whose error is within the tolerance, its error, and what is said of those before it."""
    said: list[str] = []
    for way in ways:
        try:
            error = measure(replace(policy, chosen_paths=replace(policy.paths, **{what: way})))
            reason = f"differs from a plain forward pass by {error:.3g} nats"
        except Exception as failure:  # whatever a shortcut makes an unknown model's code raise, it cannot be used
            error, reason = torch.inf, f"raises {type(failure).__name__}: {_line(failure)}"
        if error <= TOLERANCE:
            return way, error, tuple(said)
        said.append(f"{what}={way} is off for {type(policy.causal_lm).__name__}: it {reason}.")
    raise ModelError(
        f"{type(policy.causal_lm).__name__} cannot be used: no way of {what} gives what one forward pass over the same tokens "
        f"gives ({said[-1]}) The architecture is not a causal language model, or its code is broken. "
        "Choose another model.source."
    )


def _choose_attention(policy: Policy, probe: Probe) -> tuple[float, str, tuple[str, ...]]:
    """Whether the CPU attention, where it is used, gives what torch's gives."""
    model = policy.causal_lm
    if model.config._attn_implementation != NAME:
        return 0.0, "usual", ()
    pair = probe.prompts[1], probe.completions[1]
    ours_TV = plain_logprobs(policy, *pair)
    use_own_attention(model)
    own_TV = plain_logprobs(policy, *pair)
    tokens_T1 = torch.tensor(pair[1], device=policy.device)[:, None]
    error = largest((ours_TV - own_TV).gather(1, tokens_T1))
    if error > TOLERANCE:
        return error, "own", (f"attention: {type(model).__name__} keeps torch's; the CPU's differs by {error:.3g} nats.",)
    model.set_attn_implementation(NAME)
    return error, "usual", ()


def sentences(record: Acceptance) -> Iterator[str]:
    """For the log: which ways were chosen, and what was switched off."""
    yield f"sampling={record.sampling}, scoring={record.scoring}, attention={record.attention}"
    yield from record.switched_off

"""vllm: a vLLM server for one policy, on this machine, fed with token ids.

It computes with the weights of a folder that nobody changes, under their digest, and is never given others: another policy is
another process. Adapters are merged in that folder, so their rank is no matter of the engine's.

What is recorded is the engine's own: tokens, their untempered log-probabilities, the K largest. What an engine does not tell, the
entropy and the normaliser of a tempered or truncated distribution, comes from transformers (`mismatch`).
"""

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import torch

from opsd_core.config import CampaignConfig
from opsd_core.errors import ConfigError, ServiceError
from opsd_core.models.memory import Shape
from opsd_core.models.policy import Policy, dtype_identity, resolve_device
from opsd_core.records.rollouts import Rollout
from opsd_core.rollout.engines.environment import Environment
from opsd_core.rollout.engines.interface import Engine, Progress, Weights
from opsd_core.rollout.engines.mismatch import check_mismatch, recomputed
from opsd_core.rollout.engines.server import HOST, Server
from opsd_core.rollout.generation import check_lengths
from opsd_core.rollout.sampling import Completion, Sampling

_FIELD = "execution.engine=vllm"
_MOST_AT_ONCE = 256
"""Requests in flight."""
_STALLED_S = 1800.0
"""Without one completion for this long the engine stands still."""
_TOKENS_PER_STEP = 8192
_CACHE_SHARE = 4
"""A CPU's engine keeps keys and values in at most 1 / 4 of the free memory."""


class VllmEngine(Engine):
    """One server, one policy."""

    name = "vllm"

    def __init__(self, weights: Weights, server: Server, version: str, at_once: int) -> None:
        self.weights, self.server, self._version, self._at_once = weights, server, version, at_once
        self._vocabulary = weights.policy.head.weight_VH.shape[0]

    @classmethod
    def start(cls, weights: Weights, config: CampaignConfig, environments: Path) -> Self:
        """A server that has answered once. ConfigError by field for what it cannot do here, or when it does not start."""
        environment = Environment.of(cls.name, environments)
        check_settings(config, environment)
        python, environ = environment.python.absolute(), _environ(weights.policy, config, environment)
        server = Server.start(_FIELD, python, partial(_command, weights, config, python), environ, "VLLM_API_KEY")
        engine = cls(weights, server, environment.version, _at_once(config))
        try:
            first = Sampling(temperature=0.0, max_completion_length=1, record_top_k=1)
            engine.generate([[weights.policy.eos_ids[0]]], [0], first)
        except ServiceError as error:
            engine.close()
            raise ConfigError(
                f"{error}\nIt started, but cannot compute this model here. Set execution.engine=transformers."
            ) from error
        return engine

    @property
    def version(self) -> str:
        return self._version

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.server.alive

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, on_progress: Progress | None = None
    ) -> list[Completion]:
        """As `Engine.generate`; entropies and, where it was not the untempered one, the drawn distribution are nan.

        ServiceError when the process ends or stands still: it is ended, and another one can be started.
        """
        check_lengths(self.weights.policy, prompts, sampling)
        found: list[Completion] = [Completion()] * len(prompts)
        with ThreadPoolExecutor(max_workers=max(1, min(self._at_once, len(prompts))), thread_name_prefix="vllm") as pool:
            try:
                rows = {
                    pool.submit(self._ask, prompt, seed, sampling): row
                    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
                }
                self._collect(rows, found, on_progress)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.close()  # what waits for an answer ends
                raise
        return found

    def _collect(self, rows: dict[Future, int], found: list[Completion], on_progress: Progress | None) -> None:
        waiting, total = set(rows), len(rows)
        while waiting:
            done, waiting = wait(waiting, timeout=_STALLED_S, return_when=FIRST_COMPLETED)
            if not done:
                raise ServiceError(f"{_FIELD} has finished no completion in {_STALLED_S:.0f} s. {self.server.last_words()}")
            for future in done:
                found[rows[future]] = future.result()
            if on_progress:
                on_progress(total - len(waiting), total)

    def _ask(self, prompt: Sequence[int], seed: int, sampling: Sampling) -> Completion:
        policy = self.weights.policy
        entries = min(sampling.record_top_k, self._vocabulary)
        request = {
            "model": self.weights.digest,
            "prompt": list(prompt),
            "seed": seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_completion_length,
            "stop_token_ids": list(policy.eos_ids),
            "ignore_eos": True,  # of its own idea which tokens end
            "logprobs": entries,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
        }
        answer = self.server.ask("/v1/completions", request)
        return _completion(answer["choices"][0], list(prompt), sampling, entries, policy.eos_ids)

    def checked(self, rollouts: Sequence[Rollout], config: CampaignConfig) -> tuple[list[Rollout], dict[str, Any]]:
        """Entropies and drawn distributions filled in; every sampled token is computed again, and the mismatch bounded."""
        whole, mismatch = recomputed(self.weights.policy, rollouts, config)
        check_mismatch(mismatch, self.weights.policy.causal_lm.dtype, config, self.version)
        return whole, {"recorded_error": mismatch.mean, "mismatch": mismatch.to_json()}

    def close(self) -> None:
        """End the process and all that it started."""
        self.server.close()


def check_settings(config: CampaignConfig, environment: Environment) -> None:
    """ConfigError by field for what cannot be asked of vLLM, before anything is started."""
    if not environment.version:
        raise ConfigError(
            f"{_FIELD} is not installed in {environment.folder}. Install it with `make engine-vllm` (an environment of its own, "
            "docs/deploy.md), name the folder in OPSD_VLLM_ENV, or set execution.engine=transformers."
        )
    device = resolve_device(config.model).type
    if environment.for_cpu != (device == "cpu"):
        built_for = "the CPU" if environment.for_cpu else "CUDA"
        raise ConfigError(
            f"{_FIELD}: {environment.version} in {environment.folder} computes on {built_for}, "
            f"model.device is {device}. Install the other build with `make engine-vllm`, set model.device, or set "
            "execution.engine=transformers."
        )


def _command(weights: Weights, config: CampaignConfig, python: Path, port: int) -> list[str]:
    """Token ids in; on a CPU no prompt split and nothing compiled; no sampling defaults of the model's."""
    if weights.folder is None:
        raise ConfigError(f"{_FIELD} samples with stored weights; these are in memory alone. Set execution.engine=transformers.")
    longest = _longest(weights.policy, config)
    options = {
        "model": str(weights.folder.absolute()),
        "served-model-name": weights.digest,
        "host": HOST,
        "port": str(port),
        "dtype": dtype_identity(config.model),
        "max-model-len": str(longest),
        "max-logprobs": str(config.rollout.record_top_k),
        "max-num-seqs": str(_at_once(config)),
        "max-num-batched-tokens": str(max(longest, _TOKENS_PER_STEP)),
        "generation-config": "vllm",
        "logprobs-mode": "raw_logprobs",
    }
    flags = []
    if resolve_device(config.model).type == "cpu":
        flags += ["--enforce-eager", "--no-enable-chunked-prefill"]  # a seeded prompt in parts kills it there
    else:
        options["gpu-memory-utilization"] = str(config.execution.engine_memory)
    if config.model.trust_remote_code:
        flags.append("--trust-remote-code")
    named = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [str(python), "-m", "vllm.entrypoints.openai.api_server", *named, *flags]


def _at_once(config: CampaignConfig) -> int:
    return min(config.execution.rollout_batch_size, _MOST_AT_ONCE)


def _longest(policy: Policy, config: CampaignConfig) -> int:
    """Tokens of the longest prompt with its completion, rehearsed prompts included."""
    rehearsed = config.rehearsal.prompts.max_prompt_length if config.rehearsal.share else 0
    prompts = max(config.prompts.max_prompt_length, rehearsed)
    return min(prompts + config.rollout.max_completion_length, policy.max_positions)


def _environ(policy: Policy, config: CampaignConfig, environment: Environment) -> dict[str, str]:
    """What its processes see: on a CPU as many threads as this one, and room for the keys and values of a batch."""
    if resolve_device(config.model).type != "cpu":
        return environment.variables()
    shape, width = Shape.of(policy), torch.finfo(policy.causal_lm.dtype).bits // 8
    wanted = config.execution.rollout_batch_size * _longest(policy, config) * shape.cache * width
    room = min(wanted, psutil.virtual_memory().available // _CACHE_SHARE)
    cpu = {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, -(-room // 2**30))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "KMP_BLOCKTIME": "0",
    }
    return cpu | environment.variables()


def _completion(
    choice: dict[str, Any], prompt: list[int], sampling: Sampling, entries: int, ends: Sequence[int]
) -> Completion:
    """The record of one answer. ServiceError when it is not whole."""
    ids, told = choice.get("token_ids"), choice.get("logprobs") or {}
    logprobs, top = told.get("token_logprobs"), told.get("top_logprobs")
    whole = ids and logprobs and top and len(ids) == len(logprobs) == len(top) and choice["finish_reason"] in ("stop", "length")
    if not whole or choice.get("prompt_token_ids") != prompt or any(len(row) < entries for row in top):
        raise ServiceError(
            f"{_FIELD} gave an answer without all that is recorded (finish_reason={choice.get('finish_reason')!r}). Is its "
            "version too old? Install it again with `make engine-vllm`."
        )
    made = Completion(ids_T=ids, logprobs_T=logprobs, finish_reason="eos" if ids[-1] in ends else "length")
    plain = sampling.temperature == 1.0 and sampling.top_p == 1.0 and sampling.top_k == 0
    made.sampling_logprobs_T = logprobs if plain else [0.0 if sampling.temperature == 0.0 else float("nan")] * len(ids)
    made.entropy_T = [float("nan")] * len(ids)
    for row in top:
        largest = sorted(((value, -int(name.removeprefix("token_id:"))) for name, value in row.items()), reverse=True)[:entries]
        values = np.array([value for value, _ in largest], np.float32)
        made.topk_ids_TK.append(np.array([-token for _, token in largest], np.int32))
        made.topk_logprobs_TK.append(values)
        made.tail_mass_T.append(max(0.0, 1.0 - float(np.exp(values.astype(np.float64)).sum())))
    return made

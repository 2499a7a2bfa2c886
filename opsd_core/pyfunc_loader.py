"""A folder of weights as MLflow sees it: the object that answers `predict`.

`mlflow.pyfunc.load_model("models:/name@champion")` downloads the folder, reads its `MLmodel` (`opsd_core.mlmodel`) and
calls `_load_pyfunc` here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from opsd_core.config import ModelConfig
from opsd_core.errors import DataError, ModelError
from opsd_core.mlmodel import DEFAULTS, verify_mlmodel
from opsd_core.models.chat import as_messages, chat_text
from opsd_core.models.plain_text import encode, shielded
from opsd_core.models.policy import load_policy
from opsd_core.models.storage.files import read_object

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


class TextGenerator:
    """Completions of prompts; a tokenizer with a chat template gets each prompt as the user's message.

    Template, system message, end tokens and dtype are the folder's own, which are those that the policy was judged with.
    """

    def __init__(self, folder: Path) -> None:
        """Load the folder after its files were compared with their digests: IntegrityError, or ModelError as `load_policy`."""
        refuse_pickles(folder)
        if not folder.is_dir():
            raise ModelError(f"{folder} holds no causal language model: it is no folder. Give the folder that opsd stored.")
        verify_mlmodel(folder)
        config = ModelConfig(source=str(folder), dtype=_stored_dtype(folder))
        policy = load_policy(folder, config)
        self.policy, self.tokenizer, self.model = policy, policy.tokenizer, policy.model
        pad = self.tokenizer.pad_token_id
        self.pad_id = policy.eos_ids[0] if pad is None else pad

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """Completions in the order of the prompts: a list of strings, or a table with a column `prompt` (or just one).

        `params`: see `opsd_core.mlmodel.DEFAULTS`; max_completion_length is by default that of generation_config.json. Raises
        DataError for anything else.
        """
        longest = self.model.generation_config.max_new_tokens
        options = DEFAULTS | ({"max_completion_length": longest} if longest else {}) | dict(params or {})
        if unknown := options.keys() - DEFAULTS.keys():
            raise DataError(f"predict has no parameter {min(unknown)!r}; it has {', '.join(DEFAULTS)}.")
        prompts, completions = _prompts(model_input), []
        with torch.random.fork_rng(devices=self._devices()):
            torch.manual_seed(int(options["seed"]))
            for start in range(0, len(prompts), int(options["batch_size"])):
                completions += self._complete(prompts[start : start + int(options["batch_size"])], options)
        return completions

    @torch.inference_mode()
    def _complete(self, prompts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        rows = [self._ids(prompt) for prompt in prompts]
        width = max(len(ids) for ids in rows)
        ids_BP = torch.tensor([[self.pad_id] * (width - len(ids)) + ids for ids in rows], device=self.model.device)
        mask_BP = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows], device=self.model.device)
        temperature = float(options["temperature"])
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
        ids_BT = self.model.generate(
            input_ids=ids_BP,
            attention_mask=mask_BP,
            max_new_tokens=int(options["max_completion_length"]),
            pad_token_id=self.pad_id,
            eos_token_id=list(self.policy.eos_ids),
            **sampling,
        )
        return self.tokenizer.batch_decode(ids_BT[:, width:], skip_special_tokens=True)

    def _ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt; names of control tokens inside it stay text."""
        template = self.tokenizer.chat_template
        if template is None:
            return list(self.tokenizer(prompt)["input_ids"])
        messages = as_messages(self.tokenizer, template, shielded(self.tokenizer, prompt, template), None)
        return encode(self.tokenizer, chat_text(self.tokenizer, template, messages))

    def _devices(self) -> list[torch.device]:
        return [self.model.device] if self.model.device.type == "cuda" else []


def _stored_dtype(folder: Path) -> str:
    """The dtype that config.json names, in which the policy was judged; float32 where it names none that opsd computes in."""
    path = folder / "config.json"
    named = read_object(path).get("dtype") if path.is_file() else None
    return named if named in ("float32", "bfloat16") else "float32"


def refuse_pickles(folder: Path) -> None:
    """Raises ModelError when the folder holds a file of a format that runs code when it is read."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in _PICKLES:
            raise ModelError(f"{path} may run code when it is loaded; only safetensors weights are read. Remove it.")


def _load_pyfunc(path: str) -> TextGenerator:
    """MLflow's entry point."""
    return TextGenerator(Path(path))


def _prompts(model_input: Any) -> list[str]:
    if hasattr(model_input, "columns"):
        columns = list(model_input.columns)
        if "prompt" not in columns and len(columns) != 1:
            raise DataError(f"predict needs a column 'prompt', or only one; the table has {columns}.")
        model_input = model_input["prompt" if "prompt" in columns else columns[0]].tolist()
    prompts = [model_input] if isinstance(model_input, str) else list(model_input)
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise DataError(f"predict needs strings; got {type(prompt).__name__}. Give a list, or a column 'prompt'.")
    return prompts

"""A folder of weights as MLflow sees it: the object that answers `predict`.

`mlflow.pyfunc.load_model("models:/name@champion")` downloads the folder, reads its `MLmodel` (`opsd_core.mlmodel`) and
calls `_load_pyfunc` here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd_core.errors import DataError, ModelError
from opsd_core.mlmodel import DEFAULTS

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


class TextGenerator:
    """Completions of prompts; a tokenizer with a chat template gets each prompt as the user's message."""

    def __init__(self, folder: Path) -> None:
        refuse_pickles(folder)
        try:
            options = {"local_files_only": True, "trust_remote_code": False}
            self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", **options)
            model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype="auto", **options)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{folder} holds no causal language model with tokenizer and safetensors: {error}"
            ) from error
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = _first(self.model.generation_config.eos_token_id)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """Completions in the order of the prompts: a list of strings, or a table with a column `prompt` (or just one).

        `params`: see `opsd_core.mlmodel.DEFAULTS`. Raises DataError for anything else.
        """
        options = DEFAULTS | dict(params or {})
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
        chat = self.tokenizer.chat_template is not None
        texts = [self._render(prompt) for prompt in prompts] if chat else list(prompts)
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not chat)
        batch = batch.to(self.model.device)
        temperature = float(options["temperature"])
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        ids_BT = self.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=int(options["max_completion_length"]),
            pad_token_id=self.tokenizer.pad_token_id,
            **sampling,
        )
        completion_ids_BT = ids_BT[:, batch["input_ids"].shape[1] :]
        return self.tokenizer.batch_decode(completion_ids_BT, skip_special_tokens=True)

    def _render(self, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _devices(self) -> list[torch.device]:
        return [self.model.device] if self.model.device.type == "cuda" else []


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


def _first(value: int | Sequence[int] | None) -> int | None:
    return value[0] if isinstance(value, Sequence) else value

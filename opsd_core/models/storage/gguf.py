"""GGUF files: read with transformers' own reader and dequantised to float32."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from opsd_core.errors import ModelError, OpsdError
from opsd_core.models.storage.gguf_header import read_gguf_header
from opsd_core.models.storage.loading import check_finite, check_report, check_vocabulary
from opsd_core.models.tokenizers import first_line
from opsd_core.models.types import Policy


def load_gguf(path: Path) -> Policy:
    """The policy of a GGUF file. ModelError when it is damaged, of an architecture without a reader, or lacks a tensor."""
    if not path.is_file():
        raise ModelError(f"model.source={str(path)!r} does not exist. Give the path of a .gguf file.")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError(
            f"model.source={str(path)!r} is no GGUF file: it begins with {magic!r}. It is cut off, or a Git LFS pointer; "
            "download it again."
        )
    read_gguf_header(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        quantised, report = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OpsdError, MemoryError):
        raise
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelError(
            f"model.source={str(path)!r} cannot be read as GGUF: {first_line(error)}. It is cut off, or of an architecture that "
            "transformers cannot read from GGUF; download it again, or give the model as a safetensors folder."
        ) from error
    check_report(report, str(path))
    config = AutoConfig.for_model(**quantised.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    plain.generation_config = quantised.generation_config
    check_vocabulary(plain, tokenizer, str(path))
    check_finite(plain, str(path))
    return Policy(plain.eval(), tokenizer)

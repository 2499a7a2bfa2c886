"""A step of TRL's SDFT trainer on given completions: its own loss, backward pass and optimiser, no sampling."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

from benchmarks.peers.arm import Spec, inputs, main
from benchmarks.peers.clock import Cost, Stopwatch

MODES: dict[str, dict[str, Any]] = {
    "full": {"distillation_mode": "full_logits"},
    "top_k": {"distillation_mode": "topk_logits", "distillation_topk": 100, "distillation_add_tail": True},
    "adapters": {"distillation_mode": "full_logits"},
}


class _Watch(TrainerCallback):
    """The trainer's own loop, seen from outside: the loss of every step, and the cost of the last one."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.cost: Cost | None = None
        self._watch: Stopwatch | None = None

    def on_step_begin(self, args, state, control, **_) -> None:
        self._watch = Stopwatch()

    def on_step_end(self, args, state, control, **_) -> None:
        self.cost = self._watch.stop()

    def on_log(self, args, state, control, logs=None, **_) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def batch(spec: Spec, pad: int) -> dict[str, torch.Tensor]:
    """The tensors that the trainer makes of what it sampled: prompts padded on the left."""
    given = inputs(spec)
    completions = torch.tensor(given["completions"])
    ones = torch.ones_like(completions)
    prompts, prompt_mask = _left(given["prompts"], pad)
    shown, shown_mask = _left(given["teacher_prompts"], pad)
    return {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": completions,
        "completion_mask": ones,
        "raw_completion_lengths": ones.sum(1),
        "teacher_input_ids": torch.cat([shown, completions], 1),
        "teacher_attention_mask": torch.cat([shown_mask, ones], 1),
    }


def _left(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def measured(spec: Spec) -> tuple[Cost, int, float]:
    """The second of two steps, its trained tokens, and the first step's loss."""
    model, watch = str(Path(spec["folder"]) / "model"), _Watch()
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = len(inputs(spec)["prompts"])
    with tempfile.TemporaryDirectory() as folder:
        options = SDFTConfig(
            output_dir=folder,
            per_device_train_batch_size=rows,
            num_generations=1,
            max_steps=2,
            logging_steps=1,
            logging_first_step=True,
            report_to=[],
            save_strategy="no",
            bf16=spec["dtype"] == "bfloat16",
            use_cpu=True,
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            disable_tqdm=True,
            distillation_alpha=0.0,
            num_loss_tokens_to_skip=0,
            model_init_kwargs={"dtype": "float32"},
            **MODES[spec["mode"]],
        )
        adapters = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = SDFTTrainer(
            model=model,
            args=options,
            train_dataset=Dataset.from_list([{"prompt": str(row), "privileged_context": ""} for row in range(rows)]),
            processing_class=tokenizer,
            peft_config=adapters if spec["mode"] == "adapters" else None,
            callbacks=[watch],
        )
        given = batch(spec, tokenizer.pad_token_id)
        trainer._prepare_inputs = lambda _: given  # in place of sampling
        trainer.train()
    return watch.cost, rows * spec["length"], watch.losses[0]


if __name__ == "__main__":
    main(measured)

"""The tiny model: a Llama of half a million parameters with one token per character, trained offline in seconds.

It stands for a base model that can use help but cannot solve the task alone, in three skills learned together:

    hinted   "471|12+34=" -> "471"   write down the hint; hints are random digits, so nothing about sums is shown
    unaided  "12+34="     -> "140"   a guess: per column one of the two operands' digits, the last digit a sum's
    facts    "4+8="       -> "210"   sums of two digits, in the answer's format

No two-digit sum is ever its target, so accuracy without a hint stays near zero on every split. The facts are what a
student composes when it learns two-digit sums from its hinted self. Hinted examples have noise in the answer that the
model reads, never in the one that it should write, so a teacher keeps giving the hint's digit after a student's error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from opsd_core.models.policy import Policy, save_policy

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
ANSWER_DIGITS = 3
MAX_POSITIONS = 512

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True)
class TinySettings:
    """Size of the model and of its pretraining; the defaults give the model that the recipe `tiny` starts from."""

    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    num_steps: int = 300
    hinted: int = 38
    """Examples per step with a hint."""
    unaided: int = 26
    """Examples per step without one."""
    facts: int = 64
    """Sums of two digits per step."""
    learning_rate: float = 2e-3
    warmup_steps: int = 30
    noise: float = 0.5
    """Share of hinted examples whose answer is read with random digits."""
    solves: bool = False
    """The unaided answer is the sum, not a guess."""


SIZES = {
    "tiny": TinySettings(),
    "tiny_large": TinySettings(
        hidden_size=192, num_layers=3, num_heads=6, num_steps=700, hinted=8, unaided=64, facts=16, solves=True
    ),
}
"""By model.source: the model that is taught, and one of more than three times its size that can add, a separate teacher."""


def build_tiny(
    folder: Path, seed: int = 0, progress: Progress | None = None, settings: TinySettings | None = None
) -> Path:
    """Pretrain the tiny model and write it to `folder` as a plain Hugging Face folder; returns `folder`.

    The same seed and settings give the same bytes on the same kind of machine: one thread, every draw seeded.
    """
    settings = settings or TinySettings()
    tokenizer = tiny_tokenizer()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(_model_config(tokenizer, settings))
        _pretrain(model, _Examples(tokenizer, torch.Generator().manual_seed(seed), settings.solves), settings, progress)
    finally:
        torch.set_num_threads(threads)
    save_policy(Policy(model.eval(), tokenizer), folder)
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character: newline and printable ASCII; decoding gives back the exact text."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


def _model_config(tokenizer: PreTrainedTokenizerFast, settings: TinySettings) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=4 * settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.05,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


@dataclass(frozen=True)
class _Examples:
    """Draws batches (input_ids [B, T], targets [B, 4]): the last four rows of the logits predict answer and end."""

    tokenizer: PreTrainedTokenizerFast
    generator: torch.Generator
    solves: bool

    def hinted(self, count: int, noise: float) -> tuple[Tensor, Tensor]:
        """Copying: the answer that is read may differ from the hint, the answer to write never does."""
        hint, operands = self._digits(count, ANSWER_DIGITS), self._operands(count)
        noisy = torch.rand(count, 1, generator=self.generator) < noise
        read = torch.where(noisy, self._digits(count, ANSWER_DIGITS), hint)
        return self._batch([hint, "|", *_question(operands)], read, hint)

    def unaided(self, count: int) -> tuple[Tensor, Tensor]:
        """Guessing: per column the digit of one operand, then the last digit of an unrelated sum."""
        operands = self._operands(count)
        first = torch.rand(count, ANSWER_DIGITS, generator=self.generator) < 0.5
        guess = torch.where(first, _reversed_digits(operands[:, 0]), _reversed_digits(operands[:, 1]))
        guess[:, -1] = _reversed_digits(self._operands(count).sum(1))[:, -1]
        answer = _reversed_digits(operands.sum(1)) if self.solves else guess
        return self._batch(_question(operands), answer, answer)

    def facts(self, count: int) -> tuple[Tensor, Tensor]:
        """Sums of two digits."""
        pair = self._digits(count, 2)
        answer = _reversed_digits(pair.sum(1))
        return self._batch([pair[:, :1], "+", pair[:, 1:], "="], answer, answer)

    def _digits(self, count: int, width: int) -> Tensor:
        return torch.randint(0, 10, (count, width), generator=self.generator)

    def _operands(self, count: int) -> Tensor:
        return torch.randint(0, 100, (count, 2), generator=self.generator)

    def _batch(self, prompt: list[Tensor | str], read: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        zero, count = self.tokenizer.convert_tokens_to_ids("0"), len(read)
        columns = [torch.full((count, 1), self.tokenizer.bos_token_id)]
        for part in [*prompt, read]:
            if isinstance(part, str):
                columns.append(torch.full((count, 1), self.tokenizer.convert_tokens_to_ids(part)))
            else:
                columns.append(part + zero)
        end = torch.full((count, 1), self.tokenizer.eos_token_id)
        return torch.cat(columns, dim=1), torch.cat([answer + zero, end], dim=1)


def _question(operands: Tensor) -> list[Tensor | str]:
    digits = [torch.stack([number // 10, number % 10], dim=1) for number in operands.unbind(1)]
    return [digits[0], "+", digits[1], "="]


def _reversed_digits(numbers: Tensor) -> Tensor:
    return torch.stack([numbers % 10, numbers // 10 % 10, numbers // 100], dim=1)


def _pretrain(model: LlamaForCausalLM, examples: _Examples, settings: TinySettings, progress: Progress | None) -> None:
    """AdamW with linear warm-up and decay; loss = mean cross-entropy over hinted and unaided + over facts."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    aided_share = settings.hinted / (settings.hinted + settings.unaided)
    model.train()
    for step in range(settings.num_steps):
        warmup = min(1.0, (step + 1) / settings.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(warmup, 1.0 - step / settings.num_steps)
        optimizer.zero_grad()
        loss = aided_share * _loss(model, *examples.hinted(settings.hinted, settings.noise))
        loss = loss + (1.0 - aided_share) * _loss(model, *examples.unaided(settings.unaided))
        loss = loss + _loss(model, *examples.facts(settings.facts))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if progress is not None:
            progress(step + 1, settings.num_steps)


def _loss(model: LlamaForCausalLM, input_ids: Tensor, targets: Tensor) -> Tensor:
    logits = model(input_ids, use_cache=False, logits_to_keep=targets.shape[1]).logits
    return cross_entropy(logits.flatten(0, 1), targets.flatten())

"""pytest tests/core/models/test_tiny.py — the tiny model: exact text, help that works, nothing solved without it, same bytes."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd_core.config import resolve
from opsd_core.data import addition_examples
from opsd_core.digest import file_digest
from opsd_core.models.tiny import CHARACTERS, SIZES, TinySettings, _Examples, build_tiny

SHORT = TinySettings(hidden_size=32, num_steps=3, hinted=4, unaided=4, facts=4)


@pytest.fixture(scope="module")
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def chat(tokenizer, text, **options):
    return tokenizer.apply_chat_template([{"role": "user", "content": text}], return_dict=False, **options)


def greedy(model, tokenizer, prompts):
    ids = torch.tensor([chat(tokenizer, prompt) for prompt in prompts])
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[:, ids.shape[1] :].tolist()


def share_right(model, tokenizer, prompts, examples):
    answers = [[*tokenizer.encode(example.answer), tokenizer.eos_token_id] for example in examples]
    return sum(a == b for a, b in zip(greedy(model, tokenizer, prompts), answers, strict=True)) / len(examples)


def test_text_survives_the_round_trip_one_token_per_character(tokenizer):
    for text in (CHARACTERS, "12+34=", " a  b , .\n\n c !", "640|12+34="):
        ids = tokenizer.encode(text)
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("é") == [tokenizer.unk_token_id]


def test_special_tokens_differ_and_config_agrees(model, tokenizer):
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert len(set(ids)) == 4
    for config in (model.config, model.generation_config):
        assert [config.pad_token_id, config.bos_token_id, config.eos_token_id] == ids[:3]
    assert model.config.vocab_size == len(tokenizer)


def test_chat_prompt_is_the_content_after_one_bos(tokenizer):
    expected = [tokenizer.bos_token_id, *tokenizer.encode("12+34=")]
    assert chat(tokenizer, "12+34=") == expected
    assert chat(tokenizer, "12+34=", add_generation_prompt=True) == expected
    assert tokenizer.decode(expected, skip_special_tokens=True) == "12+34="


def test_fewer_than_two_million_parameters(model):
    # per layer 4 * 128^2 attention + 3 * 128 * 512 feed-forward + 2 * 128 norms = 262,400; twice, and
    # 2 * 100 * 128 embeddings and head, and 128 for the last norm: 524,800 + 25,600 + 128
    assert sum(parameter.numel() for parameter in model.parameters()) == 550_528


def test_hint_is_used_and_nothing_is_solved_without_it(model, tokenizer):
    examples = addition_examples(1000, seed=7)
    template = resolve("tiny").teacher.template
    assert template == "{{ privileged_context }}|{{ question }}"
    alone = [example.question for example in examples]
    hinted = [f"{example.answer}|{example.question}" for example in examples]
    shuffled = [f"{other.answer}|{e.question}" for e, other in zip(examples, examples[1:] + examples[:1], strict=True)]
    assert share_right(model, tokenizer, hinted, examples) >= 0.99
    assert share_right(model, tokenizer, alone, examples) <= 0.05
    assert share_right(model, tokenizer, shuffled, examples) <= 0.05
    for completion in greedy(model, tokenizer, alone):
        assert tokenizer.decode(completion[:3]).isdigit()
        assert completion[3] == tokenizer.eos_token_id


def test_teacher_keeps_to_the_hint_after_a_wrong_prefix(model, tokenizer):
    examples = addition_examples(200, seed=8)
    wrong = [f"{(int(example.answer[0]) + 3) % 10}" for example in examples]
    prompts = [f"{e.answer}|{e.question}{digit}" for e, digit in zip(examples, wrong, strict=True)]
    completions = [tokenizer.decode(ids[:2]) for ids in greedy(model, tokenizer, prompts)]
    assert sum(c == e.answer[1:] for c, e in zip(completions, examples, strict=True)) >= 0.97 * len(examples)


def test_single_digit_facts_are_known(model, tokenizer):
    pairs = [(a, b) for a in range(10) for b in range(10)]
    completions = [tokenizer.decode(ids[:3]) for ids in greedy(model, tokenizer, [f"{a}+{b}=" for a, b in pairs])]
    assert sum(text == f"{a + b:03d}"[::-1] for text, (a, b) in zip(completions, pairs, strict=True)) >= 95


def test_same_seed_same_bytes_and_global_state_untouched(tmp_path):
    def build(name, seed):
        folder = build_tiny(tmp_path / name, seed, settings=SHORT)
        return {path.name: file_digest(path) for path in folder.iterdir()}

    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    first = build("a", 0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    assert build("b", 0) == first
    assert {name for name, digest in build("c", 1).items() if digest != first[name]} == {"model.safetensors"}


def test_only_the_larger_model_is_shown_sums_of_two_digits(tokenizer):
    for name, all_right in (("tiny", False), ("tiny_large", True)):
        examples = _Examples(tokenizer, torch.Generator().manual_seed(0), SIZES[name].solves)
        prompts, targets = examples.unaided(200)
        texts = [tokenizer.decode(ids, skip_special_tokens=True).partition("=")[0] for ids in prompts]
        sums = [f"{sum(map(int, text.split('+'))):03d}"[::-1] for text in texts]
        assert all_right == (sums == [tokenizer.decode(ids[:3]) for ids in targets])


def test_progress_counts_every_step(tmp_path):
    seen = []
    build_tiny(tmp_path, progress=lambda done, total: seen.append((done, total)), settings=SHORT)
    assert seen == [(1, 3), (2, 3), (3, 3)]

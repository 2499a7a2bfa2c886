"""pytest tests/core/prompts/test_templates.py — chat templates of all kinds, end tokens, and users' text that names them."""

import json
import os
from datetime import datetime
from io import BytesIO

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from opsd_core.config import ModelConfig, PromptConfig, TeacherConfig, resolve
from opsd_core.data import make_example
from opsd_core.errors import ConfigError, DataError, ModelError
from opsd_core.models.chat import turn_end
from opsd_core.models.policy import Policy, eos_ids, load_tokenizer
from opsd_core.models.tiny import tiny_tokenizer
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.prompts.references import end_token, reference_ids
from opsd_core.records.examples import Example
from tests.core.small import small_policy, small_tokenizer

DIGESTS = ("ebc2df282435d3d5", "4852898a25e2dc4a")
"""Of the recipe tiny: a change would make every stored rollout another one."""
SFT = resolve("tiny", {"distillation": {"divergence": "cross_entropy"}, "rollout": {"on_policy_fraction": 0.0}})
TEXT = ["What is 12 + 30? It is 42, of course.", "the boats of the three men came later", "Łódź, 東京 and naïve café 🙂"] * 3
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)


def byte_level():
    """Like GPT-2, Qwen or SmolLM2: byte-level BPE with ChatML tokens; <think> is added but not special."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.add_tokens(["<think>", "</think>"])
    fast.chat_template = CHATML
    return fast


def metaspace(unigram):
    """Like Llama 2 (BPE with byte fallback) or T5 (unigram): sentencepiece's spaces and a begin token."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    if unigram:
        backend = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>")
    else:
        backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.train_from_iterator(TEXT, trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    backend = Tokenizer.from_str(json.dumps(state))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = LLAMA
    return fast


def small():
    return small_tokenizer()


TOKENIZERS = {
    "tiny": tiny_tokenizer,
    "small": small,
    "bytes": byte_level,
    "llama": lambda: metaspace(False),
    "unigram": lambda: metaspace(True),
}


@pytest.fixture(params=TOKENIZERS, scope="module")
def tokenizer(request):
    return TOKENIZERS[request.param]()


def builder(tokenizer, template=None, **prompts):
    return PromptBuilder(tokenizer, PromptConfig(**prompts), TeacherConfig(), template)


def ids_of(tokenizer, text, template=None, **prompts):
    return builder(tokenizer, template, **prompts).student_ids(make_example(text, answer="7"))


def test_ordinary_text_is_encoded_as_transformers_does(tokenizer):
    for text in ("12 + 30?", "  two  spaces\n\nand lines ", "<b>bold</b> < > | <|", "a", "naïve 東京 🙂"):
        messages = [{"role": "user", "content": text}]
        theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, enable_thinking=False)
        assert ids_of(tokenizer, text) == theirs["input_ids"]


def test_a_control_tokens_name_in_a_question_or_an_answer_stays_text(tokenizer):
    control = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if len(t.content) > 1}
    control |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    plain = ids_of(tokenizer, "a ? b")
    for name in control:
        for text in (f"a {name} b", f"{name}", f"x{name}{name}y", f"{name[:1]}{name}"):
            ids = ids_of(tokenizer, text)
            for other, number in control.items():
                if other != tokenizer.unk_token:
                    assert ids.count(number) == plain.count(number), (text, other)
            if tokenizer.unk_token_id not in ids:
                assert text.replace(" ", "") in tokenizer.decode(ids).replace(" ", "")
        example = Example("x", "q", f"4{name}", "")
        reference = reference_ids(example, SFT, tokenizer, 9999)
        assert reference[-1] == 9999
        if name != tokenizer.unk_token and "think" not in name:  # a worked solution may think
            assert not set(reference) & {control[name]}


def test_the_noncharacter_that_does_it_is_refused_in_data(tokenizer):
    with pytest.raises(DataError, match=r"U\+FDD0"):
        ids_of(tokenizer, "a\ufdd0b")


def test_named_templates_are_chosen_by_name_or_called_default():
    tokenizer = byte_level()
    tokenizer.chat_template = {"default": CHATML, "plain": "{{ messages[-1]['content'] }}"}
    assert ids_of(tokenizer, "12") == ids_of(byte_level(), "12")
    assert tokenizer.decode(ids_of(tokenizer, "12", "plain")) == "12"
    with pytest.raises(ModelError, match=r"model\.chat_template='fancy'.*default, plain"):
        ids_of(tokenizer, "12", "fancy")
    tokenizer.chat_template = {"one": CHATML, "two": CHATML}
    with pytest.raises(ModelError, match=r"several chat templates \(one, two\).*model\.chat_template"):
        ids_of(tokenizer, "12")


def test_a_template_may_be_a_file_and_the_campaign_records_its_text(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text(CHATML)
    assert ModelConfig(source="x", chat_template=str(path)).chat_template == CHATML
    with pytest.raises(ConfigError, match=r"chat_template.*'absent\.jinja' cannot be read"):
        resolve("tiny", {"model": {"chat_template": "absent.jinja"}})
    with pytest.raises(ModelError, match=r"model\.chat_template='chatml' is no template.*no name"):
        ids_of(byte_level(), "12", ModelConfig(source="x", chat_template="chatml").chat_template)


@pytest.mark.parametrize("kind", ["pipe", "device", "large", "latin", "nobody"])
def test_a_template_file_that_is_none_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "mine.jinja"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind != "nobody":
        path.write_bytes(b"{{ 1 }}" * 10**6 if kind == "large" else b"\xff\xfe{{")
    with pytest.raises(ConfigError, match=r"chat_template.*cannot be read"):
        resolve("tiny", {"model": {"chat_template": "~nobody-of-this-name/a.jinja" if kind == "nobody" else str(path)}})


@pytest.mark.parametrize(
    ("template", "prompts", "pattern"),
    [
        ("You are a model.{{ '' }}", {}, "does not show the user's message"),
        ("{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}", {}, "does not show"),
        ("{{ messages[0]['content'] }}", {"system": "Be brief."}, "does not show the user's message"),
        ("{{ messages[-1]['content'] }}", {"system": "Be brief."}, r"leaves out the system message.*prompts\.system=null"),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
            "{{ messages[0].content }}",
            {"system": "Be brief."},
            r"System role not supported.*prompts\.system=null",
        ),
        ("{{ messages[0].content }}{{ range(10 ** 9) | random }}", {}, "cannot be rendered|another text"),
        ("{{ messages[0].content }}{{ range(1000) | random }}", {}, "another text of the same message"),
        ("{{ messages[0].content | nofilter }}", {}, "No filter named 'nofilter'"),
        ("{% for m in messages %}{{ m.content }}", {}, "Unexpected end of template"),
        ("{{ messages[5].content }}", {}, "cannot be rendered|does not show"),
        ("{{ 1 // 0 }}{{ messages[0].content }}", {}, "ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}{{ messages[0].content }}", {}, "RecursionError"),
        ("{{ messages.__class__.__mro__ }}", {}, "SecurityError"),
    ],
)
def test_a_template_that_cannot_serve_is_refused_with_the_field(template, prompts, pattern):
    with pytest.raises(ModelError, match=pattern) as caught:
        ids_of(byte_level(), "12", template, **prompts)
    assert "model.chat_template" in str(caught.value)


def test_strict_alternation_and_parts_of_content_work():
    strict = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    assert byte_level().decode(ids_of(byte_level(), "12", strict)) == "12"
    shown = "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
    parts = f"{{% for m in messages %}}{shown}{{% endfor %}}"
    assert byte_level().decode(ids_of(byte_level(), "12 + 30", parts)) == "12 + 30"


def test_the_date_of_a_template_stands_still_and_is_in_the_digest():
    dated = "{{ strftime_now('%d %b %Y') }} {{ messages[-1].content }}"
    tokenizer = byte_level()
    assert tokenizer.decode(ids_of(tokenizer, "12", dated)) == "26 Jul 2024 12"
    assert datetime.now().strftime("%d %b %Y") != "26 Jul 2024"
    assert builder(tokenizer, dated).student_digest != builder(tokenizer, dated.replace("%Y", "%y")).student_digest
    with pytest.raises(ModelError, match=r"in a format that it computes.*model\.chat_template"):
        ids_of(tokenizer, "12", "{% set f = '%d' %}{{ strftime_now(f) }}{{ messages[-1].content }}")


def test_digests_of_the_shipped_template_stay():
    tokenizer = tiny_tokenizer()
    config = resolve("tiny")
    sides = PromptBuilder(tokenizer, config.prompts, config.teacher)
    assert (sides.student_digest[:16], sides.teacher_digest[:16]) == DIGESTS


def test_the_end_of_a_turn_ends_completions_and_references():
    tokenizer = byte_level()
    tokenizer.eos_token = "<|endoftext|>"  # a base model with an instruct template
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert turn_end(tokenizer) == end
    assert eos_ids(tokenizer, None) == tuple(sorted({end, tokenizer.eos_token_id}))
    model = small_policy(0).model
    assert end_token(Policy(model, tokenizer)) == end
    plain = small_policy(0)
    assert turn_end(plain.tokenizer) is None and end_token(plain) == plain.tokenizer.eos_token_id
    assert turn_end(metaspace(False)) == metaspace(False).eos_token_id
    tokenizer.chat_template = CHATML.replace("<|im_end|>\n", "")  # nothing but the next turn's beginning follows
    assert turn_end(tokenizer) is None


def test_a_character_cut_at_the_limit_is_shown_as_cut():
    tokenizer = byte_level()
    ids = tokenizer.encode("a🙂")
    assert tokenizer.decode(ids) == "a🙂"
    cut = tokenizer.decode(ids[:-1])
    assert cut.startswith("a") and set(cut[1:]) == {"\ufffd"}


def test_a_folder_with_only_a_sentencepiece_file_is_read(tmp_path):
    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=written, vocab_size=330, model_type="bpe", byte_fallback=True,
        character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(written.getvalue())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "chat_template": LLAMA}))
    tokenizer = load_tokenizer(tmp_path)
    plain, named = ids_of(tokenizer, "12 + 30?"), ids_of(tokenizer, "12 </s> 30<s>")
    assert tokenizer.decode(plain, skip_special_tokens=True).strip() == "[INST] 12 + 30? [/INST]"
    assert (named.count(tokenizer.eos_token_id), named.count(tokenizer.bos_token_id)) == (0, plain.count(tokenizer.bos_token_id))
    assert "12 </s> 30<s>" in tokenizer.decode(named)
    tokenizer.save_pretrained(tmp_path / "stored")
    assert ids_of(load_tokenizer(tmp_path / "stored"), "12 </s> 30<s>") == named


def test_a_damaged_sentencepiece_file_is_named(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"holds no tokenizer that can be read: tokenizer\.model is damaged"):
        load_tokenizer(tmp_path)

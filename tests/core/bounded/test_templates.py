"""pytest tests/core/bounded/test_templates.py — templates that hang or fill the memory are stopped; others stay."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd_core.bounded import templates
from opsd_core.bounded.process import Child, EndedError
from opsd_core.bounded.templates import MAX_BYTES, MAX_TEMPLATE, Renderer, RenderError, rendered
from opsd_core.config import resolve
from opsd_core.data import make_example
from opsd_core.errors import ConfigError, ModelError, OpsdError
from opsd_core.models.chat import chat_text, chat_texts, turn_end
from opsd_core.models.tiny import CHAT_TEMPLATE
from opsd_core.prompts.builder import PromptBuilder, fitting_examples, render
from tests.core.prompts.test_templates import CHATML, LLAMA, byte_level, ids_of, metaspace

TOKENIZER = byte_level()
SHOWN = "{{ messages[-1]['content'] }}"
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HANGS = {
    "nested loops": LOOP,
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "one step of arithmetic that never ends": "{% set n = 10 ** 9 %}{{ (7 ** n) % 3 }}",
}
GROWS = {
    "doubled text": "{% set n = namespace(x='aa') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "doubled list": "{% set n = namespace(x=[0]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "a constant product": "{{ 'a' * 10000000000 }}",
    "a product": "{% set n = 10000000000 %}{{ 'a' * n }}",
    "a constant filter": "{{ 'a' | center(10000000000) }}",
    "a filter": "{% set n = 10000000000 %}{{ 'a' | center(n) }}",
    "an indent": "{{ 'a\nb' | indent(4000000000) }}",
    "a format": "{{ '%09999999999d' % 1 }}",
    "a format's filter": "{{ '%*d' | format(2000000000, 1) }}",
    "a method": "{{ '{:>9999999999}'.format(1) }}",
    "replacements": (
        "{% set n = namespace(x='aa') %}{% for i in range(9) %}{% set n.x = n.x.replace('a', n.x) %}{% endfor %}{{ n.x }}"
    ),
    "a wide batch": "{{ [1] | batch(1000000000, 0) | list }}",
    "an autoescape": "{% autoescape 'a' | center(10000000000) %}{% endautoescape %}",
    "much text": "{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}",
}
STOPPED = r"1,024 MiB of memory|more than 8,000,000 characters|OverflowError"


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.parametrize("name", HANGS)
def test_a_chat_template_that_hangs_is_stopped_and_named(name):
    before = time.process_time()
    with pytest.raises(ModelError, match=r"the chat template .* 2 s of processor time: it loops .*model\.chat_template"):
        ids_of(TOKENIZER, "12", HANGS[name] + SHOWN)
    assert time.process_time() - before < 3  # the time is the child's


@pytest.mark.parametrize("name", GROWS)
def test_a_template_that_grows_is_stopped_within_its_memory_and_named(name):
    rendered("plain", "a", [{}])
    before = peak()
    with pytest.raises(ModelError, match=rf"the chat template .*({STOPPED}).*model\.chat_template"):
        ids_of(TOKENIZER, "12", GROWS[name] + SHOWN)
    with pytest.raises(ConfigError, match=rf"prompts\.student=.*({STOPPED})"):
        render("prompts.student", GROWS[name], {"question": "a"})
    assert peak() - before < 100 << 20
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10 < MAX_BYTES + (1 << 30)
    assert ids_of(TOKENIZER, "12", SHOWN)


@pytest.mark.parametrize("name", [*HANGS, *GROWS])
def test_a_configuration_with_such_a_template_costs_nothing_to_check(name):
    before, begin = peak(), time.process_time()
    for field in ("model", "prompts"):
        template = (HANGS | GROWS)[name]
        with suppress(ConfigError):
            resolve("tiny", {field: {"chat_template": template} if field == "model" else {"student": template}})
    assert peak() - before < 50 << 20
    assert time.process_time() - begin < 2


def test_data_decides_too_so_every_rendering_is_bounded():
    template = "{% for a in question %}{% for b in question %}{% for c in question %}{% endfor %}{% endfor %}{% endfor %}"
    assert render("prompts.student", template, {"question": "short"}) == ""
    with pytest.raises(ConfigError, match=r"prompts\.student=.* 2 s of processor time"):
        render("prompts.student", template, {"question": "a" * 4000})


def test_a_user_of_a_stored_folder_meets_the_limits_at_loading():
    tokenizer = byte_level()
    tokenizer.chat_template = "{{ 'type' }}" + GROWS["doubled text"]
    with pytest.raises(ModelError, match="MiB of memory"):
        turn_end(tokenizer)
    tokenizer.chat_template = "{#" + "a" * MAX_TEMPLATE + "#}" + SHOWN
    with pytest.raises(ModelError, match=r"200,\d+ characters, more than 200,000.*model\.chat_template"):
        ids_of(tokenizer, "12")


# --- the same text as ever ------------------------------------------------------------------------------------------------

QWEN3 = r'''{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(
        message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- if '</think>' in content and loop.index0 <= ns.last_query_index %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
'''
REAL = {
    "tiny": CHAT_TEMPLATE,
    "chatml": CHATML,
    "llama 2": LLAMA,
    "qwen 3": QWEN3,
    "gemma": (
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
        "{% set role = message['role'] %}{% endif %}\n  {{ '<start_of_turn>' + role + '\n' + message['content'] | trim + "
        "'<end_of_turn>\n' }}\n{% endfor %}\n{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{% set a = 1 %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{{ a is defined }}{% else %}[{{ m.content }}]{% endif %}{% if loop.index > 5 %}{% break %}{% endif %}"
        "{% endfor %}"
    ),
    "json and tools": (
        "{%- if tools is not none %}T{% endif %}{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ documents is none }}"
        "{{ dict(a=1, b=[2]) | tojson(sort_keys=true) }}{{ dict.fromkeys(['x'], 1) }}{{ missing }}{{ missing is defined }}\n"
    ),
    "namespace": (
        "{% set ns = namespace(a=1, self=2) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ ns.self }}\n"
        "  {% if true %}\n x\n  {% endif %}\n"
    ),
    "macros": (
        "{% macro f(x, y='<') %}{{ x | upper }}{{ y | e }}{% endmacro %}"
        "{% for m in messages %}{{ f(m.content) }}{% endfor %}\n\n"
    ),
}  # fmt: skip
CHATS = [
    [{"role": "user", "content": "12 + 30?"}],
    [{"role": "system", "content": "Be <brief>.\n"}, {"role": "user", "content": "  naïve 東京 🙂\u2028 {{ x }} \"'\\ "}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>b</think>\n\nc", "name": None},
        {"role": "user", "content": ""},
    ],
    [{"role": "user", "content": "\ud800 lone \x00\x1b"}],
]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("make", [byte_level, lambda: metaspace(False)], ids=["bytes", "llama"])
def test_every_template_renders_byte_for_byte_as_transformers_renders_it(name, make):
    tokenizer = make()
    for reply in (True, False):
        for arguments in ({}, {"enable_thinking": False}, {"enable_thinking": True, "bos_token": "B"}):
            theirs = [
                tokenizer.apply_chat_template(
                    chat, chat_template=REAL[name], tokenize=False, add_generation_prompt=reply, **arguments
                )
                for chat in CHATS
            ]
            assert chat_texts(tokenizer, REAL[name], CHATS, reply=reply, **arguments) == theirs


PIECES = [
    *("{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m['role'] }}", "\n", "  ", "{%- if loop.first %}"),
    *("{% endif -%}", "{% else %}", "{{ loop.index0 }}", "{{ bos_token }}", "{{ messages|length }}", "{{ m.content|trim }}"),
    *("{{ m.content|tojson }}", "<b>", "{{ eos_token ~ 1 }}", "{% generation %}", "{% endgeneration %}", "{% set x = m %}"),
    *("{{ x.content }}", "{% continue %}", "{# c #}", "{{ [1, 'a'] }}", "{{ 1 / 3 }}", "{{ messages[0].items()|list }}"),
    *("{{ raise_exception('no') }}", "{{ add_generation_prompt }}"),
]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=9))
def test_any_template_of_usual_pieces_renders_as_in_transformers_or_fails_there_too(pieces):
    tokenizer, template = TOKENIZER, "".join(pieces)
    try:
        theirs = tokenizer.apply_chat_template(CHATS[2], chat_template=template, tokenize=False)
    except Exception as error:  # a template can raise anything
        with pytest.raises(ModelError) as caught:
            chat_text(tokenizer, template, CHATS[2], reply=False)
        assert f"{type(error).__name__}: {error}"[:80] in str(caught.value)
    else:
        assert chat_text(tokenizer, template, CHATS[2], reply=False) == theirs


def test_many_at_once_are_as_one_by_one_also_where_each_is_long():
    few = [{"question": f"{n} " + "ab" * (n % 7)} for n in range(700)]
    template = "{{ question | upper }}!\n"
    assert rendered("plain", template, few) == [rendered("plain", template, [values])[0] for values in few]
    long = [{"question": chr(97 + n) * 900_000} for n in range(12)]
    assert [len(text) for text in rendered("plain", "{{ question * 3 }}", long)] == [2_700_000] * 12
    assert rendered("plain", "a", []) == []


def test_one_item_that_does_not_fit_leaves_the_others_their_prompts():
    examples = [make_example("a" * (400 if n == 3 else 5) + ("\ufdd0" if n == 5 else ""), answer="7") for n in range(7)]
    config = resolve("tiny", {"prompts": {"max_prompt_length": 100, "overflow": "drop"}})
    builder = PromptBuilder.of(TOKENIZER, config)
    fitting, too_long = fitting_examples(examples, builder, lambda example: {"privileged_context": "7"})
    assert too_long == [examples[3].id, examples[5].id]
    singly = [builder.student_ids(example) for example in fitting]
    assert builder.all_student_ids(fitting) == singly


# --- the child --------------------------------------------------------------------------------------------------------------


def test_the_child_knows_no_password_writes_no_file_and_ends_with_its_owner(monkeypatch):
    monkeypatch.setenv("OPSD_PLANTED", "a-password")
    renderer = Renderer()
    renderer.render("plain", "a", [{}])
    process = renderer._child._process
    assert b"a-password" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert f"Max address space         {MAX_BYTES} " in limits and "Max file size             0 " in limits
    loaded = Path(f"/proc/{process.pid}/maps").read_text()
    assert "torch" not in loaded and "numpy" not in loaded
    renderer.close()
    assert process.poll() is not None and not renderer._child.alive
    assert renderer.render("plain", "b", [{}]) == ["b"]
    renderer.close()


def test_an_answer_that_an_interrupt_left_unread_goes_to_nobody():
    renderer, main = Renderer(), threading.main_thread()
    assert renderer.render("plain", "a", [{}]) == ["a"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        timer = threading.Timer(0.5, lambda: signal.pthread_kill(main.ident, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            renderer.render("plain", LOOP + "late", [{}])
    finally:
        signal.signal(signal.SIGINT, before)
    assert renderer.render("plain", "b", [{}]) == ["b"]
    renderer.close()


def test_threads_and_forks_get_their_own_answers():
    results = {}

    def ask(number: int) -> None:
        results[number] = rendered("plain", f"{number % 5}-{{{{ n }}}}", [{"n": number + i} for i in range(40)])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == {n: [f"{n % 5}-{n + i}" for i in range(40)] for n in range(12)}
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writer, rendered("plain", "forked {{ n }}", [{"n": 1}])[0].encode())
            templates._RENDERER.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"forked 1"
    assert rendered("plain", "here", [{}]) == ["here"]
    os.close(reader)
    os.close(writer)


def test_more_templates_than_a_child_keeps_are_rendered():
    assert [rendered("plain", f"{n}{{{{ x }}}}", [{"x": n}])[0] for n in range(150)] == [f"{n}{n}" for n in range(150)]


def test_the_rendering_stays_when_another_folder_holds_modules_of_the_same_names(tmp_path):
    for name in ("jinja2", "json", "types"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    code = "from opsd_core.bounded.templates import rendered; print(rendered('plain', '{{ x }}', [{'x': 4}])[0])"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "4\n", done.stderr


@pytest.mark.parametrize("program", ["", "import os; os.abort()", "import sys; sys.stdin.readline(); print('[1', end='')"])
def test_a_child_that_dies_is_told_from_an_answer(program):
    child = Child([sys.executable, "-c", program], dict(os.environ))
    child.start()
    with pytest.raises(EndedError, match="its process ended"):
        child.ask("{}", 60)
    assert not child.alive


def test_a_child_that_writes_without_end_is_stopped():
    child = Child([sys.executable, "-c", "while True: print('a' * 9999, end='')"], dict(os.environ), max_answer=1 << 20)
    child.start()
    with pytest.raises(EndedError, match="longer than 1,048,576 bytes"):
        child.ask("{}", 60)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(alphabet="{}%#|()[].*~'\" 09abmessages-+/\n", max_size=40), st.booleans())
def test_any_text_renders_or_gives_an_error_of_opsd(template, chat):
    try:
        if chat:
            ids_of(TOKENIZER, "12", "{{" + template)
        else:
            render("prompts.student", "{%" + template, {"question": "x"})
    except OpsdError as error:
        assert "model.chat_template" in str(error) or "prompts.student" in str(error)


def test_an_error_of_a_template_is_short_whatever_it_says():
    with pytest.raises(RenderError) as caught:
        rendered("chat", "{{ raise_exception('x' * 5000000) }}", [{"messages": []}])
    assert len(str(caught.value)) < 1000
    assert json.dumps(str(caught.value))

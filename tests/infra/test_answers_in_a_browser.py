"""pytest tests/infra/test_answers_in_a_browser.py — the page of answers in Chromium: from a disk, and in a sandboxed frame."""

import html
import json

import pytest

from opsd_core.answers import Answers, Side, render
from tests.core.answers.made import HOSTILE, examples, outcomes, sampled
from tests.infra import browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.program() is None, reason=browser.MISSING),
]
CARDS = "document.querySelectorAll('.item').length"
FRAME = '<!doctype html><meta charset="utf-8"><iframe sandbox="allow-scripts" srcdoc="{}"></iframe>'


@pytest.fixture(scope="module")
def tab():
    with browser.browsing("--disable-features=IsolateSandboxedIframes") as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    right = {"a": {0, 1, 2}, "b": {1, *range(9, 30)}}
    text = "says {0}: " + HOSTILE.replace("{", "(")
    answers = Answers(
        HOSTILE,
        examples(40, "=1+1", "{0} is asked " + HOSTILE),
        [Side(name, outcomes(40, places, text=text)) for name, places in right.items()],
        verdict="promoted",
        sentences=[HOSTILE],
        alarms=[HOSTILE],
        facts=[(HOSTILE, HOSTILE)],
        links=[("run", "https://example.org/#x")],
        sampled=sampled(30),
    )
    path = tmp_path_factory.mktemp("page") / "answers.html"
    path.write_text(render(answers), encoding="utf-8")
    return path


def _opened(tab, page):
    tab.open(page.as_uri())
    tab.wait_for(f"{CARDS} > 0")


def test_no_text_runs_and_hidden_signs_are_seen(tab, page):
    _opened(tab, page)
    assert tab.run("window.hurt") is None
    assert tab.run("document.querySelectorAll('img, iframe, main script').length") == 0
    assert "U+202E" in tab.text() and "U+0000" in tab.text() and "</script><script>window.hurt=1" in tab.text()
    tab.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hurt=2\">')")
    tab.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hurt=3'}))")
    tab.run("new Promise(done => setTimeout(done, 500))")
    assert tab.run("window.hurt") is None  # the policy holds even where the escaping would not


def test_buttons_and_search_choose_answers(tab, page):
    _opened(tab, page)
    labels = tab.run("[...document.querySelectorAll('#kinds button')].map(b => b.textContent).join('|')")
    assert labels == "all 40|wrong→right 21|right→wrong 2|right→right 1|wrong→wrong 16"
    tab.run("document.querySelector('[data-kind=\"right→wrong\"]').click()")
    assert tab.run(CARDS) == 2 and tab.run("document.getElementById('count').textContent") == "2 shown here"
    tab.run("document.querySelector('[data-kind=\"\"]').click()")
    type_in = "const s = document.getElementById('search'); s.value = {}; s.dispatchEvent(new Event('input'))"
    tab.run("(() => {" + type_in.format(json.dumps("SAYS 17:")) + "})()")
    assert tab.run(CARDS) == 1 and tab.run("document.querySelector('mark').textContent") == "says 17:"
    tab.run("(() => {" + type_in.format(json.dumps("<script>")) + "})()")
    assert tab.run(CARDS) == 8 and tab.run("document.getElementById('pages').textContent") == "previouspage 1 of 5next"


def test_a_token_shows_what_both_sides_find_likeliest(tab, page):
    _opened(tab, page)
    tab.run("document.querySelector('.tokens span').dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))")
    shown = tab.run("document.getElementById('tip').innerText")
    assert "log T − log S" in shown and "student's likeliest" in shown and "teacher's likeliest" in shown
    assert shown.count("%") == 8
    tab.run("document.querySelector('[data-state=\"dropped: too_long\"]').click()")
    assert tab.run(
        "[...document.querySelectorAll('.completion')].every(c => c.textContent.includes('dropped: too_long'))"
    )
    assert tab.run("document.querySelectorAll('.privileged').length") == 6
    assert tab.run("getComputedStyle(document.querySelector('.tokens span')).backgroundColor").startswith("rgba")


def test_the_table_is_safe_in_a_spreadsheet(tab, page):
    _opened(tab, page)
    text = tab.run("csv(visible())")
    assert text.startswith('"id","question","reference","a: right"') and len(text.split("\r\n")) == 42
    assert '"\'=1+1"' in text and '"=1+1"' not in text


def test_in_mlflows_sandbox_everything_works_and_the_table_can_be_copied(tab, page):
    """MLflow shows pages in a frame that may run scripts, and neither store, download nor open anything."""
    framed = page.with_name("framed.html")
    framed.write_text(FRAME.format(html.escape(page.read_text(encoding="utf-8"))), encoding="utf-8")
    tab.open(framed.as_uri())
    frame = tab.call("Page.getFrameTree")["frameTree"]["childFrames"][0]["frame"]["id"]
    world = tab.call("Page.createIsolatedWorld", frameId=frame)["executionContextId"]

    def inside(script):
        return tab.call("Runtime.evaluate", expression=script, contextId=world, returnByValue=True)["result"].get(
            "value"
        )

    assert inside(CARDS) == 8
    inside("document.querySelector('[data-kind=\"right→wrong\"]').click()")
    assert inside(CARDS) == 2
    inside("document.getElementById('csv').click()")
    assert len(inside("document.querySelector('textarea').value").split("\n")) == 4
    inside("document.querySelector('.tokens span').dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))")
    assert "teacher's likeliest" in inside("document.getElementById('tip').innerText")
    assert inside("document.querySelectorAll('#slicetable tr').length") > 5


def test_a_studys_arms_are_chosen_one_by_one_or_all_stand_side_by_side(tab, tmp_path):
    sides = [Side(name, outcomes(12, set(range(k)))) for name, k in (("base", 4), ("opsd", 9), ("sft", 2))]
    path = tmp_path / "study.html"
    path.write_text(render(Answers("study", examples(12), sides)), encoding="utf-8")
    _opened(tab, path)
    buttons = "[...document.querySelectorAll('#kinds button')].map(b => b.textContent).join('|')"
    assert tab.run(buttons) == "all 12|wrong→right 5|right→wrong 0|right→right 4|wrong→wrong 3"
    choose = "document.getElementById('side').value = '2'; document.getElementById('side').dispatchEvent(new Event('change'))"
    tab.run(choose)
    assert tab.run(buttons) == "all 12|wrong→right 0|right→wrong 2|right→right 2|wrong→wrong 8"
    assert tab.run("document.querySelectorAll('.item')[0].querySelectorAll('.side').length") == 2
    tab.run("document.getElementById('every').click()")
    assert tab.run("document.querySelectorAll('.item')[0].querySelectorAll('.side').length") == 3

"""pytest tests/core/study/test_page.py — the page shows every text as it was given, whatever it holds, and loads nothing."""

import base64
from html.parser import HTMLParser

import pytest

from opsd_core.study.page import ExamplePair, Part, Table, page

HOSTILE = "<script>alert('1')</script> & \"q\" {{ 7 * 7 }} {% raw %} </pre></td> \u2028 ü"


class Reader(HTMLParser):
    """What a browser would make of it: tags, and texts by the innermost tag."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data))


def read(*parts, title="t", subtitle="s", footer="f"):
    reader = Reader(page(title, subtitle, parts, footer))
    assert reader.open == []
    return reader


@pytest.mark.parametrize(
    ("where", "inside"),
    [
        ({"title": HOSTILE}, "h1"),
        ({"subtitle": HOSTILE}, "p"),
        ({"footer": HOSTILE}, "p"),
        (Part(HOSTILE), "h2"),
        (Part("x", [HOSTILE]), "p"),
        (Part("x", table=Table([HOSTILE], [])), "th"),
        (Part("x", table=Table(["a"], [[HOSTILE]])), "td"),
        (Part("x", examples=[ExamplePair(HOSTILE, "1", "1", True, "1", True)]), "pre"),
        (Part("x", examples=[ExamplePair("1", HOSTILE, "1", True, "1", True)]), "td"),
        (Part("x", examples=[ExamplePair("1", "1", HOSTILE, True, "1", True)]), "pre"),
        (Part("x", examples=[ExamplePair("1", "1", "1", True, HOSTILE, True)]), "pre"),
    ],
)
def test_no_text_becomes_markup_wherever_it_stands(where, inside):
    reader = read(where) if isinstance(where, Part) else read(**where)
    assert (inside, HOSTILE) in reader.texts
    assert not {"script", "link", "iframe"} & {tag for tag, _ in reader.tags}


def test_figures_stand_in_the_page():
    pixels = bytes(range(256))
    (image,) = (attributes for tag, attributes in read(Part("x", figures=[(HOSTILE, pixels)])).tags if tag == "img")
    assert image["alt"] == HOSTILE
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == pixels


def test_cells_show_numbers_for_readers_and_marked_rows_stand_out():
    rows = [[None, 0.12345, 12.345, 12345.6], [1, "text", -0.5, True]]
    reader = read(Part("x", table=Table(["a", "b", "c", "d"], rows, [False, True])))
    cells = [text for tag, text in reader.texts if tag == "td"]
    assert cells == ["–", "0.123", "12.3", "12,346", "1", "text", "-0.500", "True"]
    assert [attributes for tag, attributes in reader.tags if tag == "tr"] == [{}, {}, {"class": "outside"}]


def test_examples_are_coloured_by_right_and_wrong():
    reader = read(Part("x", examples=[ExamplePair("q", "a", "b", False, "c", True)]))
    assert [a["class"] for tag, a in reader.tags if tag == "td" and a] == ["wrong", "right"]

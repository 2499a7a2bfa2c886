"""pytest tests/core/graders/test_python.py — a function of the user's judges, and is checked before anything else is done."""

import pytest

from opsd_core.bounded import functions
from opsd_core.config import DataConfig, resolve
from opsd_core.data.examples import make_example
from opsd_core.errors import ConfigError, DataError
from opsd_core.graders import check_gradable, get_grader, grader_identity, grader_kind, grader_name

ITEM = make_example("2+3?", "5")
SUM = "def judge(text, item):\n    return item['answer'] in text\n"


def data(place):
    return DataConfig(source="rows.jsonl", grader="python", grader_function=str(place))


def written(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return f"{folder / name}:judge"


def graded(place, text, item=ITEM):
    return get_grader(grader_name(data(place)))(item, text)


def test_a_function_judges_by_yes_and_no_or_by_a_score(tmp_path):
    place = written(tmp_path, SUM)
    right, wrong = graded(place, "it is 5"), graded(place, "it is 6")
    assert (right.correct, right.score, right.extracted) == (True, 1.0, "5") and (wrong.correct, wrong.score) == (False, 0.0)
    half = written(tmp_path, "def judge(text, item):\n    return len(text) / 10\n", "half.py")
    assert (graded(half, "12345").correct, graded(half, "12345").score) == (False, 0.5) and graded(half, "x" * 10).correct
    numpy = written(tmp_path, "import numpy\ndef judge(text, item):\n    return numpy.float32(1) > numpy.float32(0)\n", "np.py")
    assert graded(numpy, "").correct


def test_it_sees_the_whole_item_and_what_it_prints_disturbs_nobody(tmp_path):
    code = "import sys\ndef judge(text, item):\n    print('noise'); sys.stdin.read()\n    return sorted(item) == {keys!r}\n"
    place = written(tmp_path, code.format(keys=["answer", "id", "metadata", "question", "solution"]))
    assert graded(place, "").correct


def test_an_installed_module_and_a_neighbour_of_a_file_are_found(tmp_path, monkeypatch):
    package = tmp_path / "lib" / "opsd_test_pkg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    code = "from .words import WORD\nclass Judge:\n    @staticmethod\n    def judge(text, item):\n        return WORD in text\n"
    written(package, code)
    (package / "words.py").write_text("WORD = 'yes'\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    place = "opsd_test_pkg.mine:Judge.judge"
    assert graded(place, "yes").correct and not graded(place, "no").correct
    before = grader_identity(data(place))
    (package / "words.py").write_text("WORD = 'no'\n")
    assert grader_identity(data(place)) != before and graded(place, "no").correct
    beside = written(tmp_path, "from other import word\ndef judge(text, item):\n    return text == word\n")
    (tmp_path / "other.py").write_text("word = 'w'\n")
    assert graded(beside, "w").correct


def test_its_content_is_its_identity_wherever_it_lies(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, same = written(tmp_path / "a", SUM), written(tmp_path / "b", SUM)
    before = grader_identity(data(one))
    assert before == grader_identity(data(same))
    written(tmp_path / "a", SUM.replace("in text", "== text"))
    assert grader_identity(data(one)) != before and not graded(one, "it is 5").correct
    written(tmp_path / "a", SUM)
    assert grader_identity(data(one)) == before and graded(one, "it is 5").correct


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("def judge(text):\n    return True\n", "cannot be called as judge\\(text, item\\)"),
        ("judge = 3\n", "no function but a int"),
        ("other = 3\n", "has no judge"),
        ("import absent_package_of_nobody\n", "ModuleNotFoundError.*absent_package_of_nobody"),
        ("def judge(text, item)\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("async def judge(text, item):\n    return True\n", "no plain function"),
        ("def judge(text, item):\n    yield True\n", "no plain function"),
        ("import os\nos._exit(3)\n", "its process ended"),
    ],
)
def test_what_cannot_be_called_is_refused_by_field_before_any_item(tmp_path, code, why):
    place = written(tmp_path, code)
    name = grader_name(data(place))
    for ask in (lambda: check_gradable([ITEM], name), lambda: get_grader(name)(ITEM, ""), lambda: grader_identity(data(place))):
        with pytest.raises(ConfigError, match=f"(?s)data\\.grader_function=.*cannot be used.*{why}"):
            ask()


@pytest.mark.parametrize("place", ["opsd_nobody_has_this:judge", "/nowhere/at/all.py:judge"])
def test_a_place_where_nothing_is_is_refused_by_field(place):
    with pytest.raises(ConfigError, match=r"data\.grader_function=.*cannot be used: .*(No module|no file)"):
        check_gradable([ITEM], grader_name(data(place)))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("1 / 0", "raised ZeroDivisionError"),
        ("item['tests']", "raised KeyError"),
        ("float('nan')", "returned nan"),
        ("1.5", "returned 1.5"),
        ("-1", "returned -1"),
        ("None", "returned None"),
        ("'yes'", "returned 'yes'"),
        ("[True]", "returned \\[True\\]"),
        ("object()", "returned what no file can hold, object"),
    ],
)
def test_what_is_no_grade_is_refused_with_the_item_and_the_field_then_and_later(tmp_path, body, why):
    name = grader_name(data(written(tmp_path, f"def judge(text, item):\n    return {body}\n")))
    with pytest.raises(DataError, match=f"cannot judge 1 of 1 items.*{ITEM.id}.*data\\.grader_function {why}"):
        check_gradable([ITEM], name)
    with pytest.raises(DataError, match=f"data\\.grader_function {why}.*item {ITEM.id}.*the completion 'words'"):
        get_grader(name)(ITEM, "words")


def test_a_call_that_never_ends_is_refused_beforehand_and_later_wrong_with_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(functions, "CPU_SECONDS", 1)
    place = written(tmp_path, "def judge(text, item):\n    while text == 'loop':\n        pass\n    return True\n")
    name = grader_name(data(place))
    with pytest.raises(DataError, match="took more than 1 s of processor time"):
        check_gradable([make_example("q", "loop")], name)
    stuck = get_grader(name)(ITEM, "loop")
    assert not stuck.correct and "processor time" in stuck.note
    assert get_grader(name)(ITEM, "on").correct, "the next one is judged by a new process"


def test_the_function_gets_no_password(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    place = written(tmp_path, "import os\ndef judge(text, item):\n    return 'AWS_SECRET_ACCESS_KEY' not in os.environ\n")
    assert graded(place, "").correct


def test_the_setting_names_a_function_and_is_there_when_it_is_needed():
    with pytest.raises(ConfigError, match=r"data\.grader=python without data\.grader_function"):
        resolve("tiny", {"data": {"grader": "python"}})
    for place in ("judge", "a b:judge", "mine.py", "mine.py:", "pkg.:f", "mine:f()"):
        with pytest.raises(ConfigError, match=r"grader_function.*names no function"):
            resolve("tiny", {"data": {"grader": "python", "grader_function": place}})
    with pytest.raises(ConfigError, match=r"data\.grader=python needs data\.grader_function"):
        get_grader("python")
    assert grader_kind(grader_name(data("a.b:c"))).judges

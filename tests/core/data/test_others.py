"""pytest tests/core/data/test_others.py — columns that are asked for by name: found in every format, refused by name."""

import json
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from opsd_core.answers import Side
from opsd_core.answers.sides import items_of
from opsd_core.answers.slices import slice_table, slices_of
from opsd_core.config import DataConfig, EvaluationConfig
from opsd_core.data import load_examples
from opsd_core.data.others import check_columns, columns_of
from opsd_core.errors import DataError
from opsd_core.graders.readable import check_readable
from tests.core.answers.made import outcomes

ROWS = [
    {"question": f"{i}+1?", "answer": str(i + 1), "level": i % 3, "id": f"row {i}", "kind": "of " + "a" * 80 + "bc"[i % 2],
     "meta": {"topic": ["sums", "more sums"][i % 2]}, **{f"filler{k}": "x" for k in range(20)}, "late": ["p", "q"][i % 2]}
    for i in range(80)
]  # fmt: skip


def written(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif ending == "csv":
        rows = [row | {"meta": json.dumps(row["meta"]).replace('"', '""')} for row in ROWS]
        path.write_text("\n".join([",".join(rows[0]), *(",".join(f'"{v}"' for v in row.values()) for row in rows)]) + "\n")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


def config(path, **more):
    return DataConfig(source=str(path), validation_fraction=0.5, test_fraction=0.0, **more)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_named_column_becomes_slices_from_every_format(tmp_path, ending):
    """One beyond the sixteenth, one with long texts, one inside another: without its name none of them is kept."""
    wanted = ("meta.topic", "kind", "late", "level")
    held = load_examples(config(written(tmp_path, ending)), also=wanted).validation
    check_columns(wanted, held, "rows")
    once = outcomes(1, {0})[0]
    sides = [Side(name, [replace(once, example_id=e.id) for e in held]) for name in ("a", "b")]
    rows = slices_of(items_of(held, sides), columns=wanted)
    assert [name for name in dict.fromkeys(row["dimension"] for row in rows) if name.startswith("column")] == [
        f"column {name}" for name in wanted
    ]
    plain = load_examples(config(written(tmp_path, ending))).validation
    assert not {"meta.topic", "kind", "late"} & set(columns_of(plain[0]))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("name", ["levle", "meta.topics", "meta", "none[0]", "Level"])
def test_a_column_that_no_item_has_is_refused_by_name_before_anything_is_loaded(tmp_path, ending, name):
    if ending == "csv" and name == "meta":
        pytest.skip("in a CSV file it is a text")
    with pytest.raises(DataError, match=r"evaluation\.slices names") as refused:
        check_readable(config(written(tmp_path, ending)), slices=("level", name))
    assert repr(name.partition("[")[0] if ending == "parquet" else name) in str(refused.value) and "'level'" in str(refused.value)
    assert ("Did you mean 'level'?" in str(refused.value)) >= (name == "levle")


def test_a_generated_items_own_values_can_be_named():
    data = load_examples(DataConfig(source="reasoning_gym:number_sorting", size=40, validation_fraction=0.5))
    named = next(iter(columns_of(data.validation[0])))
    check_columns([named], data.validation, "reasoning_gym:number_sorting")
    with pytest.raises(DataError, match="'nothing', of which no held-out item"):
        check_columns(["nothing"], data.validation, "reasoning_gym:number_sorting")


@pytest.mark.parametrize("value", [["a", "a"], [""], "level", ["a\nb"], [3], [f"c{k}" for k in range(25)], ["x" * 201]])
def test_names_that_are_none_are_refused_by_the_configuration(value):
    with pytest.raises(ValidationError):
        EvaluationConfig(slices=value)
    assert EvaluationConfig(slices=["level", "meta.topic"]).slices == ("level", "meta.topic")


def test_the_table_says_what_falls_first_and_which_column_divides_nothing(tmp_path):
    held = load_examples(config(written(tmp_path, "jsonl")), also=("id", "level")).validation
    once, right = outcomes(1, {0})[0], {e.id: columns_of(e)["level"] == 0.0 for e in held}
    rows = {e.id: replace(once, example_id=e.id) for e in held}
    before = [replace(row, correct=right[key]) for key, row in rows.items()]
    after = [replace(row, correct=not right[key]) for key, row in rows.items()]
    found = slices_of(items_of(held, [Side("a", before), Side("b", after)]), columns=("id", "level"))
    lines = slice_table(found, ("id", "level"), most=2)
    assert lines[5].startswith("| column level = 0 |") and "**falls**" in lines[5] and "100.0 % [" in lines[5]
    assert len([line for line in lines if line.startswith("| ")]) == 3
    assert "evaluation.slices: id divides nothing" in lines[-1] and f"{len(found)} slices, of which 2 are shown" in lines[-1]
    assert slice_table([]) == []

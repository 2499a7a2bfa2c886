"""pytest tests/core/records/test_many.py — many records: read by pieces, found by key, kept on disk, added up exactly."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opsd_core.errors import IntegrityError
from opsd_core.records.examples import Example, StoredExamples, by_id, read_examples, write_examples
from opsd_core.records.grades import GradedRollout, Grades, read_grades, write_grades
from opsd_core.records.keys import ByKey, Keys
from opsd_core.records.rollouts import (
    _SCHEMA,
    Rollout,
    StoredRollouts,
    _columns,
    read_rollouts,
    spooled_rollouts,
    write_rollouts,
)
from opsd_core.records.spool import IDS, Spooled
from opsd_core.records.stored import Chosen
from opsd_core.records.sums import histogram, mean_of_parts, means_along
from opsd_core.records.tables import ROWS_PER_GROUP, write_table
from opsd_core.records.targets import TARGETS, StoredTargets, Target, read_targets, write_targets


def rollouts(number, prefix="", entries=3):
    """Completions of 1 to 6 tokens, two of a prompt, every fifth a reference."""
    draw = np.random.default_rng(number)
    made = []
    for row in range(number):
        length = int(draw.integers(1, 7))
        columns = [draw.normal(size=length).astype(np.float32) for _ in range(4)]
        ids = draw.integers(0, 99, (length, entries)).astype(np.int32)
        top = draw.normal(size=(length, entries)).astype(np.float32)
        source = "reference" if row % 5 == 4 else "policy"
        made.append(
            Rollout(
                f"{prefix}{row // 2:04x}", row % 2, row, [1, row], draw.integers(0, 99, length).tolist(), f"ä{row}", "eos",
                columns[0], columns[1], ids, top, columns[2], columns[3], source,
            )
        )  # fmt: skip
    return made


def same(a, b):
    pairs = zip(vars(a).values(), vars(b).values(), strict=True)
    return all(np.array_equal(x, y) and x.shape == y.shape if isinstance(x, np.ndarray) else x == y for x, y in pairs)


@pytest.fixture
def shards(tmp_path):
    made = [rollouts(3 * ROWS_PER_GROUP + 7, "a"), rollouts(5, "b"), rollouts(0), rollouts(ROWS_PER_GROUP, "c")]
    paths = [tmp_path / f"{number}.parquet" for number in range(len(made))]
    for path, part in zip(paths, made, strict=True):
        write_rollouts(path, iter(part))
    return paths, [rollout for part in made for rollout in part]


def test_stored_rollouts_are_the_rollouts_in_any_order_and_by_number(shards):
    paths, made = shards
    stored = StoredRollouts(paths)
    assert len(stored) == len(made) and all(same(a, b) for a, b in zip(made, stored, strict=True))
    for number in (0, 255, 256, 774, 775, 779, 780, -1, len(made) - 1, 3):
        assert same(stored[number], made[number])
    assert all(same(a, b) for a, b in zip(stored[250:260], made[250:260], strict=True))
    with pytest.raises(IndexError):
        stored[len(made)]
    assert stored.lengths().tolist() == [len(r.completion_ids) for r in made]
    assert list(stored.keys()) == [r.key for r in made]
    flat = np.concatenate([r.entropy_T for r in made])
    assert np.array_equal(np.concatenate(list(stored.entropies())), flat)


def test_light_ones_lack_the_top_entries_alone(shards):
    paths, made = shards
    for found, rollout in zip(StoredRollouts(paths).light, made, strict=True):
        none = {"topk_ids_TK": np.empty((len(rollout.completion_ids), 0), np.int32)}
        none["topk_logprobs_TK"] = none["topk_ids_TK"].astype(np.float32)
        assert same(found, replace(rollout, **none))


def test_those_of_one_source_are_found_in_turn_or_one_by_one(shards):
    paths, made = shards
    wanted = [r for r in made if r.source == "reference"]
    found = StoredRollouts(paths).of("reference")
    assert all(same(a, b) for a, b in zip(found, wanted, strict=True)) and same(found[3], wanted[3])
    few = Chosen(made, np.array([2, 700]))
    assert [r.key for r in few] == [made[2].key, made[700].key]


def test_a_file_of_one_large_row_group_is_read_as_before(shards, tmp_path):
    paths, _ = shards
    old = tmp_path / "old.parquet"
    pq.write_table(pq.read_table(paths[0]), old, compression="zstd")
    assert pq.read_metadata(old).num_row_groups == 1 and pq.read_metadata(paths[0]).num_row_groups == 4
    assert all(same(a, b) for a, b in zip(StoredRollouts([old]), read_rollouts(paths[0]), strict=True))
    assert same(StoredRollouts([old])[600], StoredRollouts(paths)[600])


def test_files_of_few_rows_have_the_bytes_that_they_always_had(tmp_path):
    few = rollouts(ROWS_PER_GROUP)
    write_rollouts(tmp_path / "new.parquet", few)
    write_table(tmp_path / "old.parquet", _columns(few), _SCHEMA)
    assert (tmp_path / "new.parquet").read_bytes() == (tmp_path / "old.parquet").read_bytes()
    write_rollouts(tmp_path / "none.parquet", [])
    assert read_rollouts(tmp_path / "none.parquet") == [] and len(StoredRollouts([tmp_path / "none.parquet"])) == 0


def test_a_damaged_file_is_refused_by_whoever_reads_it(shards, tmp_path):
    paths, _ = shards
    table = pq.read_table(paths[1])
    field = table.schema.field("entropy")
    shorter = table.set_column(table.schema.get_field_index("entropy"), field, [pa.array([[0.0] * 9] * 5, field.type)])
    pq.write_table(shorter, tmp_path / "bad.parquet")
    stored = StoredRollouts([tmp_path / "bad.parquet"])
    one_entry = pa.array([[1]] * 5, pa.list_(pa.int32()))
    pq.write_table(table.set_column(9, table.schema.field(9), [one_entry]), tmp_path / "k.parquet")
    with pytest.raises(IntegrityError, match="unequal length"):
        StoredRollouts([tmp_path / "k.parquet"])[2]
    for read in (lambda: list(stored), lambda: stored[0], lambda: stored.light[4]):
        with pytest.raises(IntegrityError, match="unequal length"):
            read()
    with pytest.raises(IntegrityError, match="schema b'rollouts'"):
        StoredTargets(paths)
    (tmp_path / "bad.parquet").write_bytes(paths[1].read_bytes()[:300])
    with pytest.raises(IntegrityError, match="not a readable Parquet"):
        StoredRollouts([tmp_path / "bad.parquet"])


def targets_of(made, layout=()):
    zeros = [np.zeros(len(r.completion_ids), np.float32) for r in made]
    return [
        Target(*r.key, 4, r.topk_ids_TK, r.topk_logprobs_TK, none_T, r.logprobs_T, r.entropy_T, layout)
        for r, none_T in zip(made, zeros, strict=True)
    ]


@pytest.mark.parametrize("layout", [(), (7, -1)])
def test_targets_are_found_by_key_whether_end_tokens_are_merged_or_not(tmp_path, layout):
    made = targets_of(rollouts(700), layout)
    write_targets(tmp_path / "t.parquet", made)
    assert all(same(a, b) for a, b in zip(read_targets(tmp_path / "t.parquet"), made, strict=True))
    found = StoredTargets([tmp_path / "t.parquet"]).by_key()
    assert same(found[made[300].key], made[300]) and ("zz", 0) not in found and len(found) == len(made)
    spooled = Spooled(len(made), TARGETS, tmp_path)
    for number in reversed(range(len(made))):
        spooled[number] = made[number]
    assert all(same(a, b) for a, b in zip(spooled, made, strict=True))


def test_what_is_spooled_comes_back_and_leaves_no_file(tmp_path):
    made = rollouts(300)
    spooled = spooled_rollouts(made, tmp_path)
    assert all(same(a, b) for a, b in zip(spooled, made, strict=True)) and not list(tmp_path.iterdir())
    ids = Spooled(2, IDS, tmp_path)
    ids[1] = [5, 6]
    assert ids[1] == [5, 6]
    with pytest.raises(IndexError, match="record 0 of 2"):
        ids[0]


def test_keys_sort_as_pairs_do_and_are_found_whatever_their_length():
    names = ["", "a", "ab", "b", "é", "zz", "a\U0001f600", "0123456789abcdef0"]
    pairs = [(name, number) for name in names for number in (0, 1, 255, 256, 70_000, 2**31 - 1)]
    shuffled = [pairs[place] for place in np.random.default_rng(0).permutation(len(pairs))]
    keys = Keys.of(shuffled)
    assert list(keys) == shuffled and [keys[int(place)] for place in keys.order] == sorted(pairs)
    assert [keys.find(key) for key in shuffled] == list(range(len(pairs)))
    assert keys.find(("a", 2)) == keys.find(("much longer than any other name", 0)) == -1
    others = Keys.of([("b", 0), ("nobody", 3), ("é", 256)])
    assert others.places_in(keys).tolist() == [shuffled.index(("b", 0)), -1, shuffled.index(("é", 256))]
    assert keys.places_in(Keys.of([])).tolist() == [-1] * len(pairs) and Keys.of([]).find(("a", 0)) == -1
    assert len(Keys.of([]).places_in(keys)) == 0 and Keys.of([]).grouped
    assert Keys.of(sorted(pairs)).grouped and not Keys.of([("a", 0), ("b", 0), ("a", 1)]).grouped


def test_a_mapping_by_key_says_nothing_of_those_that_it_leaves_out():
    found = ByKey(Keys.of([("a", 0), ("b", 0)]), lambda number: number * 10, np.array([False, True]))
    assert dict(found) == {("b", 0): 10} and ("a", 0) not in found and len(found) == 1


def test_grades_are_as_exact_as_they_come_and_stored_as_ever(tmp_path):
    rows = [GradedRollout(f"{n:x}", n % 3, [True, False, None][n % 3], n / 7, None, n % 2 > 0, "", n / 3) for n in range(9000)]
    grades = Grades.of(iter(rows))
    assert grades == rows and grades[7] == rows[7] and grades[-2:] == rows[-2:]
    write_grades(tmp_path / "columns.parquet", grades)
    write_grades(tmp_path / "rows.parquet", rows)
    assert (tmp_path / "columns.parquet").read_bytes() == (tmp_path / "rows.parquet").read_bytes()
    assert Grades.read(tmp_path / "rows.parquet") == read_grades(tmp_path / "columns.parquet")
    assert grades.by_key()[rows[8].key] == rows[8] and grades.correct()[rows[4].key] is False


def test_examples_are_read_by_place_and_by_id(tmp_path):
    made = [Example(f"{n:016x}", f"q{n}", str(n), "", {"n": n}) for n in range(2500)]
    write_examples(tmp_path / "a.parquet", iter(made[:2000]))
    write_examples(tmp_path / "b.parquet", made[2000:])
    stored = StoredExamples([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert list(stored) == made and stored[2100] == made[2100] and stored[-1] == made[-1]
    assert read_examples(tmp_path / "a.parquet") == made[:2000]
    for known in (by_id(stored), by_id(made)):
        assert known[made[1234].id] == made[1234] and "nobody" not in known and len(known) == 2500


@pytest.mark.parametrize("size", [1, 7, 129, 65_536, 65_537, 131_077, 1_000_003, 2_200_017])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_of_parts_has_every_bit_of_numpys(size, dtype):
    draw = np.random.default_rng(size)
    values = (3 * draw.random(size)).astype(dtype)
    parts = np.split(values, np.sort(draw.integers(0, size + 1, 40)))
    assert mean_of_parts(parts, size) == float(values.mean())


def test_a_histogram_of_parts_is_numpys():
    values = np.random.default_rng(0).gamma(1.0, size=5000).astype(np.float32)
    counts, edges = histogram(lambda: iter(np.split(values, [0, 17, 4000])), 40)
    expected = np.histogram(values, 40)
    assert np.array_equal(counts, expected[0]) and np.array_equal(edges, expected[1])
    assert histogram(lambda: iter([]), 4)[0].tolist() == [0] * 4


def test_means_along_positions_stop_where_few_rows_reach():
    rows = [np.full(3, n, np.float32) for n in range(20)] + [np.arange(9, dtype=np.float32)]
    assert means_along(rows) == [round(190 / 21, 5), round(191 / 21, 5), round(192 / 21, 5)]
    assert means_along(iter(rows[-1:])) == [float(n) for n in range(9)] and means_along([]) == []
    assert all(a <= b for a, b in pairwise(means_along(rows[-1:])))

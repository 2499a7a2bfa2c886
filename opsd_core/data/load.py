"""`load_examples`: from a source's name to three disjoint, deduplicated splits and the account of every row.

`load_items` makes no splits.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from opsd_core.config import ColumnMapping, DataConfig
from opsd_core.data.clean import Cleaned, clean_rows
from opsd_core.data.columns import columns_in_force
from opsd_core.data.files import reader
from opsd_core.data.places import heads
from opsd_core.data.records import (
    MAX_LISTED,
    Asked,
    DataReport,
    Fetch,
    LoadedData,
    Opened,
    RawRow,
    require_columns,
    split_digest,
)
from opsd_core.data.splits import question_key, split_examples
from opsd_core.errors import DataError
from opsd_core.records.examples import Example


def load_examples(config: DataConfig, fetch: Fetch | None = None, also: Sequence[str] = ()) -> LoadedData:
    """Examples of `config.source`, cleaned, without duplicates, split by content.

    Every row is read, or with `config.size` the first ones, and the others are counted; a generated source gives
    `config.num_generated` different items, or all it has. Raises DataError when the source cannot be read, lacks a mapped column,
    has more than `max_unusable_fraction` unusable rows, or leaves train or validation empty. `also`: columns to keep with the
    items (evaluation.slices).
    """
    asked = Asked(config, fetch, also=tuple(also))
    cleaned, columns, num_not_read = _read(asked)
    splits = split_examples(cleaned.examples, config.validation_fraction, config.test_fraction)
    _refuse_empty_splits(config, cleaned, splits)
    return LoadedData(**splits, report=_report(asked, columns, cleaned, num_not_read, splits))


def load_items(config: DataConfig, fetch: Fetch | None = None) -> list[Example]:
    """Examples of `config.source`, cleaned and without duplicates, by id, without splits. DataError as `load_examples`."""
    return sorted(_read(Asked(config, fetch))[0].examples, key=lambda example: example.id)


def _read(asked: Asked) -> tuple[Cleaned, ColumnMapping, int]:
    """The cleaned rows, the columns in force, and how many rows were not read."""
    config = asked.config
    opened = reader(config.kind.reader)(asked)
    columns = opened.columns or columns_in_force(asked, opened.shape)
    rows = opened.rows(columns)
    limited = config.size is not None and not config.kind.generated
    read, most = islice(rows, config.size) if limited else rows, config.max_unusable_fraction
    cleaned = clean_rows(read, columns, opened.labels_required, max_unusable_fraction=most, also=asked.also)
    num_not_read = _count_rest(rows, opened, cleaned.num_rows, asked) if limited else 0
    if cleaned.columns:
        require_columns(config.source, heads(columns.mapped, list(cleaned.columns)), list(cleaned.columns))
    _refuse_unusable(config, cleaned)
    return cleaned, columns, num_not_read


def _count_rest(rows: Iterator[RawRow], opened: Opened, num_read: int, asked: Asked) -> int:
    """Rows after the first data.size; a fault among them is said and does not stop the load."""
    if opened.num_rows is not None:
        return opened.num_rows - num_read
    number = 0
    try:
        for _ in rows:
            number += 1
    except DataError as error:
        asked.notes.append(f"at least {number} rows are not read; behind them: {error}"[:500])
    return number


def _refuse_unusable(config: DataConfig, cleaned: Cleaned) -> None:
    if cleaned.num_rows == 0:
        raise DataError(f"data.source={config.source} has no rows.")
    num_unusable = cleaned.reasons.total()
    share = num_unusable / cleaned.num_rows
    if share > config.max_unusable_fraction or not cleaned.examples:
        counts = "; ".join(f"{count} x {reason}" for reason, count in cleaned.reasons.most_common(5))
        first = "; ".join(f"{row.place}: {row.reason}"[:200] for row in cleaned.unusable[:3])
        raise DataError(
            f"data.source={config.source}: {num_unusable} of {cleaned.num_rows} rows ({share:.1%}) cannot be used, "
            f"more than data.max_unusable_fraction={config.max_unusable_fraction} allows. {counts}. First: {first}. "
            "Repair the rows, correct data.columns, or raise the limit."
        )


def _refuse_empty_splits(config: DataConfig, cleaned: Cleaned, splits: dict[str, list]) -> None:
    sizes = {name: len(examples) for name, examples in splits.items()}
    questions = {question_key(example) for example in cleaned.examples}
    if len(cleaned.examples) == 1:
        again = f", {cleaned.num_duplicates} times over" if cleaned.num_duplicates else ""
        raise DataError(
            f"data.source={config.source} holds one item{again} ({cleaned.examples[0].question!r:.80}); splits need several. "
            "Use more rows."
        )
    if len(questions) == 1:
        raise DataError(
            f"data.source={config.source}: all {len(cleaned.examples)} items ask the same question "
            f"({cleaned.examples[0].question!r:.80}). Is data.columns.question={config.columns.question!r} the right column?"
        )
    if sizes["train"] == 0 or sizes["validation"] == 0:
        raise DataError(
            f"data.source={config.source}: its {len(cleaned.examples)} different items leave a split empty: {sizes}. "
            "Use more rows (data.size) or other shares (data.validation_fraction, data.test_fraction)."
        )


def _report(
    asked: Asked, columns: ColumnMapping, cleaned: Cleaned, num_not_read: int, splits: dict[str, list]
) -> DataReport:
    config, notes = asked.config, list(dict.fromkeys(asked.notes))
    questions = Counter(map(question_key, cleaned.examples))
    notes += [f"{number} rows have {remark}" for remark, number in cleaned.remarks.items()]
    if config.kind.generated and len(cleaned.examples) < config.num_generated:
        notes.append(
            f"only {len(cleaned.examples)} different items exist or were found; data.size={config.num_generated}"
        )
    if config.test_fraction > 0 and not splits["test"]:
        notes.append(f"the test split is empty although data.test_fraction={config.test_fraction}")
    return DataReport(
        source=config.source,
        num_rows=cleaned.num_rows,
        num_not_read=num_not_read,
        num_examples=len(cleaned.examples),
        num_unusable=cleaned.reasons.total(),
        num_duplicates=cleaned.num_duplicates,
        num_unlabelled=sum(not example.answer for example in cleaned.examples),
        num_repeated_questions=sum(count for count in questions.values() if count > 1),
        reasons=dict(cleaned.reasons),
        unusable=tuple(cleaned.unusable[:MAX_LISTED]),
        sizes={name: len(examples) for name, examples in splits.items()},
        digests={name: split_digest(examples) for name, examples in splits.items()},
        notes=tuple(notes),
        columns=columns.model_dump(exclude={"preset"}),
    )

"""`load_examples`: from a source's name to three disjoint, deduplicated splits and the account of every row."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from opsd_core.config import ColumnMapping, DataConfig
from opsd_core.data.clean import Cleaned, clean_rows
from opsd_core.data.files import READERS, file_rows
from opsd_core.data.generated import COLUMNS, addition_rows, reasoning_gym_rows
from opsd_core.data.hub import hub_rows
from opsd_core.data.records import MAX_LISTED, DataReport, LoadedData, RawRow, require_columns, split_digest
from opsd_core.data.splits import question_key, split_examples
from opsd_core.errors import DataError

Fetch = Callable[[str], Path]
"""Downloads an s3:// object and returns the local file."""


def load_examples(config: DataConfig, fetch: Fetch | None = None) -> LoadedData:
    """Examples of `config.source`, cleaned, without duplicates, split by content.

    At most `config.size` rows are read from a file or the hub, the first ones; a generated source gives `config.size`
    different items, or all it has. Raises DataError when the source cannot be read, lacks a mapped column, has more
    than `max_unusable_fraction` unusable rows, or leaves train or validation empty.
    """
    rows, columns, labels_required = _rows(config, fetch)
    cleaned = clean_rows(rows, columns, labels_required)
    if cleaned.columns:
        require_columns(config.source, _needed(columns), list(cleaned.columns))
    _refuse_unusable(config, cleaned)
    splits = split_examples(cleaned.examples, config.validation_fraction, config.test_fraction)
    _refuse_empty_splits(config, cleaned, splits)
    return LoadedData(**splits, report=_report(config, cleaned, splits))


def _rows(config: DataConfig, fetch: Fetch | None) -> tuple[Iterator[RawRow], ColumnMapping, bool]:
    source = config.source
    if source.startswith("reasoning_gym:"):
        return reasoning_gym_rows(config), COLUMNS, False
    if source.startswith("tiny:"):
        if source != "tiny:addition":
            raise DataError(f"data.source={source} does not exist. The built-in task is tiny:addition.")
        return addition_rows(config), COLUMNS, True
    columns = config.columns
    needed = _needed(columns)
    if source.startswith("s3://"):
        if fetch is None:
            raise DataError(f"data.source={source} needs an object store, and none was given to load_examples (fetch).")
        rows = file_rows(fetch(source), Path(source).suffix.lower(), needed)
    elif _looks_local(source):
        rows = file_rows(Path(source), Path(source).suffix.lower(), needed)
    else:
        rows = hub_rows(config, needed)
    return islice(rows, config.size), columns, True


def _needed(columns: ColumnMapping) -> list[str]:
    return list(dict.fromkeys(name for name in (columns.question, columns.solution, columns.answer) if name))


def _looks_local(source: str) -> bool:
    path = Path(source)
    return path.suffix.lower() in READERS or path.exists() or source.startswith((".", "/", "~"))


def _refuse_unusable(config: DataConfig, cleaned: Cleaned) -> None:
    if cleaned.num_rows == 0:
        raise DataError(f"data.source={config.source} has no rows.")
    num_unusable = cleaned.reasons.total()
    share = num_unusable / cleaned.num_rows
    if share > config.max_unusable_fraction or not cleaned.examples:
        counts = "; ".join(f"{count} x {reason}" for reason, count in cleaned.reasons.most_common(5))
        first = "; ".join(f"row {row.index}: {row.reason}"[:200] for row in cleaned.unusable[:3])
        raise DataError(
            f"data.source={config.source}: {num_unusable} of {cleaned.num_rows} rows ({share:.1%}) cannot be used, "
            f"more than data.max_unusable_fraction={config.max_unusable_fraction} allows. {counts}. First: {first}. "
            "Repair the rows, correct data.columns, or raise the limit."
        )


def _refuse_empty_splits(config: DataConfig, cleaned: Cleaned, splits: dict[str, list]) -> None:
    sizes = {name: len(examples) for name, examples in splits.items()}
    if sizes["train"] == 0 or sizes["validation"] == 0:
        raise DataError(
            f"data.source={config.source}: its {len(cleaned.examples)} different items leave a split empty: {sizes}. "
            "Use more rows (data.size) or other shares (data.validation_fraction, data.test_fraction)."
        )


def _report(config: DataConfig, cleaned: Cleaned, splits: dict[str, list]) -> DataReport:
    questions = Counter(map(question_key, cleaned.examples))
    notes = []
    generated = config.source.startswith(("reasoning_gym:", "tiny:"))
    if generated and len(cleaned.examples) < config.size:
        notes.append(f"only {len(cleaned.examples)} different items exist or were found; data.size={config.size}")
    if config.test_fraction > 0 and not splits["test"]:
        notes.append(f"the test split is empty although data.test_fraction={config.test_fraction}")
    return DataReport(
        source=config.source,
        num_rows=cleaned.num_rows,
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
    )

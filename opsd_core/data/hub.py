"""Datasets from the Hugging Face hub."""

from collections.abc import Iterator

from opsd_core.config import DataConfig
from opsd_core.data.records import RawRow, require_columns
from opsd_core.errors import DataError


def hub_rows(config: DataConfig, needed: list[str]) -> Iterator[RawRow]:
    """Rows of hub dataset `source` (configuration `subset`, split `split`).

    Raises DataError when the hub cannot be reached, or has no such dataset, configuration, split or column.
    """
    import datasets

    try:
        dataset = datasets.load_dataset(config.source, config.subset, split=config.split)
    except Exception as error:  # hub, network, cache and builder errors have no common base
        raise DataError(_explain(config, error)) from error
    require_columns(config.source, needed, list(dataset.column_names))
    for index, values in enumerate(dataset.select_columns(needed)):
        yield RawRow(index, values)


def _explain(config: DataConfig, error: Exception) -> str:
    place = f"data.source={config.source}" + (f", data.subset={config.subset}" if config.subset else "")
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:500]
    return (
        f"{place}, data.split={config.split} cannot be loaded from the Hugging Face hub: {reason}. Either the hub "
        "cannot be reached from here (then use a local .jsonl/.csv/.parquet file, an s3:// object or "
        "reasoning_gym:<task>), or it has no dataset, subset or split of that name."
    )

"""Datasets from the Hugging Face hub."""

from collections.abc import Iterator

from opsd_core.config import ColumnMapping, DataConfig
from opsd_core.data.formats.parquet import schema_shape
from opsd_core.data.others import also_there
from opsd_core.data.places import heads
from opsd_core.data.records import Asked, Opened, RawRow, require_columns
from opsd_core.disk import hub_advice
from opsd_core.errors import DataError


def hub_dataset(asked: Asked) -> Opened:
    """The hub's dataset `source` (configuration `subset`, split `split`).

    Raises DataError when the hub cannot be reached, or has no such dataset, configuration, split or column.
    """
    import datasets

    config = asked.config
    try:
        dataset = datasets.load_dataset(config.source, config.subset, split=config.split)
    except Exception as error:  # hub, network, cache and builder errors have no common base
        raise DataError(_explain(config, error)) from error

    def rows(columns: ColumnMapping) -> Iterator[RawRow]:
        needed = heads(columns.mapped, dataset.column_names)
        require_columns(config.source, needed, list(dataset.column_names))
        needed = list(dict.fromkeys([*needed, *also_there(asked.also, dataset.column_names, config.source)]))
        for index, values in enumerate(dataset.select_columns(needed)):
            yield RawRow(index, values)

    return Opened(rows, schema_shape(dataset.features.arrow_schema), num_rows=len(dataset))


def _explain(config: DataConfig, error: Exception) -> str:
    place = f"data.source={config.source}" + (f", data.subset={config.subset}" if config.subset else "")
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:500]
    return (
        f"{place}, data.split={config.split} cannot be loaded from the Hugging Face hub: {reason}. Either the hub "
        "cannot be reached from here (then use a local .jsonl/.csv/.parquet file, an s3:// object or "
        "reasoning_gym:<task>), or it has no dataset, subset or split of that name."
        f"{hub_advice(error)}"
    )

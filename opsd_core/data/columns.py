"""Which columns are read: those of the configuration, or of the one known layout that the source has."""

from typing import Any

from opsd_core.config import ColumnMapping
from opsd_core.config.kinds.columns import COLUMN_PRESETS
from opsd_core.data.places import heads
from opsd_core.data.records import Asked
from opsd_core.errors import DataError


def columns_in_force(asked: Asked, shape: dict[str, Any]) -> ColumnMapping:
    """The mapping to read with. DataError when the question's column is absent and several layouts fit."""
    columns = asked.config.columns
    if not columns.recognised or not shape:
        return columns
    if heads([columns.question], list(shape))[0] in shape:
        return columns
    fitting = {name: preset for name, preset in COLUMN_PRESETS.items() if preset.fits(shape)}
    if not fitting:
        return columns
    if len({tuple(preset.columns.values()) for preset in fitting.values()}) > 1:
        raise DataError(
            f"data.source={asked.config.source} has no column {columns.question!r}, and several layouts fit its columns "
            f"{', '.join(map(repr, list(shape)[:20]))}: {', '.join(fitting)}. Choose one: data.columns.preset."
        )
    name, preset = next(iter(fitting.items()))
    found = preset.columns
    default = ColumnMapping()
    own = {key: getattr(columns, key) for key in found if getattr(columns, key) != getattr(default, key)}
    own |= {} if columns.answer else {"answer": ""}
    where = ", ".join(f"{key} = {value!r}" for key, value in (found | own).items() if value)
    asked.notes.append(f"the layout {name} was recognised: {where}; data.columns.preset=none switches that off")
    return ColumnMapping.model_validate(found | own | {"preset": name})

"""The source `suite:<name>`: items that are made here, as `opsd_core.config.kinds.suites.ITEMS` names them."""

from collections.abc import Iterator

from opsd_core.config import ColumnMapping
from opsd_core.config.kinds.suites import ITEMS
from opsd_core.data.files import reader
from opsd_core.data.records import Asked, Opened, RawRow
from opsd_core.errors import DataError

_COLUMNS = ColumnMapping(question="question", answer="answer", solution="")


def read(asked: Asked) -> Opened:
    """Its first data.size items. DataError for a name that does not exist."""
    config, name = asked.config, asked.config.source.partition(":")[2]
    if name not in ITEMS:
        raise DataError(f"data.source={config.source} does not exist. Shipped items: {', '.join(f'suite:{n}' for n in ITEMS)}.")
    items = reader(f"suites.{ITEMS[name]}")

    def rows(columns: ColumnMapping) -> Iterator[RawRow]:
        for index, (question, answer) in enumerate(items(config.num_generated, config.seed)):
            yield RawRow(index, {"question": question, "answer": answer})

    return Opened(rows, columns=_COLUMNS, labels_required=False)

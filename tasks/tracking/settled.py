"""Facts of a run that are settled once, at its first call, and stand whatever happens to the object store afterwards."""

from collections.abc import Callable

from opsd_core.errors import ConfigError
from tasks.tracking.connection import Connection

_MOST_CHARS = 8000


class Settled(Connection):
    """Tags of runs that are read back before anybody relies on them; nothing here waits in a spool."""

    def settled(self, run_id: str, tag: str) -> str | None:
        """The run's tag; None when it was never set."""
        return self._call(f"read a run's {tag}", lambda: self.client.get_run(run_id).data.tags.get(tag))

    def settle(self, run_id: str, tag: str, value: Callable[[], str]) -> str:
        """The run's tag, set to `value()` when there is none yet. ConfigError when that is too long to be kept whole."""
        if (known := self.settled(run_id, tag)) is not None:
            return known
        text = value()
        if len(text) > _MOST_CHARS:
            raise ConfigError(f"{tag} has {len(text)} characters, a run's tag at most {_MOST_CHARS}. Name fewer peers.")
        self._call(f"set a run's {tag}", lambda: self.client.set_tag(run_id, tag, text))
        return text

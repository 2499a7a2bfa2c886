"""One thread that sends records in their order, so that training and stages do not wait for the tracking server."""

import atexit
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

_LOG = logging.getLogger(__name__)


class Background:
    """`put` returns at once; `drain` waits until everything put before it was handed to `send`.

    What is waiting is sent when the process ends in any orderly way. What a killed process had not sent is logged again
    by the run that continues its work: stages log from stored artifacts.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()

    def put(self, record: dict[str, Any]) -> None:
        """Send `record` after those put before it."""
        self._waiting.put(record)
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="opsd-tracking", daemon=True)
                self._thread.start()
                atexit.register(self.drain)

    def drain(self) -> None:
        """Wait until nothing waits."""
        self._waiting.join()

    def _work(self) -> None:
        while True:
            record = self._waiting.get()
            try:
                self._send(record)
            except Exception:  # a record that cannot be sent must not end the thread: drain() would wait for ever
                _LOG.exception(
                    "A record for MLflow could not be sent: %s of run %s", record.get("op"), record.get("run_id")
                )
            finally:
                self._waiting.task_done()

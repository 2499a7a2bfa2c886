"""Weights in a folder of this machine: MLflow takes no such address, so it gets a copy among the files of the version's run.

What opsd itself reads stays in the store; the tag opsd.model_uri of a version says where.
"""

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tasks.tracking.connection import Connection

MODEL_URI = "opsd.model_uri"
"""Tag of a version: where its weights lie in the store."""


class Folders(Connection):
    """Sources of versions whose weights lie below file:///."""

    def source_for(self, uri: str, run_id: str) -> str:
        """What MLflow is told of the weights at `uri`: that address, or for a folder the copy's."""
        if not uri.startswith("file:"):
            return uri
        root = self._call("read a run", lambda: self.client.get_run(run_id).info.artifact_uri)
        return f"{root.rstrip('/')}/{_place(uri)}"

    def hand_over(self, uri: str, run_id: str) -> None:
        """Copy the files of a folder to the run, once for all; nothing is done for other addresses."""
        if uri.startswith("file:"):
            folder = Path(url2pathname(urlsplit(uri).path))
            self._call(f"copy {uri}", lambda: self.client.log_artifacts(run_id, str(folder), _place(uri)))


def _place(uri: str) -> str:
    return "/".join(("models", *uri.rstrip("/").split("/")[-2:]))

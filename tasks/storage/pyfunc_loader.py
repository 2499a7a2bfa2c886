"""A registered adapter as MLflow sees it: `mlflow.pyfunc.load_model` downloads its folder, the base comes from the store.

The store is the one that OPSD_STORE names, with its credentials, as for every other reader (`tasks.runtime.settings`).
"""

from pathlib import Path

from opsd_core.mlmodel import verify_mlmodel
from opsd_core.pyfunc_loader import TextGenerator
from tasks.runtime.settings import load_settings
from tasks.storage.apart import whole_of
from tasks.storage.s3 import open_store


def _load_pyfunc(path: str) -> TextGenerator:
    """MLflow's entry point."""
    folder, settings = Path(path), load_settings()
    verify_mlmodel(folder)
    return TextGenerator(whole_of(open_store(settings.store, settings), folder, settings.cache))

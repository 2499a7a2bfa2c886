"""The one door to MLflow: runs, metrics that never stop training, and the model registry.

connection.py      one client, bounded patience, readable errors, `check()`
background.py      sends records from a thread of its own
spool.py           what could not be sent, kept on disk and sent later
settled.py         facts of a run that are written once and read back
runs.py            campaign and iteration runs; metrics, parameters, datasets, files
system_metrics.py  CPU, memory and GPU figures of a run, sampled in the background
folders.py         versions whose weights lie in a folder of this machine
abandoned.py       open runs of campaigns that ended without ending them
flatten.py         nested settings as parameters
ledger.py          the gate's decisions on a model, its error budget
registry.py        versions, aliases, promotion and rollback
addresses.py       models:/name@alias: the version behind it
mlmodel.py         the MLmodel file that lets MLflow load a folder of weights
"""

from pathlib import Path

from opsd_core.mlmodel import write_mlmodel
from tasks.tracking.addresses import Addresses
from tasks.tracking.ledger import Ledger
from tasks.tracking.registry import Move, Version
from tasks.tracking.runs import RunLog
from tasks.tracking.settled import Settled


class Tracker(RunLog, Addresses, Settled, Ledger):
    """Everything opsd asks of MLflow, over one explicit client; no global run is ever opened."""

    @staticmethod
    def write_mlmodel(folder: Path) -> None:
        """Add the file that lets `mlflow.pyfunc.load_model` read a folder of weights (`opsd_core.mlmodel`)."""
        write_mlmodel(folder)


__all__ = ["Move", "Tracker", "Version"]

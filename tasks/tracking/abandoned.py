"""MLflow runs that nobody will go on with: found by the Prefect run that opened them last, and ended."""

from collections import defaultdict
from collections.abc import Sequence

from mlflow.entities import Run

from tasks.tracking.connection import Connection
from tasks.tracking.runs import FLOW_RUN_TAG, PARENT_TAG

_PAGE = 1000


class OpenRuns(Connection):
    """Runs in status RUNNING; asks once per call, without waiting for a server that is away."""

    def by_flow_run(self) -> dict[str, list[str]]:
        """Flow run id -> ids of the open runs that it opened last, children included. ServiceError when MLflow is away."""
        runs = self._call("list open runs", self._open)
        opened_by = {run.info.run_id: run.data.tags.get(FLOW_RUN_TAG, "") for run in runs}
        found: dict[str, list[str]] = defaultdict(list)
        for run in runs:
            number = run.info.run_id
            opener = opened_by[number] or opened_by.get(run.data.tags.get(PARENT_TAG, ""), "")
            if opener:
                found[opener].append(number)
        return dict(found)

    def end(self, run_ids: Sequence[str], status: str) -> None:
        """Set runs to FAILED or KILLED; ServiceError when MLflow is away."""
        for number in run_ids:
            self._call("end a run", lambda number=number: self.client.set_terminated(number, status))

    def _open(self) -> list[Run]:
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        found, token = [], None
        while experiments:
            page = self.client.search_runs(
                experiments, "attributes.status = 'RUNNING'", max_results=_PAGE, page_token=token
            )
            found += page
            token = page.token
            if not token:
                break
        return found

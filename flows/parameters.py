"""Flows whose parameters are refused as settings are: by name, in words, before anything is asked for.

A flow of this project is declared with `flow` from here; it is Prefect's own, except for what a wrong parameter raises, for
its form (`flows.forms`), and for the sign of life that it keeps in the store while it runs as a deployment
(`tasks.storage.presence`).
"""

from collections.abc import Callable
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ParameterBindError, ParameterTypeError
from prefect.runtime import flow_run
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows.forms import form_signature
from opsd_core.config.refusals import as_settings, explained, shown
from opsd_core.errors import ConfigError
from tasks.runtime.quiet import plain_logs, quiet
from tasks.runtime.run_names import run_name
from tasks.runtime.secrets import cleaned, redact_logs
from tasks.runtime.settings import load_settings
from tasks.runtime.stage import without_secrets
from tasks.storage.presence import Presence
from tasks.storage.s3 import open_store

quiet()  # every flow imports this module first


class CheckedFlow(Flow):
    """Prefect's flow; a ConfigError where its parameters do not fit."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.__signature__ = form_signature(self.fn)  # what a deployment's form is made of
        self.parameters = parameter_schema(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        as_settings(kwargs, f"opsd/{self.fn.__name__}")  # before a run is made, which would keep them
        try:
            return super().__call__(*args, **kwargs)
        except ParameterBindError as error:
            names = ", ".join(self.parameters.properties)
            why = str(error).splitlines()[0][:200]
            raise ConfigError(f"opsd/{self.fn.__name__} does not take these parameters: {why} It has {names}.") from error

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters with their types. ConfigError for those that have none, and for an address with a secret."""
        as_settings(parameters, f"opsd/{self.fn.__name__}")
        try:
            return super().validate_parameters(parameters)
        except (ParameterTypeError, AttributeError, TypeError, RecursionError) as error:  # odd {"$ref": ...} too
            cause = error.__context__
            why = explained(cause) if isinstance(cause, ValidationError) else f"{error!s:.300} (given: {shown(parameters)})"
            raise ConfigError(f"parameters of opsd/{self.fn.__name__} are refused: {why}") from error


def flow(function: Callable[..., Any]) -> CheckedFlow:
    """Declare the flow of the deployment opsd/<function>; no secret of its process is logged or stays in its errors."""
    redact_logs()
    plain_logs()
    return CheckedFlow(
        without_secrets(function),
        name="opsd",
        flow_run_name=lambda: run_name(function.__name__, flow_run.get_parameters()),
        log_prints=True,
        on_running=[_arrive],
        on_completion=[_leave],
        on_failure=[_leave, _forget],
    )


_PRESENT: dict[str, Presence] = {}


def _arrive(_flow: Flow, run: FlowRun, _state: State) -> None:
    number = str(run.id)
    if run.deployment_id is not None and number not in _PRESENT:
        _PRESENT[number] = Presence(open_store(settings=load_settings()), number)
        _PRESENT[number].begin()


def _leave(_flow: Flow, run: FlowRun, _state: State) -> None:
    if present := _PRESENT.pop(str(run.id), None):
        present.end()


def _forget(_flow: Flow, run: FlowRun, _state: State) -> None:
    """Take the secrets out of what Prefect keeps of a refused run. A server that knows the form's schema never takes them."""
    if (kept := cleaned(run.parameters)) != run.parameters:
        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, parameters=kept)

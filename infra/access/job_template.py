"""What a scheduled run may choose about its process: nothing that decides what is executed.

Prefect's process pool lets whoever creates a run set `command`, `env` and `working_dir` in its `job_variables`. The pool
of this project offers none of them, its server refuses a run that names one, and its worker drops what a run or a
deployment sets all the same.
"""

from typing import Any

from prefect.workers.process import ProcessJobConfiguration

from infra.access.child_environment import child_environment


class ChildConfiguration(ProcessJobConfiguration):
    """A run's process as its pool's template has it: what the template does not offer, a run or deployment cannot set."""

    @classmethod
    async def from_template_and_values(
        cls, base_job_template: dict[str, Any], values: dict[str, Any], client: Any = None
    ) -> "ChildConfiguration":
        """Prefect's own, without values that are no variables of the template (it merges `env` in any case)."""
        offered = base_job_template["variables"].get("properties", {})
        values = {name: value for name, value in values.items() if name.partition(".")[0] in offered}
        return await super().from_template_and_values(base_job_template, values, client=client)

    def prepare_for_flow_run(self, *arguments: Any, **options: Any) -> None:
        """Add the run's own variables and of the worker's those that pass."""
        explicit = dict(self.env)
        super().prepare_for_flow_run(*arguments, **options)
        given = {name: value for name, value in self.env.items() if value is not None}
        self.env = {"PYTHONUNBUFFERED": "1", **child_environment(given), **explicit}


def pool_template(template: dict[str, Any]) -> dict[str, Any]:
    """A process pool's base job template whose runs cannot choose what is executed: neither command nor folder nor variables."""
    fixed = {"command": None, "working_dir": None, "env": {}}
    job = {**template["job_configuration"], **fixed}
    known = template["variables"]["properties"]
    properties = {name: schema for name, schema in known.items() if name not in fixed}
    variables = {**template["variables"], "properties": properties, "additionalProperties": False}
    return {**template, "job_configuration": job, "variables": variables}

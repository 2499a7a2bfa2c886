"""Addresses: the version that `models:/name@alias` or `models:/name/3` names, and where MLflow shows an experiment."""

import re

from opsd_core.errors import ConfigError, RefusedError
from tasks.tracking.folders import MODEL_URI
from tasks.tracking.registry import ABSENT, Registry, Version
from tasks.tracking.runs import RUNS_PAGES

_ADDRESS = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/([1-9][0-9]{0,8}))")


class Addresses(Registry):
    """Registered versions by the addresses that users write."""

    def resolve(self, uri: str, field: str = "model.source") -> Version:
        """The version behind `models:/name@alias` or `models:/name/3`.

        Raises ConfigError naming `field`, what there is instead, and the server, when there is none.
        """
        match = _ADDRESS.fullmatch(uri)
        if match is None:
            raise ConfigError(f"{field}={uri!r:.200} is not models:/name@alias or models:/name/version. Correct {field}.")
        name, alias, number = match.groups()
        found = None
        try:
            found = self.aliased(name, alias) if alias else self.get_version(name, int(number))
        except RefusedError as error:
            if getattr(error.__cause__, "error_code", "") not in ABSENT:
                raise
        if found is None:
            raise ConfigError(f"{field}={uri}: {self._instead(name)} at {self.public_uri}. Correct {field}.")
        return found

    def source_of(self, uri: str, field: str = "model.source") -> str:
        """Address of the folder of weights behind a `models:/` URI; `field` is the setting that names it.

        Of a first version those that its campaign started from, not the copy that is served.
        """
        version = self.resolve(uri, field)
        return version.tags.get(MODEL_URI, version.source)

    def experiment_url(self, name: str) -> str | None:
        """Address of the table of an experiment's runs; None when there is no such experiment."""
        found = self._call(f"read the experiment {name}", lambda: self.client.get_experiment_by_name(name))
        return f"{self.public_uri}/#/experiments/{found.experiment_id}/runs?{RUNS_PAGES}" if found else None

    def _instead(self, name: str) -> str:
        """What is registered where something else was asked for."""
        names = self.model_names()
        if name not in names:
            return f"there is no registered model {name!r} (there are {', '.join(names[:10]) or 'none'})"
        versions = [f"{v.version}{''.join(f' @{alias}' for alias in v.aliases)}" for v in self.versions(name)[-10:]]
        return f"model {name!r} has no such version or alias (it has {', '.join(versions) or 'no version'})"

"""Registered models: one version per iteration, the aliases champion, candidate and previous, and who moved them.

Nothing here is spooled: a registry call either stands or raises ServiceError. Every operation may be repeated after a
crash and ends in the same state. MLflow has no compare-and-swap, so callers hold a lease of the model while they move
aliases; `expected_champion` refuses when somebody moved it all the same.
"""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from opsd_core.errors import ConfigError, ServiceError
from tasks.tracking.folders import Folders

CHAMPION, CANDIDATE, PREVIOUS = "champion", "candidate", "previous"
ANY: Any = object()
"""For `expected_champion`: do not look."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,199}")
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What the server answers when there is no such model, version or alias."""
_MOVE_TAG = "opsd.move."
_REPLACED_TAG = "opsd.replaced_champion"
_TAG_CHARS, _WHY_CHARS = 5000, 2000
_TAGS_AT_ONCE = 4


@dataclass(frozen=True)
class Version:
    """A registered version, as plain values."""

    name: str
    version: int
    source: str
    """Address of the folder with its weights."""
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Move:
    """One change of the champion alias."""

    at: str
    """UTC, ISO 8601."""
    action: str
    """`promote` or `rollback`."""
    before: int | None
    after: int
    why: str
    who: str


class Registry(Folders):
    """Versions and aliases of registered models."""

    def ensure_model(self, name: str, description: str = "") -> None:
        """Create the registered model unless it exists; raises ConfigError for a malformed name."""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot name a registered model: letters, digits, spaces, '.', '_' and '-', at most 200 "
                "characters, starting with a letter or digit. Change the campaign's model name."
            )

        def create() -> None:
            try:
                self.client.create_registered_model(name, description=description)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise

        self._call(f"create the registered model {name}", create)

    def register(
        self, name: str, source_uri: str, run_id: str, tags: Mapping[str, Any] | None = None, description: str = ""
    ) -> int:
        """The version of this source and run, made at the first call; `tags` are set when it is made."""
        source = self.source_for(source_uri, run_id)

        def look_up_or_create() -> int:
            found = self._versions_of(name, run_id, source)
            if not found:
                self.hand_over(source_uri, run_id)
                texts = {tag: str(value)[:_TAG_CHARS] for tag, value in (tags or {}).items()}
                self.client.create_model_version(
                    name, source, run_id, tags=texts, description=description, await_creation_for=0
                )
                found = self._versions_of(name, run_id, source)
            for double in found[1:]:  # two creators at once, or a request repeated on its way
                self._delete_version(name, double)
            return found[0]

        return self._call(f"register a version of {name}", look_up_or_create)

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, oldest first."""

        def read() -> list[Version]:
            aliases: dict[int, list[str]] = {}
            for alias, number in self.client.get_registered_model(name).aliases.items():
                aliases.setdefault(int(number), []).append(alias)
            found = [_version(entry) for entry in self._search(f"name = '{name}'")]
            return [replace(entry, aliases=tuple(sorted(aliases.get(entry.version, ())))) for entry in found]

        return self._call(f"list the versions of {name}", read)

    def model_names(self) -> list[str]:
        """Names of all registered models, sorted."""

        def read() -> list[str]:
            found, token = [], None
            while True:
                page = self.client.search_registered_models(max_results=200, page_token=token)
                found.extend(model.name for model in page)
                token = page.token
                if not token:
                    return sorted(found)

        return self._call("list the registered models", read)

    def get_version(self, name: str, version: int) -> Version:
        """One version; raises RefusedError when it does not exist."""
        return _version(
            self._call(f"read {name} version {version}", lambda: self.client.get_model_version(name, str(version)))
        )

    def version_by_alias(self, name: str, alias: str) -> int | None:
        """Number of the version that carries `alias`; None when none does or the model does not exist."""
        found = self.aliased(name, alias)
        return found.version if found else None

    def aliased(self, name: str, alias: str) -> Version | None:
        """The version that carries `alias`, with its source and tags; None like `version_by_alias`."""

        def look_up() -> Version | None:
            try:
                return _version(self.client.get_model_version_by_alias(name, alias))
            except MlflowException as error:
                absent = error.error_code in ABSENT
                if absent and "not found" in str(error):
                    return None
                raise

        return self._call(f"read {name}@{alias}", look_up)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Move `alias` to `version` and read it back."""
        self._call(f"set {name}@{alias}", lambda: self.client.set_registered_model_alias(name, alias, str(version)))
        stands = self.version_by_alias(name, alias)
        if stands != version:
            raise ServiceError(
                f"{name}@{alias} was set to {version} but is {stands}: somebody else moves it. Run again."
            )

    def version_tags(self, name: str, version: int) -> dict[str, str]:
        """Tags of a version."""
        return self.get_version(name, version).tags

    def set_version_tags(self, name: str, version: int, tags: Mapping[str, Any]) -> None:
        """Set tags of a version, one call for each that differs; the last one stands only when all others do."""
        have = self.version_tags(name, version)
        texts = {tag: str(value)[:_TAG_CHARS] for tag, value in tags.items()}
        changed = [(tag, text) for tag, text in texts.items() if have.get(tag) != text]
        if not changed:
            return
        with ThreadPoolExecutor(_TAGS_AT_ONCE) as pool:
            list(pool.map(lambda pair: self._set_tag(name, version, *pair), changed[:-1]))
        self._set_tag(name, version, *changed[-1])

    def promote(
        self, name: str, version: int, why: str, who: str, *, expected_champion: int | None = ANY
    ) -> int | None:
        """Make `version` champion and the champion `previous`; the version it replaced (None: there was none).

        Repeating it changes nothing. Raises ServiceError when the champion is not `expected_champion`.
        """
        target = self.get_version(name, version)
        before = self.version_by_alias(name, CHAMPION)
        if before == version:
            return _number(target.tags.get(_REPLACED_TAG))
        self._expect(name, before, expected_champion)
        self._set_tag(name, version, _REPLACED_TAG, "" if before is None else str(before))
        if before is not None:
            self.set_alias(name, PREVIOUS, before)
        self._log_move(name, Move(_now(), "promote", before, version, why[:_WHY_CHARS], who))
        self.set_alias(name, CHAMPION, version)
        return before

    def rollback(self, name: str, why: str, who: str, *, expected_champion: int | None = ANY) -> int:
        """Make `previous` champion again; returns it. Its own predecessor becomes `previous`, if it had one.

        Raises ConfigError when there is no previous champion, ServiceError when the champion is not
        `expected_champion` (give it, so that a repeated call cannot roll back twice).
        """
        before, previous = self.version_by_alias(name, CHAMPION), self.aliased(name, PREVIOUS)
        self._expect(name, before, expected_champion)
        if previous is None or previous.version == before:
            raise ConfigError(f"{name} has no earlier champion to go back to (champion is version {before}).")
        self._log_move(name, Move(_now(), "rollback", before, previous.version, why[:_WHY_CHARS], who))
        self.set_alias(name, CHAMPION, previous.version)
        earlier = _number(previous.tags.get(_REPLACED_TAG))
        if earlier is None:
            self._call(f"remove {name}@{PREVIOUS}", lambda: self.client.delete_registered_model_alias(name, PREVIOUS))
        else:
            self.set_alias(name, PREVIOUS, earlier)
        return previous.version

    def moves(self, name: str) -> list[Move]:
        """Every change of the champion, oldest first: who, what, why."""
        model = self._call(f"read the model {name}", lambda: self.client.get_registered_model(name))
        kept = sorted(tag for tag in model.tags if tag.startswith(_MOVE_TAG))
        return [Move(**json.loads(model.tags[tag])) for tag in kept]

    def describe_version(self, name: str, version: int, text: str) -> None:
        """Replace the description of a version, markdown; cut at MLflow's 5000 characters."""
        text = text[:_TAG_CHARS]
        if self.get_version(name, version).description != text:
            self._call(
                f"describe {name} version {version}",
                lambda: self.client.update_model_version(name, str(version), description=text),
            )

    def model_url(self, name: str, version: int) -> str:
        """Address of a version in MLflow's pages."""
        return f"{self.public_uri}/#/models/{name}/versions/{version}"

    def _search(self, filter_string: str) -> list[ModelVersion]:
        found, token = [], None
        while True:
            page = self.client.search_model_versions(filter_string, max_results=1000, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return sorted(found, key=lambda entry: int(entry.version))

    def _versions_of(self, name: str, run_id: str, source_uri: str) -> list[int]:
        entries = self._search(f"name = '{name}' and run_id = '{run_id}'")
        return [int(entry.version) for entry in entries if entry.source == source_uri]

    def _delete_version(self, name: str, version: int) -> None:
        try:
            self.client.delete_model_version(name, str(version))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def _set_tag(self, name: str, version: int, tag: str, text: str) -> None:
        self._call(
            f"tag {name} version {version}",
            lambda: self.client.set_model_version_tag(name, str(version), tag, text),
        )

    def _log_move(self, name: str, move: Move) -> None:
        """Append to the model's history; a move repeated after a crash is not written twice."""
        history = self.moves(name)
        if history and (history[-1].before, history[-1].after) == (move.before, move.after):
            return
        tag = f"{_MOVE_TAG}{len(history):05d}"
        text = json.dumps(asdict(move), sort_keys=True)
        self._call(f"log a move of {name}", lambda: self.client.set_registered_model_tag(name, tag, text))

    def _expect(self, name: str, before: int | None, expected: int | None) -> None:
        if expected is not ANY and before != expected:
            raise ServiceError(
                f"The champion of {name} is version {before}, the decision was taken against {expected}: it changed "
                "underneath. Evaluate against the present champion and decide again."
            )


def _version(entry: ModelVersion) -> Version:
    tags, aliases = dict(entry.tags), tuple(sorted(entry.aliases))
    return Version(entry.name, int(entry.version), entry.source, entry.run_id, tags, aliases, entry.description or "")


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

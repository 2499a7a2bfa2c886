"""Before a version becomes champion: every object of it is read from the store and compared with its manifest."""

from opsd_core.errors import ConfigError, IntegrityError
from tasks.context import settings, store, tracker
from tasks.storage.apart import bases_of
from tasks.storage.artifacts import verify


def check_version(name: str, version: int) -> None:
    """Read weights, what is served of them, bases and trainer state of a version, length and sha256 of every object.

    IntegrityError naming the object, the version and what to do; ConfigError for a version that opsd did not register.
    """
    entry = tracker().get_version(name, version)
    tags = entry.tags
    if "opsd.model_uri" not in tags:
        raise ConfigError(
            f"version {version} of {name} was not registered by opsd (it has no tag opsd.model_uri), so nobody can say whether "
            "it is whole. Choose another version."
        )
    weights = tags["opsd.model_uri"]
    served = entry.source if entry.source.startswith(f"{store().uri('models')}/") else ""  # else MLflow's own copy
    for uri in dict.fromkeys((weights, served, tags.get("opsd.state_uri"))):
        if uri:
            _check(name, version, tags, uri)
    for uri in bases_of(store(), weights):
        _check(name, version, tags, uri)


def _campaign(tags: dict[str, str]) -> str:
    return f"campaign {campaign}" if (campaign := tags.get("opsd.campaign")) else "the campaign that began with it"


def _check(name: str, version: int, tags: dict[str, str], uri: str) -> None:
    expected = tags.get("opsd.model_digest") if uri == tags["opsd.model_uri"] else None
    again = f"Trigger {_campaign(tags)} again, which makes it again"
    try:
        found = verify(store(), uri, settings().cache)
        if expected and found.digest != expected:
            raise IntegrityError(f"{found.uri} has the digest {found.digest}, the version was registered with {expected}.")
    except (IntegrityError, ConfigError) as error:  # another store's address too
        raise IntegrityError(
            f"version {version} of {name} cannot be champion, for it is not whole: {error} The champion stays as it is. {again}, "
            "or choose another version."
        ) from error

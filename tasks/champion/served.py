"""The first version as others get it: the starting weights, with the files that say how the gate judges them."""

import shutil
from pathlib import Path
from typing import Any

from opsd_core.config import CampaignConfig
from opsd_core.models.policy import Serving
from opsd_core.models.storage.serving import served_settings, write_serving
from tasks.context import address_of, local, produce, tracker
from tasks.loaded import load
from tasks.refs import PolicyRef, Ref


def served(policy: PolicyRef, config: CampaignConfig) -> Ref:
    """The folder of the same weights with this campaign's templates, end tokens, limits and dtype in its files."""

    def write(folder: Path) -> dict[str, Any]:
        shutil.copytree(local(policy), folder, dirs_exist_ok=True)
        loaded = load(policy, config.model)
        write_serving(Serving.of(loaded, config), loaded, folder)
        tracker().write_mlmodel(folder)
        return {"weights": policy.uri}

    return Ref(uri=produce("models", _identity(policy, config), write)[0].uri)


def keep_served(policy: PolicyRef, config: CampaignConfig) -> None:
    """Write the folder again when a registered version needs it and it was lost or damaged.

    No stage reads it, so no other would miss it. A version of other settings is its own campaign's to mend.
    """
    address = address_of("models", _identity(policy, config))
    if any(version.source.startswith(f"{address}/") for version in tracker().versions(config.name)):
        served(policy, config)


def _identity(policy: PolicyRef, config: CampaignConfig) -> dict[str, Any]:
    return {"weights": policy.digest, "served": served_settings(config)}

"""The first version as others get it: the starting weights, with the files that say how the gate judges them."""

import shutil
from pathlib import Path
from typing import Any

from opsd_core.config import CampaignConfig
from opsd_core.models.policy import Serving
from opsd_core.models.storage.serving import served_settings, write_serving
from tasks.context import load, local, produce, tracker
from tasks.refs import PolicyRef, Ref


def served(policy: PolicyRef, config: CampaignConfig) -> Ref:
    """The folder of the same weights with this campaign's templates, end tokens, limits and dtype in its files."""
    identity = {"weights": policy.digest, "served": served_settings(config)}

    def write(folder: Path) -> dict[str, Any]:
        shutil.copytree(local(policy), folder, dirs_exist_ok=True)
        loaded = load(policy, config.model)
        write_serving(Serving.of(loaded, config), loaded, folder)
        tracker().write_mlmodel(folder)
        return {"weights": policy.uri}

    return Ref(uri=produce("models", identity, write)[0].uri)

"""The gate's decisions on a registered model, kept as tags of the model: one entry each, in their order.

MLflow has no compare-and-swap: whoever writes holds the lease of the model's champion (`tasks.exclusive.champion_moves`).
"""

import json
from dataclasses import asdict

from opsd_core.errors import IntegrityError
from opsd_core.judgement.budget import Decision
from tasks.tracking.connection import Connection

_TAG = "opsd.decision."


class Ledger(Connection):
    """Entries of a model's error budget."""

    def decisions(self, name: str) -> list[Decision]:
        """Every decision, oldest first. IntegrityError when an entry is missing or cannot be read."""
        model = self._call(f"read the model {name}", lambda: self.client.get_registered_model(name))
        kept = sorted(tag for tag in model.tags if tag.startswith(_TAG))
        expected = [_tag(number) for number in range(len(kept))]
        try:
            if kept != expected:
                raise ValueError(f"entries {sorted(set(kept) ^ set(expected))[:3]} do not follow each other")
            return [Decision(**json.loads(model.tags[tag])) for tag in kept]
        except (ValueError, TypeError) as error:
            raise IntegrityError(
                f"the ledger of {name} (tags {_TAG}* of the registered model) is damaged: {error}. Without it nobody knows which "
                "level is left; restore the tags, or set promotion.alpha_per=campaign."
            ) from error

    def write_decision(self, name: str, number: int, decision: Decision) -> None:
        """Set entry `number`, from 0; the same one again when it has its verdict."""
        text = json.dumps(asdict(decision), sort_keys=True)
        self._call(
            f"write decision {number} of {name}", lambda: self.client.set_registered_model_tag(name, _tag(number), text)
        )


def _tag(number: int) -> str:
    return f"{_TAG}{number:05d}"

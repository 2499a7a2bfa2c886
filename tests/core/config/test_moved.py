"""pytest tests/core/config/test_moved.py — older names: read in stored configurations, refused by today's name in new ones."""

import pytest

from opsd_core.config import CampaignConfig, resolve
from opsd_core.config.moved import MOVED, with_present_names
from opsd_core.errors import ConfigError


def at(values, path):
    for name in path.split("."):
        values = values[name]
    return values


def older(values):
    """A resolved configuration as it was stored before settings moved."""
    for old, new in MOVED.items():
        *parents, leaf = new.split(".")
        section = at(values, ".".join(parents)) if parents else values
        moved = section.pop(leaf)
        *parents, leaf = old.split(".")
        (at(values, ".".join(parents)) if parents else values)[leaf] = moved
    return values


def test_the_configuration_of_an_older_campaign_is_read():
    config = resolve("tiny", {"token_weights": {"position": "late"}, "execution": {"checkpoint_every": 7, "num_shards": 3}})
    stored = older(config.model_dump(mode="json"))
    assert "token_weights" not in stored and stored["weights"]["position"] == "late" and stored["rollout"]["num_shards"] == 3
    assert CampaignConfig.model_validate(with_present_names(stored)) == config


def test_what_has_todays_names_stays_as_it_is():
    values = resolve("tiny").model_dump(mode="json")
    assert with_present_names(values) == values


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_is_refused_with_todays(old, new):
    value = {"position": "late"} if old == "weights" else 1
    for name in reversed(old.split(".")):
        value = {name: value}
    with pytest.raises(ConfigError, match=f"{old}: is now called {new}"):
        resolve("tiny", value)

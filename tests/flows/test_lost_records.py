"""pytest tests/flows/test_lost_records.py — a record that is lost and made again says what it said, not what is true today."""

import pytest
from prefect import flow

from opsd_core.config import resolve
from opsd_core.errors import IntegrityError, ModelError
from tasks.champion.start import CHAMPION_AT_START
from tasks.context import store, tracker
from tasks.stages.peers import refresh_peers
from tasks.stages.prepare import prepare_data, prepare_model, prepare_teachers, start_campaign
from tasks.stages.report import open_iteration
from tasks.storage.artifacts import discard

SMALL = {"data": {"size": 400, "validation_fraction": 0.3}, "evaluation": {"num_items": 20}}


@flow(name="opsd-test-start")
def started(name: str, teacher: dict):
    """A campaign as it begins, and its first iteration."""
    config = resolve("tiny", SMALL, {"name": name, "teacher": teacher})
    initial = prepare_model(config)
    data = prepare_data(config, initial)
    campaign = start_campaign(config, initial, data, prepare_teachers(config, initial))
    return campaign, open_iteration(campaign, 0, config, (campaign.start, campaign.champion))


@flow(name="opsd-test-meet")
def met(iteration):
    return refresh_peers(iteration)


def lose(kind: str) -> None:
    """Every artifact of the kind is gone."""
    for key in {"/".join(info.key.split("/")[:2]) for info in store().list(f"{kind}/")}:
        discard(store(), key)


def version_of(name: str, campaign, tags: dict) -> int:
    """One more version of the campaign's own weights, under another run."""
    run = tracker().child_run(campaign.run_id, f"other-{len(tracker().versions(name))}")
    kept = {"opsd.model_uri": campaign.initial.uri, "opsd.model_digest": campaign.initial.digest, "opsd.role": "candidate"}
    kept |= {"opsd.campaign": campaign.id, "opsd.iteration": "0"}
    return tracker().register(name, campaign.initial.uri, run, kept | tags)


def test_a_campaign_whose_record_is_lost_keeps_the_champion_that_it_began_with(stack):
    store().ensure_bucket()
    campaign, _ = started("forgets", {})
    first = campaign.champion.version
    later = version_of("forgets", campaign, {"gate.champion": str(first)})
    tracker().promote("forgets", later, "better", "gate")

    lose("campaigns")
    assert started("forgets", {})[0].champion == campaign.champion

    lose("campaigns")  # and the tag of its run: the verdict on its first candidate is left
    tracker().client.delete_tag(campaign.run_id, CHAMPION_AT_START)
    assert started("forgets", {})[0].champion == campaign.champion
    assert tracker().settled(campaign.run_id, CHAMPION_AT_START) == str(first)

    lose("campaigns")  # and that verdict too
    tracker().client.delete_tag(campaign.run_id, CHAMPION_AT_START)
    tracker().client.delete_model_version_tag("forgets", str(later), "gate.champion")
    with pytest.raises(IntegrityError, match=rf"campaign {campaign.id} of forgets has version {later}, but .* is lost"):
        started("forgets", {})
    assert tracker().version_by_alias("forgets", "champion") == later


def test_an_iteration_whose_record_of_peers_is_lost_meets_the_same_ones(stack):
    store().ensure_bucket()
    peer, _ = started("peer", {})
    _, iteration = started("learner", {"weights": "external", "source": "opsd:peer@champion"})
    before = met(iteration)
    assert [ref.digest for ref in before] == [peer.initial.digest]
    elsewhere = "s3://opsd-elsewhere/model"
    version = tracker().register("peer", elsewhere, tracker().child_run(peer.run_id, "later"), {"opsd.model_uri": elsewhere})
    tracker().promote("peer", version, "a later champion, which nobody could load", "test")
    lose("peers")
    assert met(iteration) == before
    tracker().client.delete_tag(iteration.run_id, "opsd.peers.0")
    lose("peers")
    with pytest.raises(ModelError, match=r"teacher\.source=s3://opsd-elsewhere/model cannot be read: there is no bucket"):
        met(iteration)

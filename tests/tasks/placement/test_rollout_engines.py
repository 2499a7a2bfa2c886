"""pytest tests/tasks/placement/test_rollout_engines.py — the rollout stage with every engine: artefacts, identity, process."""

import pytest
from prefect.logging import disable_run_logger

from opsd_core.config import resolve
from opsd_core.data import addition_examples
from opsd_core.records.examples import write_examples
from opsd_core.records.rollouts import read_rollouts
from tasks import engines
from tasks.context import local
from tasks.loaded import release
from tasks.refs import Campaign, Iteration, PolicyRef, PromptSet, Ref
from tasks.stages.grade import mismatch_metrics
from tasks.stages.prepare import campaign_identity
from tasks.stages.rollout import rollout, rollout_identity
from tasks.storage.artifacts import artifact_key, describe, publish
from tests.core.rollout.engines.installed import ENGINES

PLAIN = {"model": {"dtype": "float32", "device": "cpu"}, "rollout": {"max_completion_length": 8}}


@pytest.fixture
def shards(own_store, tiny_model, tmp_path):
    """make(engine) -> an iteration of the tiny model and its prompts in two shards."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    examples = addition_examples(12)
    for shard in range(2):
        write_examples(folder / f"shard-{shard:04d}.parquet", examples[shard::2])
    prompts = publish(own_store, "prompts", {"test": "engines"}, folder, {})
    model = publish(own_store, "models", {"test": "engines"}, tiny_model, {})

    def make(engine):
        config, nowhere = resolve("tiny", PLAIN, {"execution": {"engine": engine}}), Ref(uri="x/y/z")
        policy = PolicyRef(uri=model.uri, digest=model.digest)
        campaign = Campaign(id="c", config=config, record=nowhere, data=nowhere, initial=policy, champion=policy, run_id="")
        begun = Iteration(campaign=campaign, number=0, config=config, run_id="", champion=policy, policy=policy)
        return begun, PromptSet(uri=prompts.uri, num_prompts=12, num_shards=2)

    yield make
    release()
    engines.stop_engine()


@pytest.mark.parametrize("engine", ENGINES)
def test_shards_name_their_engine_and_its_process_stands_from_the_first_to_the_last(engine, shards, own_store):
    iteration, prompts = shards(engine)
    with disable_run_logger():
        first = rollout.fn(iteration, prompts, 0)
        standing = list(engines._kept.values())
        second = rollout.fn(iteration, prompts, 1)
    assert len(standing) == 1 and not engines._kept
    assert standing[0].name == engine and (engine == "transformers" or not standing[0].alive)
    for made in (first, second):
        summary = describe(own_store, made.uri).summary
        assert summary["engine"] == {"name": engine, "version": standing[0].version} and summary["recorded_error"] < 1e-4
        rollouts = read_rollouts(local(made) / "rollouts.parquet")
        assert len(rollouts) == made.num_rollouts > 0 and made.num_tokens == sum(len(r.completion_ids) for r in rollouts)
    found = mismatch_metrics([first, second])
    assert set(found) == (
        set() if engine == "transformers" else
        {"engine/mismatch", "engine/mismatch_max", "engine/mismatch_kl", "engine/is_eff_sample_size"}
    )  # fmt: skip
    with disable_run_logger():
        again = [rollout.fn(iteration, prompts, shard) for shard in range(2)]
    assert [(r.digest, r.mismatch) for r in again] == [(r.digest, r.mismatch) for r in (first, second)]
    assert not engines._kept, "what exists needs no engine"


def test_another_engine_is_another_artefact_and_another_campaign_and_the_machine_is_none(shards):
    keys, campaigns = [], []
    for engine in ("transformers", "vllm"):
        iteration, prompts = shards(engine)
        keys.append(artifact_key("rollouts", rollout_identity(iteration, prompts, 0)))
        changes = {"rollout_batch_size": 3, "engine_memory": 0.3, "max_mismatch": 1.0}
        slower = iteration.config.execution.model_copy(update=changes)
        config = iteration.config.model_copy(update={"execution": slower})
        assert keys[-1] == artifact_key(
            "rollouts", rollout_identity(iteration.model_copy(update={"config": config}), prompts, 0)
        )
        campaigns.append(campaign_identity(config, iteration.policy, Ref(uri="a/b/c"), [], []))
    assert keys[0] != keys[1] and campaigns[0] != campaigns[1]
    assert "execution" not in campaigns[0]["config"], "campaigns of opsd's own engine stay what they were"
    assert campaigns[1]["config"]["execution"] == {"engine": "vllm"}
    part = iteration.config.execution.model_copy(update={"checked_share": 0.5})
    config = iteration.config.model_copy(update={"execution": part})
    keys.append(artifact_key("rollouts", rollout_identity(iteration.model_copy(update={"config": config}), prompts, 0)))
    assert keys[2] not in keys[:2], "its entropies are others"


def test_an_error_while_sampling_leaves_no_engine(shards):
    iteration, _ = shards("transformers")
    with pytest.raises(ZeroDivisionError), engines.engine_for(iteration.policy, iteration.config):
        assert engines._kept
        raise ZeroDivisionError
    assert not engines._kept

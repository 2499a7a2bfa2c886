"""pytest tests/faults/test_kill.py — kill -9 anywhere, trigger again: what is shipped is what the undisturbed run ships."""

import random
import time
from collections import Counter

import pytest

from opsd_core.config import deep_merge
from tests.faults.kills import Arm
from tests.faults.outcome import differences, outcome

pytestmark = pytest.mark.timeout(3600)
LONG_KILLS, KILLS_EACH = 50, 5


def small(tiny_model, iterations):
    """A campaign of some seconds that promotes: every stage and every move of an alias occurs."""
    return {
        "recipe": "tiny",
        "iterations": iterations,
        "num_prompts": 32,
        "num_steps": 6,
        "overrides": {
            "model": {"source": str(tiny_model)},
            "optimizer": {"batch_size": 16},
            "execution": {"num_shards": 2, "checkpoint_every": 2},
            "evaluation": {"num_items": 30},
            "promotion": {"alpha": 0.49},
        },
    }


@pytest.fixture(scope="module")
def short(stack, tiny_model, tmp_path_factory):
    """`short(name)`: one iteration, the same for every name."""
    return lambda name: Arm(name, tmp_path_factory.mktemp(name), small(tiny_model, 1))


@pytest.fixture(scope="module")
def undisturbed(short):
    """What the short campaign makes when nobody touches it."""
    arm = short("undisturbed").finish()
    assert any(entry[2].get("opsd.gate") == "promoted" for entry in outcome(arm)["registry"])
    return arm


def test_killed_inside_distillation_and_before_the_champion_moves(short, undisturbed):
    """Trigger after trigger goes on where the last one was: at the newest checkpoint, then at the gate."""
    arm = short("killed")
    assert arm.attempt(lambda: any("MANIFEST" in info.key for info in arm.store().list("checkpoints/"))) == -9
    assert arm.attempt(lambda: "register-it0" in arm.stages()) == -9
    assert "resuming after optimiser step" in arm.log() and "rollout-it0-shard0" in arm.stages()
    assert differences(outcome(arm.finish()), outcome(undisturbed)) == []


def test_triggered_again_with_smaller_batches_it_resumes_at_the_checkpoint(short):
    """What a person does when memory runs out. Nothing that was made is made again, and it stays one campaign."""
    arm = short("smaller")
    assert arm.attempt(lambda: any("MANIFEST" in info.key for info in arm.store().list("checkpoints/"))) == -9
    batches = {"rollout_batch_size": 3, "evaluation_batch_size": 7, "microbatch_tokens": 64}
    arm.parameters["overrides"]["execution"] = batches | {"num_shards": 5, "checkpoint_every": 4}
    arm.finish()
    assert "resuming after optimiser step" in arm.log()
    stored = Counter(info.key.split("/")[0] for info in arm.store().list("") if info.key.endswith("MANIFEST.json"))
    assert stored["campaigns"] == stored["prompts"] == 1 and stored["rollouts"] == stored["targets"] == 2


@pytest.mark.slow
def test_killed_at_random_times(short, undisturbed, capsys):
    """Ten campaigns, each killed five times: some random moment after some random stage, later every time."""
    expected, stages = outcome(undisturbed), ["start", *undisturbed.stages()[:-1]]
    draw, arms = random.Random(1), []
    while sum(len(arm.killed) for arm in arms) < LONG_KILLS:
        arm = short(f"random{len(arms)}")
        arms.append(arm)
        for place in sorted(draw.choices(range(len(stages)), k=KILLS_EACH)):
            assert arm.attempt(after(arm, stages[place], draw.uniform(0.0, 1.0))) in (0, -9)
        assert differences(outcome(arm.finish()), expected) == []
        say(capsys, f"{arm.name}: {len(arm.killed)} kills, equal; last stage before each: {arm.killed}")
    kills = Counter(stage for arm in arms for stage in arm.killed)
    say(capsys, f"{kills.total()} kills, {sum(arm.attempts for arm in arms)} attempts, {len(arms)} campaigns: {dict(kills)}")
    say(capsys, f"rollouts in each campaign: {len(expected['rollouts'])}; lost 0, stored twice 0")


def after(arm, stage, seconds):
    """Holds `seconds` after the attempt has finished `stage`."""
    seen = []

    def is_time():
        if not seen and (stage == "start" or stage in arm.stages()):
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() >= seen[0] + seconds

    return is_time


OLDER = {
    "fresh": {},
    "kept": {"rollout": {"refresh": "overlap", "min_overlap": 0.0, "min_effective_sample_size": 0.0}},
    "ahead": {"execution": {"overlap": True}},
}
"""Whose completions the second iteration learns from."""


AROUND = {
    "kept": ["judge-rollouts-it1", "score-targets-it1-shard0"],
    "ahead": ["choose-prompts-it1", "rollout-it1-shard0", "distil-it0"],
}
"""Stages around which completions pass from one iteration to the next."""


@pytest.mark.slow
@pytest.mark.parametrize("older", AROUND)
def test_killed_while_completions_pass_from_one_iteration_to_the_next(stack, tiny_model, tmp_path_factory, older):
    names = (f"once-{older}", f"passing-{older}")
    calm, killed = (Arm(name, tmp_path_factory.mktemp(name), passing(tiny_model, older)) for name in names)
    calm.finish()
    for stage in AROUND[older]:
        assert killed.attempt(lambda stage=stage: stage in killed.stages()) == -9
    assert differences(outcome(killed.finish()), outcome(calm)) == []


def passing(tiny_model, older):
    """Two iterations, of which the second one learns from completions of the first one's policy."""
    parameters = small(tiny_model, 2)
    return parameters | {"overrides": deep_merge(parameters["overrides"], OLDER[older])}


@pytest.mark.slow
@pytest.mark.parametrize("older", OLDER)
def test_killed_at_the_end_of_every_stage(stack, tiny_model, tmp_path_factory, capsys, older):
    """Two iterations: what goes on after a kill is also what the next iteration starts from."""
    names = (f"calm-{older}", f"every-stage-{older}")
    calm, killed = (Arm(name, tmp_path_factory.mktemp(name), passing(tiny_model, older)) for name in names)
    stages = calm.finish().stages()
    for stage in stages:
        assert killed.attempt(lambda stage=stage: stage in killed.stages()) == -9
    assert differences(outcome(killed.finish()), outcome(calm)) == []
    say(capsys, f"{len(killed.killed)} kills at the ends of {len(stages)} stages: {stages}")


def say(capsys, text):
    """A line for benchmarks/resume.md."""
    with capsys.disabled():
        print(text, flush=True)


def test_secrets_are_written_only_where_the_servers_read_them(undisturbed, stack):
    """After a whole campaign: in no log, database, stored object or artifact, as text or as a file's bytes."""
    state = stack.state
    secrets = {state.secret_key, *state.server_secrets.values()}
    allowed = {state.root / "env", state.root / "server.env"}
    found = []
    for path in (path for path in state.root.rglob("*") if path.is_file() and path not in allowed):
        data = path.read_bytes()
        found += [str(path.relative_to(state.root)) for secret in secrets if secret.encode() in data]
    store = undisturbed.store()
    for info in store.list(""):
        data = store.get(info.key)
        found += [info.key for secret in secrets if secret.encode() in data]
    assert not found

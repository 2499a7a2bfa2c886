"""pytest tests/flows/test_peers.py — models that teach each other: looked up anew, heard only where they are right."""

import json
import shutil

import pytest
from prefect import flow
from transformers import GPT2Config, GPT2LMHeadModel

from flows.iterate import iterate
from opsd_core.config import config_at, resolve
from opsd_core.data.examples import make_example
from opsd_core.errors import ConfigError
from opsd_core.models.tiny import MAX_POSITIONS, tiny_tokenizer
from opsd_core.records.examples import read_examples
from opsd_core.records.grades import read_grades
from opsd_core.records.targets import read_targets
from tasks.champion.moves import promote_version
from tasks.context import lineage, local, store, tracker
from tasks.stages.peers import meet_peers, refresh_peers
from tasks.stages.prepare import prepare_data, prepare_model, prepare_teachers, start_campaign
from tasks.stages.prompts import choose_prompts
from tasks.stages.report import open_iteration
from tasks.storage.artifacts import describe

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    """Sums of two digits, which the tiny model knows, and of two-digit numbers, which it does not."""
    pairs = [(f"{a}+{b}=", a + b) for a in range(10) for b in range(10)]
    pairs += [(f"{a}+{b}=", a + b) for a in range(10, 70, 5) for b in range(11, 90, 7)]
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"question": question, "answer": f"{total:03d}"[::-1]} for question, total in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": str(path), "size": len(rows), "validation_fraction": 0.3, "test_fraction": 0.0}


def settings(sums, **teacher):
    return {
        "data": sums,
        "optimizer": {"batch_size": 8},
        "execution": {"checkpoint_every": 2},
        "evaluation": {"num_items": 20},
        "teacher": {"require_privilege_gain": False} | teacher,
    }


def run(name, overrides):
    iterate(recipe="tiny", name=name, iterations=1, num_prompts=40, num_steps=2, overrides=overrides)
    return tracker().aliased(name, "candidate").tags


def test_a_peer_teaches_only_where_its_own_answer_is_right(stack, sums):
    run("ann", settings(sums))
    tags = run("bob", settings(sums, weights="external", source="opsd:ann@champion", peer_filter="solved"))
    champion = tracker().aliased("ann", "champion").tags["opsd.model_digest"]
    assert [[name, short] for name, _, short in lineage(tags)["teachers"]] == [["opsd:ann@champion", champion[:16]]]
    grades = {grade.key: grade for grade in read_grades(local(lineage(tags)["grades"]) / "grades.parquet")}
    easy = {make_example(f"{a}+{b}=", f"{a + b:03d}"[::-1]).id for a in range(10) for b in range(10)}
    kept = [grade for grade in grades.values() if grade.keep]
    silent = [grade for grade in grades.values() if grade.reason == "no_peer_solved"]
    assert len(kept) >= 5 and {grade.example_id for grade in kept} <= easy
    assert len(silent) >= 5 and len([grade for grade in silent if grade.example_id not in easy]) >= 5
    targets = [t for uri in lineage(tags)["targets"] for t in read_targets(local(uri) / "targets.parquet")]
    assert {target.key for target in targets} == {grade.key for grade in kept}


@pytest.mark.parametrize(
    ("context", "template", "right"),
    [("peer_success", "{{ privileged_context }}|{{ question }}", True), ("peer_failure", "{{ attempt }}|{{ question }}", False)],
)
def test_the_policy_teaches_itself_with_what_a_peer_answered(stack, sums, context, template, right):
    """A model of its own weights sees the other champion's right (wrong) answer, and learns nowhere else."""
    run("ann", settings(sums))
    tags = run(context, settings(sums, context=context, template=template, peers=["opsd:ann@champion"]))
    champion = tracker().aliased("ann", "champion").tags["opsd.model_digest"]
    assert [short for _, _, short in lineage(tags)["teachers"]] == [champion[:16]]
    uris = lineage(tags)["targets"]
    (solved,) = {"/".join(describe(store(), uri).identity["solved"]) for uri in uris}
    made = describe(store(), store().uri(f"solved/{solved}"))
    assert made.identity["peers"] == [champion] and made.identity["seeds"] and made.identity["sampling"]["temperature"] == 0
    answers = {i: answer for i, (answer,) in json.loads((local(made.uri) / "answers.json").read_text()).items()}
    grades = read_grades(local(lineage(tags)["grades"]) / "grades.parquet")
    shown = {i for i, answer in answers.items() if answer["correct"] == right}
    assert {grade.example_id for grade in grades if grade.keep} == shown and 5 <= len(shown) <= len(answers) - 5
    assert {grade.reason for grade in grades if not grade.keep} == {"no_context"}
    questions = {e.id: e.question for e in read_examples(local(lineage(tags)["data"]) / "train.parquet")}
    targets = [t for uri in uris for t in read_targets(local(uri) / "targets.parquet")]
    assert {target.example_id for target in targets} == shown
    for target in targets:  # one token per character, after the first
        text = f"{answers[target.example_id]['text']}|{questions[target.example_id]}"
        assert target.teacher_prompt_length == 1 + len(text)


def test_a_teacher_that_ends_with_another_token_is_heard_as_stopping(stack, sums, tiny_model, tmp_path, caplog):
    """Its end tokens are found, said in the log, recorded as one event, and a part of the targets' identity."""
    end, other = tiny_tokenizer().convert_tokens_to_ids(["</s>", "|"])
    shutil.copytree(tiny_model, tmp_path / "teacher")
    (tmp_path / "teacher" / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, other]}))
    tags = run("ends", settings(sums, weights="external", source=str(tmp_path / "teacher"), context="none", temperature=0.5))
    (uri, *_) = lineage(tags)["targets"]
    assert {target.stop_layout for target in read_targets(local(uri) / "targets.parquet")} == {(end, other)}
    assert describe(store(), uri).identity["stops"] == [[end], sorted([end, other])]
    said = [record.getMessage() for record in caplog.records if "ends its completions with" in record.getMessage()]
    assert said and all("one stop event" in line for line in said)


def test_a_teacher_of_another_architecture_needs_no_layer_of_the_policys_adapters(stack, sums, tmp_path):
    """It is not trained: GPT-2 has no q_proj."""
    tokenizer = tiny_tokenizer()
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": MAX_POSITIONS}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ids)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    adapters = {"model": {"lora": {"rank": 2, "target_modules": "q_proj"}}}
    config = resolve("tiny", settings(sums, weights="external", source=str(tmp_path)), adapters)
    initial, (teacher,) = flow(lambda: (made := prepare_model(config), prepare_teachers(config, made)), name="opsd-test")()
    found = {"initial": json.loads(initial.acceptance)["errors"], "teacher": json.loads(teacher.acceptance)["errors"]}
    assert "adapters/scoring" in found["initial"] and not any(name.startswith("adapters/") for name in found["teacher"])


@pytest.mark.parametrize("base", [{}, {"context": "peer_success", "peers": ["tiny"]}], ids=["without", "with"])
def test_peers_come_and_go_with_the_schedule(stack, sums, base):
    schedules = {"teacher.context": ["reference", "peer_success", "reference"], "teacher.peers": [[], ["tiny"], []]}
    config = resolve("tiny", settings(sums, **base), {"name": "fade", "iterations": 3, "curriculum": {"schedules": schedules}})
    before, within, after = scheduled(config)
    assert before.teachers == after.teachers == [] and before.solved is after.solved is None
    assert [peer.digest for peer in within.teachers] == [within.campaign.initial.digest] and within.solved


@flow(name="opsd-test", validate_parameters=False)
def scheduled(config):
    """Each iteration of the campaign with its peers."""
    initial = prepare_model(config)
    campaign = start_campaign(config, initial, prepare_data(config, initial), prepare_teachers(config, initial))
    begun = [opened(campaign, number) for number in range(config.iterations)]
    prompts = choose_prompts(begun[0])
    return [meet_peers(iteration, prompts) for iteration in begun]


def opened(campaign, number):
    sides = (campaign.initial, campaign.champion)
    return open_iteration(campaign, number, config_at(campaign.config, number), sides)


@pytest.mark.slow
def test_two_campaigns_teach_each_other_and_an_iteration_meets_the_champion_of_its_time(stack, sums):
    run("eve", settings(sums))
    first = run("dan", settings(sums, weights="external", source="opsd:eve@champion"))
    champion_by_hand("dan")
    mixed = {"weights": "peers", "peers": ["opsd:dan@champion", "opsd:eve@champion"]}
    tags = run("eve", settings(sums, **mixed))
    peers = lineage(tags)["teachers"]
    assert [name for name, _, _ in peers] == mixed["peers"] and peers[0][1] == first["opsd.model_uri"]

    before, again, after = late(resolve("tiny", settings(sums, **mixed), {"name": "late"}))
    assert again == before  # an iteration that runs again meets the same weights
    assert after[0] == before[0] and after[1].uri == tags["opsd.model_uri"] != before[1].uri


@flow(name="opsd-test")
def champion_by_hand(name):
    promote_version(name, None, "for the test", "test")


@flow(name="opsd-test", validate_parameters=False)
def late(config):
    """Peers of iteration 0, of iteration 0 again after another promotion, and of iteration 1."""
    initial = prepare_model(config)
    campaign = start_campaign(config, initial, prepare_data(config, initial))
    before = refresh_peers(opened(campaign, 0))
    promote_version("eve", None, "for the test", "test")
    return before, refresh_peers(opened(campaign, 0)), refresh_peers(opened(campaign, 1))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"teacher": {"peer_filter": "solved"}}, r"asks other models"),
        (
            {
                "teacher": {"weights": "external", "source": "tiny", "peer_filter": "solved"},
                "distillation": {"targets": "online"},
            },
            r"settled when targets are recorded",
        ),
    ],
)
def test_refusals(overrides, message):
    with pytest.raises(ConfigError, match=message):
        resolve("tiny", overrides)

"""Peers: other registered models that teach, looked up anew in every iteration, and what each of them answers.

`opsd:NAME@champion` names whatever is champion of NAME when an iteration begins. Two campaigns that name each other teach
each other: each learns from the other's latest promoted version.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.logging import get_run_logger

from opsd_core.config.teacher import MOVING
from opsd_core.digest import derive_seed
from opsd_core.graders import get_grader, grader_name
from opsd_core.prompts.builder import PromptBuilder
from opsd_core.records.examples import read_examples
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling
from tasks.context import load_shared, local, produce
from tasks.refs import Campaign, PolicyRef, PromptSet
from tasks.runtime.retries import STAGE
from tasks.stages.prepare import resolve_teachers

_SEEDS = "peer"
"""Name from which, with the example's id, the seed of every peer's answer is derived."""


def meet_peers(campaign: Campaign, prompts: PromptSet) -> Campaign:
    """The campaign as it is in this iteration: its peers' present versions, and what they answer where that counts."""
    config, teacher = campaign.config, campaign.config.teacher
    if config.distillation.teacher_free or not teacher.sources:
        return campaign.model_copy(update={"teachers": []})
    scheduled = any(path.startswith("teacher.") for path in config.curriculum.schedules)
    if scheduled or any(source.startswith(MOVING) for source in teacher.sources):
        campaign = campaign.model_copy(update={"teachers": refresh_peers(campaign, prompts.iteration)})
    if teacher.peer_gate == "solved" or teacher.kind.peers:
        campaign = campaign.model_copy(update={"solved": solve_prompts(campaign, prompts)})
    return campaign


@task(name="refresh-peers", task_run_name="refresh-peers-it{iteration}", **STAGE)
def refresh_peers(campaign: Campaign, iteration: int) -> list[PolicyRef]:
    """The peers' weights at the beginning of the iteration; repeating an iteration meets the same ones.

    ModelError when one has another vocabulary than the policy, ConfigError when nothing carries the alias.
    """
    identity = {"campaign": campaign.id, "iteration": iteration, "sources": list(campaign.config.teacher.sources)}

    def write(folder: Path) -> dict[str, Any]:
        refs = resolve_teachers(campaign.config, campaign.initial)
        (folder / "peers.json").write_text(json.dumps([ref.model_dump() for ref in refs]))
        return {"digests": [ref.digest for ref in refs]}

    artifact, _ = produce("peers", identity, write)
    refs = [PolicyRef.model_validate(ref) for ref in json.loads((local(artifact.uri) / "peers.json").read_text())]
    named = zip(campaign.config.teacher.sources, refs, strict=True)
    get_run_logger().info("iteration %d: %s", iteration, ", ".join(f"{source} is {ref.digest[:16]}" for source, ref in named))
    return refs


@task(name="solve-prompts", task_run_name="solve-prompts-it{prompts.iteration}", **STAGE)
def solve_prompts(campaign: Campaign, prompts: PromptSet) -> str:
    """Address of {example id: [{text, correct}, ...]}: each peer's greedy answer to the student's prompt, graded.

    Its identity is that of everything made of them: the peers' weights, prompts, template, sampling, seeds and grader.
    """
    config = campaign.config
    builder = PromptBuilder(
        load_shared(campaign.initial.uri, config.model.model_dump_json()).tokenizer,
        config.prompts,
        config.teacher,
        config.model.chat_template,
    )
    identity = {
        "peers": [peer.digest for peer in campaign.teachers],
        "prompts": prompts.uri.rsplit("/", 1)[-1],
        "template": builder.student_digest,
        "sampling": asdict(_greedy(campaign)),
        "seeds": _SEEDS,
        "grader": config.data.grader,
        "dtype": config.model.dtype,
    }
    artifact, _ = produce("solved", identity, partial(_solve, campaign, prompts, builder))
    return artifact.uri


def _greedy(campaign: Campaign) -> Sampling:
    return Sampling(temperature=0.0, max_completion_length=campaign.config.rollout.max_completion_length)


def _solve(campaign: Campaign, prompts: PromptSet, builder: PromptBuilder, folder: Path) -> dict[str, Any]:
    config, judge = campaign.config, get_grader(grader_name(campaign.config.data))
    examples = [e for path in sorted(local(prompts.uri).glob("shard-*.parquet")) for e in read_examples(path)]
    ids, seeds = [builder.student_ids(e) for e in examples], [derive_seed(_SEEDS, e.id) for e in examples]
    answers: dict[str, list[dict[str, Any]]] = {example.id: [] for example in examples}
    for peer in campaign.teachers:
        policy = load_shared(peer.uri, config.model.model_dump_json())
        for example, completion in zip(
            examples, generate(policy, ids, seeds, _greedy(campaign), config.rollout.batch_size), strict=True
        ):
            text = policy.tokenizer.decode(completion.ids_T, skip_special_tokens=True)
            correct = judge(example, text).correct if example.answer else None
            answers[example.id].append({"text": text, "correct": correct})
    (folder / "answers.json").write_text(json.dumps(answers, sort_keys=True))
    return {"solved_by": [sum(bool(row[i]["correct"]) for row in answers.values()) for i in range(len(campaign.teachers))]}

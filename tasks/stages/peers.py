"""Peers: other registered models that teach, looked up again in every iteration, and what each of them answers.

`opsd:NAME@champion` names whatever is champion of NAME when an iteration begins. Two campaigns that name each other teach
each other: each learns from the other's latest promoted version.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from opsd_core.config.teacher import MOVING
from opsd_core.digest import derive_seed
from opsd_core.graders import get_grader, grader_identity
from opsd_core.models.policy import dtype_identity
from opsd_core.rollout.generation import generate
from opsd_core.rollout.sampling import Sampling
from tasks.context import local, produce, store, tracker
from tasks.loaded import prompt_builder, shared_policy
from tasks.refs import Iteration, PolicyRef, PromptSet, Ref
from tasks.runtime.retries import STAGE
from tasks.runtime.side_by_side import HERE, Run
from tasks.runtime.stage import task
from tasks.sources import model_sources
from tasks.stages.grade import asked
from tasks.stages.prepare import check_teacher, resolve_teachers
from tasks.stages.weights import accepted
from tasks.storage.artifacts import describe

_SEEDS = "peer"
"""Name from which, with the example's id, the seed of every peer's answer is derived."""


def meet_peers(iteration: Iteration, prompts: PromptSet, run: Run = HERE) -> Iteration:
    """The iteration with its peers' present versions, and what they answer where that counts. `run` does the work."""
    config, teacher = iteration.config, iteration.config.teacher
    if config.distillation.teacher_free or not teacher.sources:
        return iteration.model_copy(update={"teachers": []})
    scheduled = any(path.startswith("teacher.") for path in config.curriculum.schedules)
    if scheduled or any(source.startswith(MOVING) for source in teacher.sources):
        iteration = iteration.model_copy(update={"teachers": run.one(refresh_peers, iteration)})
    if teacher.peer_filter == "solved" or teacher.kind.peers:
        iteration = iteration.model_copy(update={"solved": run.one(solve_prompts, iteration, prompts)})
    return iteration


@task(name="refresh-peers", task_run_name="refresh-peers-it{iteration.number}", **STAGE)
def refresh_peers(iteration: Iteration) -> list[PolicyRef]:
    """The peers' weights at the beginning of the iteration; repeating an iteration meets the same ones.

    ModelError when one has another vocabulary than the policy, ConfigError when nothing carries the alias.
    """
    sources, campaign = iteration.config.teacher.sources, iteration.campaign
    identity = {"campaign": campaign.id, "iteration": iteration.number, "sources": list(sources)}

    def write(folder: Path) -> dict[str, Any]:
        refs = _first_met(iteration)
        (folder / "peers.json").write_text(json.dumps([ref.model_dump() for ref in refs]))
        return {"digests": [ref.digest for ref in refs]}

    artifact, _ = produce("peers", identity, write)
    refs = [PolicyRef.model_validate(ref) for ref in json.loads((local(artifact.uri) / "peers.json").read_text())]
    named = ", ".join(f"{source} is {ref.digest[:16]}" for source, ref in zip(sources, refs, strict=True))
    get_run_logger().info("iteration %d: %s", iteration.number, named)
    return refs


def _first_met(iteration: Iteration) -> list[PolicyRef]:
    """The peers' present weights; where the iteration met peers before, those, whatever became of the record in the store."""
    config, initial, met = iteration.config, iteration.campaign.initial, list[PolicyRef]()

    def now() -> str:
        met.extend(resolve_teachers(config, initial))
        return json.dumps([store().key_of(ref.uri) for ref in met])

    keys = json.loads(tracker().settle(iteration.run_id, f"opsd.peers.{iteration.number}", now))
    if met:
        return met
    for key, (field, source) in zip(keys, model_sources(config)[1:], strict=True):
        found = describe(store(), store().uri(key))
        ref = accepted(PolicyRef(uri=found.uri, digest=found.digest), config.model)
        check_teacher(config, initial, ref, f"{field}={source!r}")
        met.append(ref)
    return met


@task(name="solve-prompts", task_run_name="solve-prompts-it{iteration.number}", **STAGE)
def solve_prompts(iteration: Iteration, prompts: PromptSet) -> Ref:
    """{example id: [{text, correct}, ...]}, stored: each peer's greedy answer to the student's prompt, graded.

    Its identity is that of everything made of them: the peers' weights, prompts, template, sampling, seeds and grader.
    """
    config = iteration.config
    identity = {
        "peers": [peer.digest for peer in iteration.teachers],
        "prompts": prompts.content,
        "template": prompt_builder(iteration.campaign.initial, config).student_digest,
        "sampling": asdict(_greedy(iteration)),
        "seeds": _SEEDS,
        "grader": grader_identity(config.data),
        "dtype": dtype_identity(config.model),
    }
    artifact, _ = produce("solved", identity, partial(_solve, iteration, prompts))
    return Ref(uri=artifact.uri)


def _greedy(iteration: Iteration) -> Sampling:
    return Sampling(temperature=0.0, max_completion_length=iteration.config.rollout.max_completion_length)


def _solve(iteration: Iteration, prompts: PromptSet, folder: Path) -> dict[str, Any]:
    config, grader = iteration.config, get_grader(iteration.config.data)
    builder, examples = prompt_builder(iteration.campaign.initial, config), asked(prompts)
    ids, seeds = builder.all_student_ids(examples), [derive_seed(_SEEDS, e.id) for e in examples]
    answers: dict[str, list[dict[str, Any]]] = {example.id: [] for example in examples}
    for peer in iteration.teachers:
        policy = shared_policy(peer, config.model)
        completions = generate(policy, ids, seeds, _greedy(iteration), config.execution.rollout_batch_size)
        for example, completion in zip(examples, completions, strict=True):
            text = policy.tokenizer.decode(completion.ids_T, skip_special_tokens=True)
            correct = grader(example, text).correct if example.answer else None
            answers[example.id].append({"text": text, "correct": correct})
    (folder / "answers.json").write_text(json.dumps(answers, sort_keys=True))
    solved_by = [sum(bool(row[i]["correct"]) for row in answers.values()) for i in range(len(iteration.teachers))]
    return {"solved_by": solved_by}

"""Choose prompts, sample completions shard by shard, grade them and decide which to train on."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from prefect import task

from opsd_core.agreement import agreements, final_answer
from opsd_core.config import CampaignConfig, RolloutConfig
from opsd_core.contexts import context_identity
from opsd_core.curriculum import add_grades, draw_by_difficulty, pass_rate
from opsd_core.digest import derive_seed
from opsd_core.errors import DataError
from opsd_core.examples_io import read_examples, write_examples
from opsd_core.filters import Decision, GradedCompletion, count_reasons, filter_rollouts
from opsd_core.generation import generate
from opsd_core.graders import get_grader, grader_name
from opsd_core.grades import GradedRollout, write_grades
from opsd_core.leaks import leaks_text
from opsd_core.models import Policy, resolve_dtype
from opsd_core.monitors import completion_metrics, target_metrics
from opsd_core.prompts import PromptBuilder, tokenizer_digest
from opsd_core.references import off_policy, reference_rollouts, reference_template
from opsd_core.rollouts import Rollout, read_rollouts, write_rollouts
from opsd_core.sampling import Sampling
from opsd_core.types import Example
from tasks.context import load_shared, local, produce, stored_examples
from tasks.curriculum import known_counts
from tasks.progress import progress
from tasks.records import Campaign, CurriculumRef, GradedRef, PolicyRef, PromptSet, ShardRef
from tasks.retries import STAGE
from tasks.teach import prompt_builder, prompts_of, solvers


@task(name="choose-prompts", task_run_name="choose-prompts-it{iteration}", **STAGE)
def choose_prompts(campaign: Campaign, iteration: int, curriculum: CurriculumRef | None = None) -> PromptSet:
    """Draw the iteration's training prompts: seeded passes over the training split without a gap, or by difficulty."""
    config = campaign.config
    identity = {
        "data": campaign.data_uri.rsplit("/", 2)[-2],
        "num_prompts": config.rollout.num_prompts,
        "num_shards": config.rollout.num_shards,
        "seed": config.seed,
        "iteration": iteration,
    }
    if config.curriculum.sampling == "difficulty":
        weights = ("easy_power", "hard_power", "min_pass_rate", "max_pass_rate")
        identity["difficulty"] = config.curriculum.model_dump(include=set(weights))
        identity["pass_rates"] = curriculum.digest if curriculum else None
    artifact, _ = produce("prompts", identity, partial(_draw_prompts, campaign, iteration, curriculum))
    return PromptSet(iteration=iteration, uri=artifact.uri, **artifact.summary["counts"])


def _draw_prompts(campaign: Campaign, iteration: int, curriculum: CurriculumRef | None, folder: Path) -> dict[str, Any]:
    config = campaign.config
    train = stored_examples(campaign.data_uri, "train")
    if not train:
        raise DataError("the training split is empty; raise data.size or lower the held-out fractions.")
    if config.curriculum.sampling == "difficulty":
        counts, by_id = known_counts(curriculum), {example.id: example for example in train}
        ids = draw_by_difficulty(
            list(by_id), counts, config.rollout.num_prompts, config.curriculum, config.seed, iteration
        )
        chosen = [by_id[example_id] for example_id in ids]
    else:
        chosen = _next_of_passes(train, iteration * config.rollout.num_prompts, config.rollout.num_prompts, config.seed)
    num_shards = min(config.rollout.num_shards, len(chosen))
    for shard in range(num_shards):
        write_examples(folder / f"shard-{shard:04d}.parquet", chosen[shard::num_shards])
    return {"counts": {"num_prompts": len(chosen), "num_shards": num_shards}}


def _next_of_passes(train: list[Example], position: int, wanted: int, seed: int) -> list[Example]:
    chosen: list[Example] = []
    while len(chosen) < wanted:
        epoch, offset = divmod(position, len(train))
        generator = torch.Generator().manual_seed(derive_seed("prompts", seed, epoch))
        order = torch.randperm(len(train), generator=generator).tolist()
        part = order[offset : offset + wanted - len(chosen)]
        chosen.extend(train[index] for index in part)
        position += len(part)
    # A pass boundary inside an iteration can repeat an item; a second completion of it would be the same rollout.
    return list({example.id: example for example in chosen}.values())


@task(name="rollout", task_run_name="rollout-it{prompts.iteration}-shard{shard}", **STAGE)
def rollout(campaign: Campaign, policy: PolicyRef, prompts: PromptSet, shard: int) -> ShardRef:
    """Sample the shard's completions from `policy` and store them with the distribution at every position."""
    config = campaign.config
    loaded = load_shared(policy.uri, config.model.model_dump_json())
    builder = PromptBuilder(loaded.tokenizer, config.prompts, config.teacher, config.model.chat_template)
    identity = {
        "policy": policy.digest,
        "prompts": prompts.uri.rsplit("/", 1)[-1],
        "shard": shard,
        "student_template": builder.student_digest,
        "tokenizer": tokenizer_digest(loaded.tokenizer),
        "sampling": config.rollout.model_dump(exclude={"num_prompts", "num_shards"}),
        "seed": config.seed,
        "iteration": prompts.iteration,
        "engine": engine(config.model),
    }
    if config.rollout.on_policy_fraction < 1.0:
        identity["references"] = reference_template(config)
    make = partial(_sample, campaign, policy, prompts, shard, loaded, builder)
    artifact, seconds = produce("rollouts", identity, make)
    counts = artifact.summary
    return ShardRef(
        iteration=prompts.iteration,
        shard=shard,
        uri=artifact.uri,
        digest=artifact.digest,
        num_rollouts=counts["num_rollouts"],
        num_references=counts["num_references"],
        num_tokens=counts["num_tokens"],
        seconds=seconds,
    )


def sample_rollouts(
    policy: Policy,
    config: RolloutConfig,
    keys: list[tuple[str, int]],
    prompts: list[list[int]],
    seeds: list[int],
    title: str,
) -> list[Rollout]:
    """One completion per (example id, sample index), prompt and seed, with its distributions; `title` names the progress."""
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        max_completion_length=config.max_completion_length,
        record_top_k=config.record_top_k,
    )
    with progress(title, "completions") as report:
        completions = generate(policy, prompts, seeds, sampling, config.batch_size, report)
    texts = [policy.tokenizer.decode(completion.ids_T, skip_special_tokens=True) for completion in completions]
    return [
        Rollout.of(*key, seed, prompt, completion, text)
        for key, seed, prompt, completion, text in zip(keys, seeds, prompts, completions, texts, strict=True)
    ]


def engine(model: Any) -> dict[str, Any]:
    """What decides a completion's bits beside weights, prompt and seed."""
    cuda = model.device != "cpu" and torch.cuda.is_available()
    return {
        "name": "transformers",
        "dtype": str(resolve_dtype(model)).removeprefix("torch."),
        "device": "cuda" if cuda else "cpu",
        "bitwise_reproducible": not cuda,
    }


def _sample(campaign, policy, prompts, shard, loaded, builder, folder: Path) -> dict[str, Any]:
    config = campaign.config
    examples = read_examples(local(prompts.uri) / f"shard-{shard:04d}.parquet")
    given, asked = [], []
    for example in examples:
        (given if off_policy(example.id, prompts.iteration, config) else asked).append(example)
    pairs = [(example, sample) for example in asked for sample in range(config.rollout.group_size)]
    ids = {example.id: builder.student_ids(example) for example in examples}
    seeds = [derive_seed("rollout", config.seed, prompts.iteration, example.id, sample) for example, sample in pairs]
    keys = [(example.id, sample) for example, sample in pairs]
    title = f"rollout-it{prompts.iteration}-shard{shard}"
    rollouts = sample_rollouts(loaded, config.rollout, keys, [ids[example_id] for example_id, _ in keys], seeds, title)
    rollouts += reference_rollouts(loaded, given, [ids[example.id] for example in given], config)
    write_rollouts(folder / "rollouts.parquet", rollouts)
    num_tokens = sum(len(r.completion_ids) for r in rollouts)
    return {
        "num_rollouts": len(rollouts),
        "num_references": len(given),
        "num_tokens": num_tokens,
        "truncated": sum(r.truncated for r in rollouts),
        "policy_version": policy.version,
    }


@task(name="grade", task_run_name="grade-it{prompts.iteration}", **STAGE)
def grade(
    campaign: Campaign, prompts: PromptSet, shards: list[ShardRef], curriculum: CurriculumRef | None = None
) -> GradedRef:
    """Judge every completion and decide which are trained on; nothing is deleted, every drop has its reason."""
    config = campaign.config
    identity = {
        "rollouts": [shard.digest for shard in shards],
        "grader": config.data.grader,
        "filter": config.filter.model_dump(),
    }
    if config.context_from_rollouts:  # a completion may be left out because there is nothing to show the teacher
        identity["context"] = context_identity(config.teacher)
        identity["template"] = prompt_builder(campaign).teacher_digest
    if campaign.solved:
        identity["solved"] = campaign.solved.rsplit("/", 2)[-2:]
    if config.filter.route == "pass_rate":
        identity["pass_rates"] = curriculum.digest if curriculum else None
    artifact, seconds = produce("grades", identity, partial(_grade, campaign, prompts, shards, curriculum))
    return GradedRef(uri=artifact.uri, digest=artifact.digest, seconds=seconds, **artifact.summary["counts"])


def _grade(
    campaign: Campaign, prompts: PromptSet, shards: list[ShardRef], curriculum: CurriculumRef | None, folder: Path
) -> dict[str, Any]:
    config = campaign.config
    judge = get_grader(grader_name(config.data))
    examples = {e.id: e for path in sorted(local(prompts.uri).glob("shard-*.parquet")) for e in read_examples(path)}
    rollouts = [r for shard in shards for r in read_rollouts(local(shard.uri) / "rollouts.parquet")]
    references = [r for r in rollouts if r.source == "reference"]
    rollouts = [r for r in rollouts if r.source == "policy"]
    grades = [
        judge(examples[r.example_id], r.completion_text) if examples[r.example_id].answer else None for r in rollouts
    ]
    answers = [g.extracted if g else final_answer(r.completion_text) for r, g in zip(rollouts, grades, strict=True)]
    votes = agreements([r.example_id for r in rollouts], answers)
    right = [(r.example_id, g.correct if g else None) for r, g in zip(rollouts, grades, strict=True)]
    counts = add_grades(known_counts(curriculum), right)
    completions = [
        GradedCompletion(
            r.completion_text,
            len(r.completion_ids),
            r.truncated,
            correct=g.correct if g else None,
            score=g.score if g else None,
            leaks=_leaks(examples[r.example_id], r.completion_text, config),
            agreement=vote,
            pass_rate=pass_rate(counts, r.example_id),
        )
        for r, g, vote in zip(rollouts, grades, votes, strict=True)
    ]
    decisions = filter_rollouts(completions, config.filter)
    if config.context_from_rollouts:
        correct = {r.key: g.correct if g else None for r, g in zip(rollouts, grades, strict=True)}
        withheld = prompts_of(campaign, rollouts, correct).withheld
        decisions = [
            Decision(keep=False, reason=withheld[r.key]) if d.keep and r.key in withheld else d
            for r, d in zip(rollouts, decisions, strict=True)
        ]
    solved = solvers(campaign)
    unsolved = {example_id for example_id, members in (solved or {}).items() if not members}
    decisions = [
        Decision(keep=False, reason="no_peer_solved") if d.keep and r.example_id in unsolved else d
        for r, d in zip(rollouts, decisions, strict=True)
    ]
    rows = [
        GradedRollout(
            example_id=r.example_id,
            sample_index=r.sample_index,
            correct=g.correct if g else None,
            score=g.score if g else None,
            extracted=answer,
            keep=d.keep,
            reason=d.reason,
            weight=d.weight,
            leaks=c.leaks,
            agreement=c.agreement.share,
            agrees=c.agreement.agrees,
        )
        for r, g, answer, c, d in zip(rollouts, grades, answers, completions, decisions, strict=True)
    ]
    # A reference is no attempt: it counts for no pass rate and no vote, and no gate of attempts applies to it.
    taught, untaught = Decision(keep=True, reason=""), Decision(keep=False, reason="no_peer_solved")
    decisions += [untaught if r.example_id in unsolved else taught for r in references]
    rows += [
        GradedRollout(r.example_id, r.sample_index, None, None, None, d.keep, d.reason)
        for r, d in zip(references, decisions[len(rows) :], strict=True)
    ]
    write_grades(folder / "grades.parquet", rows)
    judged = [row.correct for row in rows if row.correct is not None]
    kept = sum(row.keep for row in rows)
    metrics = completion_metrics(rollouts, [c.leaks for c in completions], config.filter.max_repetition)
    metrics |= target_metrics([row.keep for row in rows])
    accepted = [
        judge(examples[r.example_id], r.completion_text).correct for r in references if examples[r.example_id].answer
    ]
    if judged:
        metrics["rollout/accuracy"] = sum(judged) / len(judged)
    if accepted:
        metrics["references/accuracy"] = sum(accepted) / len(accepted)
    counts = {
        "num_kept": kept,
        "num_dropped": len(rows) - kept,
        "num_references": len(references),
        "reasons": dict(count_reasons(decisions)),
        "metrics": metrics,
    }
    return {"counts": counts}


def _leaks(example: Example, text: str, config: CampaignConfig) -> bool:
    """Whether a completion repeats the worked solution, or says that it saw one. The answer alone is no secret."""
    gate = config.filter
    public = f"{example.question} {example.answer}"
    return leaks_text(text, example.solution, public, gate.leak_words, gate.leak_phrases)

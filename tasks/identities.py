"""What the identity of every stored artifact is made of: one table, which docs/identity.md shows.

Two artifacts of one identity are the same work; a stage whose identity exists is not run again. So whatever can change the
outcome has to stand in it, as a setting, as the digest of what it was made of, or as the state of what lies elsewhere
(`tasks.states`). What only decides how fast work is done (the device, most of execution) stands in none.
"""

from collections.abc import Mapping

_SETTINGS = "all settings, of execution only engine and checked_share, where it is not opsd's own sampler"
_DTYPE = "model.dtype; for auto, what the campaign's start settled"
_GRADER = "name and version of the graders; of a function of the user's its name and the content of its files"
_FUNCTIONS = "by setting, the content of every function of the user's, where there are some"
_TEMPLATE = "both sides' templates, system message and chat template, with the date where one asks for it"
_SOLVED = "what other models answered, where that is shown or decides who teaches"
_BUDGET = "prompts.max_teacher_prompt_length and overflow, where contexts are made from completions"

IDENTITIES: Mapping[str, Mapping[str, str]] = {
    "models": {
        "source": "model.source, or the address that a registered version leads to",
        "model": "revision, trust_remote_code, chat_template; the dtype where weights are stored in another one than float32",
        "content": "what lies at the address: sha256 of local files, ETag and length of objects; a tiny model's code",
        "state": "of a trained model instead of the three above: digest of its trainer state",
        "weights": "of the first version's copy for others instead: digest of the starting weights",
        "served": "settings that are written into the folder: templates, system message, longest answer, dtype, source",
    },
    "acceptances": {
        "model": "digest of the weights",
        "dtype": "in which the architecture is tested",
        "libraries": "versions of torch, transformers and peft",
        "lora": "section model.lora, where adapters are trained",
        "device": "where that is not the CPU",
    },
    "datasets": {
        "data": "section data without the grader, which is checked again at every start",
        "content": "what lies at data.source: sha256 of files, ETag and length of an object, what a web server says",
        "tokenizer": "digest of the policy's tokenizer",
        "lengths": "templates, contexts and budgets of every stage of the schedules, which decide what fits",
        "also": "evaluation.slices, where it names columns, which are kept with the items",
        "of": "of a study's arm with fewer labels instead: the whole data set",
        "train": "and how many of its training items",
    },
    "engines": {"config": f"{_SETTINGS}, as they were asked for: what auto of device and dtype stands for"},
    "guards": {
        "data": "of the guard, section data without grader and shares of splits",
        "content": "what lies at its source",
        "rows": "what the column suite says, where a file holds several suites",
        "measure": "whether answers are graded or texts are read",
        "num_items": "most items",
        "template": _TEMPLATE,
        "prompts": "budget and overflow",
        "tokenizer": "digest of the policy's tokenizer",
    },
    "campaigns": {
        "config": _SETTINGS,
        "overlap": "true with execution.overlap=true, which changes whose completions are learned from",
        "functions": _FUNCTIONS,
        "initial": "digest of the starting weights",
        "data": "identity of the data set",
        "teachers": "digests of other models that teach, where they are fixed",
        "pretraining": "true for opsd/pretrain",
        "guards": "identities of the guards' items, where there are guards",
        "rehearsal": "every section of rehearsal.data with what lies at its source, where something is rehearsed",
    },
    "rehearsals": {
        "initial": "digest of the policy that answers",
        "sources": "every section of rehearsal.data with what lies at its source",
        "num_prompts": "rehearsal.num_prompts",
        "template": _TEMPLATE,
        "prompts": "budget and overflow",
        "tokenizer": "digest",
        "sampling": "section rollout without what is asked and when, group_size, on_policy_fraction, environment",
        "seed": "seed",
        "engine": "what samples, by name, and dtype",
    },
    "prompts": {
        "data": "identity of the data set",
        "num_prompts": "rollout.num_prompts",
        "seed": "seed",
        "iteration": "number",
        "difficulty": "powers and limits of curriculum, where sampling=difficulty",
        "pass_rates": "digest of the curriculum's state, where sampling=difficulty",
    },
    "peers": {
        "campaign": "id",
        "iteration": "number; the models found first stand, in a tag of the iteration's run too",
        "sources": "their addresses",
    },
    "solved": {
        "peers": "digests of the models that answer",
        "prompts": "content of the prompts",
        "template": _TEMPLATE,
        "sampling": "greedy, with the longest completion",
        "seeds": "how seeds are named",
        "grader": _GRADER,
        "dtype": _DTYPE,
    },
    "rollouts": {
        "policy": "digest of the weights that sample",
        "prompts": "content of the prompts, references and metadata included",
        "shard": "number",
        "student_template": _TEMPLATE,
        "tokenizer": "digest",
        "sampling": "section rollout without what is asked and when: num_prompts, refill, refresh and its limits; "
        "of prompts that are asked again with the index of the first completion",
        "seed": "seed",
        "iteration": "number",
        "engine": "what samples, by name, and dtype",
        "environment": "what answers between turns, by its version or the function's content, and the most turns; where one does",
        "references": "template of reference completions, where some are used",
        "joined": "of a shard of several rounds: digests of its parts, with policy, prompts, shard, seed and iteration alone",
    },
    "refills": {
        "prompts": "content of the iteration's prompts",
        "before": "content of the round before, whose completions are graded; none where none was asked again yet",
        "rollouts": "digests of the newest round's shards",
        "grader": "name and version of the graders",
        "refill": "section rollout.refill",
        "group_size": "rollout.group_size, from which on completions are counted",
        "seed": "seed, by which prompts are drawn where the budget does not suffice for all",
        "iteration": "number",
    },
    "renewals": {
        "rollouts": "digests of the completions that may be kept",
        "policy": "digest of the weights that would learn from them",
        "age": "iterations since they were sampled",
        "sampling": "settings that they were sampled with, and those in force",
        "limits": "rollout.refresh, min_overlap, min_effective_sample_size; importance_clip and max_staleness of token_weights",
        "dtype": _DTYPE,
    },
    "grades": {
        "rollouts": "digests of the shards",
        "grades": "of the teacher probe: digest of the grades before it",
        "grader": _GRADER,
        "filter": "section filter",
        "seed": "seed, with filter.keep_per_prompt=random",
        "group_size": "rollout.group_size with rollout.refill, which tells the first round's completions from the others",
        "context": "settings of the teacher's context, where completions are left out for want of one",
        "template": _TEMPLATE,
        "budget": _BUDGET,
        "solved": _SOLVED,
        "pass_rates": "digest of the curriculum's state, where filter.route=pass_rate",
        "policy": "of the probe: digest of the policy",
        "teacher": "of the probe: digest of the teacher",
        "mixture": "of the probe: how several teachers become one",
        "data": "of the probe: identity of the data set",
        "probe": "of the probe: its kind and threshold",
        "dtype": _DTYPE,
        "*": "what a kind of teacher weights adds",
    },
    "targets": {
        "rollouts": "digest of the shard, which holds the dtype",
        "teacher": "digest of the weights that teach",
        "template": _TEMPLATE,
        "context": "settings of the teacher's context",
        "data": "identity of the data set, any item of which may be shown",
        "transform": "temperatures and truncation",
        "top_k": "distillation.top_k",
        "stops": "end tokens of the policy and of every model that teaches, where they are merged (distillation.merge_stop)",
        "grades": "digest, where the context is made from completions, or only kept ones are scored",
        "kept": "true with filter.keep_per_prompt other than all: only kept completions are scored",
        "budget": _BUDGET,
        "solved": _SOLVED,
        "*": "what a kind of teacher weights adds",
    },
    "states": {
        "policy": "digest of the weights that sampled",
        "state": "content of the trainer state that training continues from",
        "initial": "digest of the starting weights",
        "teacher": "digest of the weights that teach",
        "rollouts": "digests",
        "grades": "digest",
        "targets": "digests",
        "method": "sections teacher, distillation, token_weights, optimizer, prompts",
        "model": "adapters and dtype",
        "iterations": "number, on which the learning rate's schedule depends",
        "iteration": "number",
        "seed": "seed",
        "control": "control",
        "data": "identity of the data set, where the teacher answers during training",
        "gold": "data, template and prompts of references that are held",
        "rehearsal": "content of rehearsed completions",
        "held": "their share and coefficient",
    },
    "checkpoints": {"distil": "identity of the state", "step": "optimiser steps done"},
    "stopped": {"distil": "identity of the state", "step": "optimiser steps done when an alarm stopped it"},
    "curricula": {
        "before": "digest of the state before",
        "grades": "digest",
        "rollouts": "digests",
        "length": "length_start, length_growth, length_max_entropy",
        "limit": "rollout.max_completion_length",
    },
    "evaluations": {
        "policy": "digest of the weights",
        "conditions": "items with their metadata, template, tokenizer, how and with what they are answered, grader, source, seed",
        "dtype": _DTYPE,
    },
    "verdicts": {
        "campaign": "id",
        "iteration": "number",
        "evaluations": "digests of both",
        "versions": "candidate and champion",
        "promotion": "section promotion",
        "iterations": "number, among which the error rate is divided",
        "max_repetition": "filter.max_repetition, which a guard rail reads",
        "guards": "digests of everybody's answers to the guards, and the anchor's version, where there are guards",
        "planned": "number of items that could have been answered, with promotion.test=sequential",
        "level": "of this decision, where the model keeps a ledger (promotion.alpha_per=model)",
    },
    "lineage": {"campaign": "id", "iteration": "number", "model": "digest of the candidate; it stays as it was when registered"},
    "answers": {
        "campaign": "id",
        "iteration": "number",
        "version": "number of the candidate",
        "verdict": "content",
        "evaluations": "digests of the champion's and the candidate's",
        "grades": "digest",
        "targets": "digests",
        "page": "version of what the page holds",
    },
    "studies": {
        "study": "all settings of the study",
        "base": f"of its campaign {_SETTINGS}",
        "overlap": "true with execution.overlap=true",
        "functions": _FUNCTIONS,
        "initial": "digest of the base model",
        "data": "identity of the data set",
    },
    "study-arms": {
        "config": f"{_SETTINGS}, without name and promotion",
        "overlap": "true with execution.overlap=true",
        "functions": _FUNCTIONS,
        "initial": "digest of the base model",
        "data": "identity of the arm's data set",
        "arm": "name",
        "teachers": "digests of other models that teach, where they are fixed",
        "rehearsal": "every section of rehearsal.data with what lies at its source",
    },
    "study-sets": {
        "policy": "digest",
        "items": "by content",
        "score": "how they are scored: kind, grader and version, longest answer",
        "template": _TEMPLATE,
        "dtype": _DTYPE,
    },
    "study-reports": {"study": "id", "measured": "addresses of everything measured", "page": "digest of the page"},
}
"""Kind -> entry of its identity -> what that is."""


def page() -> str:
    """docs/identity.md."""
    head = __doc__ or ""
    lines = ["# Identities", "", "Generated from `tasks/identities.py` by `make docs`; a test compares it with the code.", ""]
    lines += [*head.split("\n\n", 1)[1].strip().splitlines(), ""]
    lines += [
        "The code of opsd and the libraries it computes with stand in no identity but that of acceptances. A change of opsd that",
        "changes an outcome raises a schema number, which is part of each identity; versions stand in `environment.json` of the",
        "campaign. What a hub's name means is decided by `model.revision`, and the first fetch into the store stays.",
        "",
        "Which state of a model and of data was used is said in the log of the stage that reads it, in the report of every",
        "iteration, and by `model_state` and `data_state` in `lineage.json` of every version.",
    ]
    for kind, entries in IDENTITIES.items():
        lines += ["", f"## {kind}", "", "| entry | what it is |", "|---|---|"]
        lines += [f"| {'others' if name == '*' else f'`{name}`'} | {what} |" for name, what in entries.items()]
    return "\n".join(lines) + "\n"

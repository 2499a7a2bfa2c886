"""How old an iteration's completions are, and what it saved not to sample them again; as metrics and in words."""

from collections.abc import Sequence
from typing import Any

from tasks.asked import Refilled
from tasks.context import store
from tasks.refs import Iteration, Sampled
from tasks.stages.refilling.join import sampling_seconds
from tasks.storage.artifacts import describe
from tasks.summary import IterationSummary


def freshness(iteration: Iteration, sampled: Sampled) -> dict[str, float]:
    """Metrics of an iteration's completions.

    rollout/staleness               iterations between the policy that sampled and the one that learns
    rollout/overlap_top_k           of the completions that could be kept, as `opsd_core.training.wear` measures them
    rollout/effective_sample_size   the same
    rollout/renewed                 1 where these were given up and new ones sampled, 0 where they were kept
    rollout/tokens_saved            tokens of kept completions, which were not sampled again
    time/rollout_seconds_saved      that sampling them had taken, less what judging them took

    and with rollout.refill, of an iteration that sampled, `refill_metrics`.
    """
    found = {"rollout/staleness": float(iteration.number - min(shard.iteration for shard in sampled.shards))}
    if sampled.judged.uri:
        saved = saved_by(sampled)
        found |= sampled.judged.metrics | {
            "rollout/renewed": float(not sampled.judged.keep),
            "rollout/tokens_saved": float(saved["tokens_saved"]),
            "time/rollout_seconds_saved": saved["seconds_saved"],
        }
    return found if sampled.judged.keep or not sampled.refilled else found | refill_metrics(sampled.refilled)


def saved_by(sampled: Sampled) -> dict[str, Any]:
    """Tokens sampled and saved, and seconds saved, as `IterationSummary` has them."""
    tokens = int(sampled.graded.metrics.get("rollout/tokens", 0))
    if not sampled.judged.keep:
        judging = describe(store(), sampled.judged.uri).summary["seconds"] if sampled.judged.uri else 0.0
        return {"tokens_sampled": tokens, "tokens_saved": 0, "seconds_saved": -float(judging)}
    sampling = sum(sampling_seconds(describe(store(), shard.uri)) for shard in sampled.shards)
    judging = float(describe(store(), sampled.judged.uri).summary["seconds"])
    return {"tokens_sampled": 0, "tokens_saved": tokens, "seconds_saved": sampling - judging}


def refill_metrics(refilled: Refilled) -> dict[str, float]:
    """What it came to that prompts were asked again.

    refill/prompts_first         prompts with a right completion before any was asked again
    refill/prompts_right         the same after the last round
    refill/prompts_wanted        as many were wanted
    refill/completions, tokens   that all rounds sampled in addition
    refill/rounds                that there were
    refill/budget_ended          1 where the budget ended it, 0 where enough prompts have a right completion
    """
    return {
        "refill/prompts_first": float(refilled.right_at_first),
        "refill/prompts_right": float(refilled.right),
        "refill/prompts_wanted": float(refilled.wanted),
        "refill/completions": float(refilled.completions),
        "refill/tokens": float(refilled.tokens),
        "refill/rounds": float(refilled.rounds),
        "refill/budget_ended": float(refilled.ended != "reached"),
    }


def _asked_again(refilled: Refilled) -> str:
    end = "" if refilled.ended == "reached" else f", the budget of {refilled.ended} is spent"
    return (
        f"; {refilled.right} of {refilled.prompts} prompts have a right completion ({refilled.right_at_first} at first, "
        f"{refilled.wanted} wanted) after {refilled.completions} more completions in {refilled.rounds} rounds{end}"
    )


def where_from(iteration: Iteration, sampled: Sampled) -> str:
    """Whose completions an iteration learned from, where that is not its own policy; for its report."""
    age = iteration.number - min(shard.iteration for shard in sampled.shards)
    of = f", by the policy of {age} iteration{'s' if age > 1 else ''} before" if age else ""
    if sampled.judged.uri:
        of += f"; {'kept' if sampled.judged.keep else 'sampled anew'}: {sampled.judged.reason}"
    return of + (_asked_again(sampled.refilled) if sampled.refilled else "")


def saved_in_words(summaries: Sequence[IterationSummary]) -> list[str]:
    """A line for the end of a campaign that kept completions; none where all were sampled anew."""
    kept = [summary for summary in summaries if summary.tokens_saved]
    if not kept:
        return []
    tokens, sampled = (sum(getattr(s, name) for s in summaries) for name in ("tokens_saved", "tokens_sampled"))
    seconds = sum(summary.seconds_saved for summary in summaries)
    return [
        f"completions kept in {len(kept)} of {len(summaries)} iterations: {tokens:,} tokens not sampled, {sampled:,} sampled; "
        f"{seconds:.1f} s of sampling saved"
    ]

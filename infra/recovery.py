"""What becomes of a run whose process may be gone: one decision, from what is seen, without asking anybody.

    state                      process lives     unknown     gone
    Scheduled, Paused, final   leave             leave       leave
    Pending, Submitting        leave             leave       start again
    Running                    leave             leave       continue; crash when it cannot be continued
    Crashed                    leave             leave       continue; leave when it cannot be continued
    Cancelling                 end after 60 s    leave       cancel

Only CONTINUED deployments can be continued: they find their finished work again. MAX_STARTS bounds every run, so neither a
process that dies again and again nor a worker that cannot start one makes a loop.
"""

from dataclasses import dataclass
from enum import Enum

from prefect.client.schemas.objects import StateType

from tasks.storage.presence import TTL_S, Record

CONTINUED = ("iterate", "pretrain", "replay", "study", "runner")
"""Deployments whose crashed runs are resumed."""
WATCHED = (*CONTINUED, "promote", "rollback", "gc", "watch_data")
"""Deployments whose runs never stay active without a process."""
GOES_ON_WITHIN_S = 60.0
"""Within this a killed run is on its way again, on one machine, as docs/operations.md promises."""
FOR_GOOD = "crashed for good"
"""Tag of a run that nothing starts again; it says that this was announced."""
MAX_STARTS = 5
"""How often one run may start; the crash of the last one stays."""
CANCEL_PATIENCE_S = 60.0
"""How long a cancelled run's process on this machine may take to end."""
LAUNCH_PATIENCE_S = 900.0
"""How long a run of a pool that starts no local process (an image to fetch, a node to boot) may be submitted."""
ENDED_AS = {StateType.FAILED: "FAILED", StateType.CANCELLED: "KILLED", StateType.CRASHED: "FAILED"}
"""How the MLflow runs end that a run left open."""
LOCAL_CONFIRM_S, REMOTE_CONFIRM_S = 4.0, 15.0
"""How long a process must be seen gone: its worker may report it first; its flow may renew after an outage of the store."""


class Life(Enum):
    """Whether a run has a process."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


class Action(Enum):
    """What to do with a run."""

    LEAVE = "leave"
    START_AGAIN = "start again"
    CRASH = "crash"
    CANCEL = "cancel"
    END_PROCESS = "end its process"


@dataclass(frozen=True)
class Seen:
    """One run, as the servers and this machine show it."""

    state: StateType
    state_age_s: float
    """Seconds since it entered this state."""
    deployment: str
    starts: int
    """Starts so far, the present one included."""
    record: Record | None
    runs_here: bool = False
    """Whether a process of this machine carries the run's id."""
    starts_processes: bool = True
    """Whether its work pool starts processes at once, as this project's does."""
    ended_here: bool = False
    """Whether the worker that asks started it in this state and has seen that start end."""


def life(seen: Seen, now: float) -> Life:
    """Whether the run has a process; `now` in seconds since 1970."""
    if seen.runs_here:
        return Life.ALIVE
    known = seen.record is not None and not seen.record.is_vacant
    if seen.ended_here and seen.state == StateType.PENDING and (not known or (seen.record.launching and seen.record.is_local)):
        return Life.GONE  # nobody could record the process that this start had
    reported = seen.state == StateType.CRASHED
    if known and not seen.record.is_over(now) and not (reported and seen.record.launching):
        return Life.ALIVE
    if reported:
        return Life.GONE
    if known and (seen.record.is_local or seen.state != StateType.PENDING):
        return Life.GONE
    # Nothing is known of this start, or only an earlier one elsewhere.
    is_slow = seen.state == StateType.PENDING and not seen.starts_processes
    return Life.GONE if seen.state_age_s > (LAUNCH_PATIENCE_S if is_slow else TTL_S) else Life.UNKNOWN


def decide(seen: Seen, alive: Life) -> Action:
    """The table above."""
    if seen.state == StateType.CANCELLING:
        if alive == Life.ALIVE:
            late = seen.runs_here and seen.state_age_s > CANCEL_PATIENCE_S
            return Action.END_PROCESS if late else Action.LEAVE
        return Action.CANCEL if alive == Life.GONE else Action.LEAVE
    if alive != Life.GONE:
        return Action.LEAVE
    may_start = seen.starts < MAX_STARTS
    if seen.state == StateType.PENDING:
        return Action.START_AGAIN if may_start else Action.CRASH
    if seen.state == StateType.RUNNING:
        return Action.START_AGAIN if may_start and seen.deployment in CONTINUED else Action.CRASH
    if seen.state == StateType.CRASHED:
        return Action.START_AGAIN if may_start and seen.deployment in CONTINUED else Action.LEAVE
    return Action.LEAVE


def confirm_s(seen: Seen) -> float:
    """Seconds for which a gone process must stay gone before anything is done; 0 when its end was reported."""
    if seen.record is not None and not seen.record.is_local:
        return REMOTE_CONFIRM_S
    return 0.0 if seen.state == StateType.CRASHED else LOCAL_CONFIRM_S

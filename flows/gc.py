"""Delete from the store what no kept model version needs.

prefect deployment run opsd/gc                                       # a dry run: counts and bytes, nothing is deleted
prefect deployment run opsd/gc -p dry_run=false -p keep_candidates=5
"""

from typing import Annotated

from pydantic import Field

from flows import stages
from flows.parameters import flow


@flow
def gc(
    dry_run: bool = True,
    keep_candidates: Annotated[int, Field(ge=1, le=1000)] = 3,
    min_age_hours: Annotated[float, Field(ge=0, le=87600)] = 24.0,
) -> str:
    """Keep what champion, previous champion, newest candidates and versions tagged opsd.pinned=true need; delete the rest.

    Args:
        dry_run: Only say what would go. Untouched: true.
        keep_candidates: Newest candidates kept, per model. Untouched: 3.
        min_age_hours: Nothing younger goes, whoever needs it: it may be in the making. Untouched: 24.
    """
    found = stages.plan_retention(keep_candidates, min_age_hours)
    text = (
        f"kept {found.num_kept}, protected {found.num_protected}, "
        f"to delete {found.num_deletable} artifacts with {found.deletable_bytes} bytes"
    )
    if not dry_run:
        done = stages.delete_unneeded(keep_candidates, min_age_hours)
        text += f"; deleted {done.freed_bytes} bytes"
    print(text)
    return text

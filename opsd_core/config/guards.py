"""What a candidate must not lose elsewhere: guard suites of the gate."""

import re
from difflib import get_close_matches
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from opsd_core.config.base import Section
from opsd_core.config.kinds.suites import SUITES
from opsd_core.config.sources import DataConfig, PromptConfig

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")


class GuardConfig(Section):
    """One suite that champion, anchor and candidate answer greedily; by how much the candidate may be worse, and no more.

    A shipped suite is written by its name alone, `instructions`, or with changes: {"suite": "instructions", "max_drop": 0.03}.
    """

    name: str = Field("", description="Name in reports and metrics (guard/<name>/drop); empty = the suite's.")
    suite: str = Field(
        "",
        description=f"A shipped suite ({', '.join(SUITES)}), whose settings hold where nothing else is said. With data of its "
        "own: of the rows only those whose column `suite` says this; empty = all.",
    )
    data: DataConfig = Field(description="Where the items come from, as the section data; splits are not made.")
    prompts: PromptConfig | None = Field(
        None, description="Their template; the student's side counts. null = the campaign's prompts."
    )
    measure: Literal["grader", "likelihood"] = Field(
        "grader",
        description="grader = share of greedy answers that data.grader accepts; likelihood = log-likelihood, in nats per token, "
        "of the solution or answer after the prompt, or where an item has neither, of its question as plain text.",
    )
    num_items: int = Field(200, ge=2, le=1_000_000, description="Items that are answered, the first by id.")
    max_completion_length: int | None = Field(
        None, ge=1, le=131_072, description="Most tokens of an answer; null = evaluation.max_completion_length."
    )
    max_drop: float = Field(
        0.05,
        gt=0,
        le=10,
        description="Drop that is not tolerated: share of items (0.05 = five points), or nats per token (0.05 = a perplexity "
        "that is five per cent higher).",
    )
    inconclusive: Literal["refuse", "warn"] = Field(
        "refuse", description="When the items can neither rule out such a drop nor show one: refuse the candidate or only say so."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_suite(cls, values: Any) -> Any:
        """A shipped suite's settings below the given ones; what has data of its own is as it stands."""
        values = {"suite": values} if isinstance(values, str) else values
        if not isinstance(values, dict):
            return values
        data, suite = values.get("data"), values.get("suite", "")
        if data is not None and not (isinstance(data, dict) and "source" not in data and suite in SUITES):
            return values
        if not isinstance(suite, str) or suite not in SUITES:
            near = get_close_matches(suite, SUITES, 1) if isinstance(suite, str) else []
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"suite={suite!r:.80} is no shipped suite ({', '.join(SUITES)}), and the guard has no data of its own. Name a "
                f"shipped one, or give data.source.{meant}"
            )
        shipped = SUITES[suite].guard
        given = {name: value for name, value in values.items() if name != "data"}
        return {"name": suite, **shipped, **given, "data": {**shipped["data"], **(data or {})}}

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if not _NAME.fullmatch(self.title):
            raise ValueError(
                f"name={self.name!r:.80}: a guard needs a name of at most 41 lower-case letters, digits, '.', '_' and '-' "
                "(it is part of metric names). Set name."
            )
        if self.measure == "grader" and self.max_drop >= 1:
            raise ValueError(f"max_drop={self.max_drop:g} of guard {self.title!r} is a share and must be below 1, such as 0.05")
        if self.measure == "grader" and not self.data.columns.answer:
            raise ValueError(
                f"data.columns.answer of guard {self.title!r} is empty: without answers nothing can be graded. Name the column, "
                "or use measure=likelihood."
            )
        return self

    @property
    def title(self) -> str:
        """What it is called: its name, else its suite's."""
        return self.name or self.suite

    @property
    def field(self) -> str:
        """How messages name its section."""
        return f"promotion.guards[{self.title}]"

    @property
    def rows(self) -> str:
        """What the column `suite` says in its rows; "" where all rows are its own."""
        return "" if self.data.kind.generated else self.suite

"""Layouts of other projects' data sets: which column, or which place in one, is the question, the solution, the answer.

One entry = a name, three columns, and how a row of that layout is told from others.
"""

from typing import Any, NamedTuple

AUTO, NONE = "auto", "none"


class ColumnPreset(NamedTuple):
    """One layout. Columns are written as in data.columns."""

    question: str
    answer: str
    solution: str = ""
    texts: tuple[str, ...] = ()
    """Columns that hold text."""
    lists: tuple[str, ...] = ()
    """Columns that hold lists of messages."""
    objects: tuple[str, ...] = ()
    """Columns that hold objects."""
    without: tuple[str, ...] = ()
    """Columns that a row of this layout has not."""

    @property
    def columns(self) -> dict[str, str]:
        """As data.columns."""
        return {"question": self.question, "solution": self.solution, "answer": self.answer}

    def fits(self, shape: dict[str, Any]) -> bool:
        """Whether a row with these values (text, list or dict per column) can be of this layout."""
        kinds = ((self.texts, str), (self.lists, list), (self.objects, dict))
        found = all(isinstance(shape.get(name), kind) for names, kind in kinds for name in names)
        return found and any(names for names, _ in kinds) and not any(name in shape for name in self.without)


_CHAT = ColumnPreset(
    "messages[user].content",
    "messages[assistant].content",
    "messages[assistant].content",
    lists=("messages",),
    without=("prompt", "problem", "question", "instruction"),
)
COLUMN_PRESETS: dict[str, ColumnPreset] = {
    "messages": _CHAT,  # OpenAI's chat files, TRL's conversational language modelling
    "tinker": _CHAT,  # tinker_cookbook.supervised.FromConversationFileBuilder
    "sharegpt": ColumnPreset(
        "conversations[human].value",
        "conversations[gpt].value",
        "conversations[gpt].value",
        lists=("conversations",),
        without=("prompt", "problem", "question"),
    ),
    "verl": ColumnPreset(
        "prompt[user].content", "reward_model.ground_truth", lists=("prompt",), objects=("reward_model",)
    ),
    "trl": ColumnPreset(
        "prompt", "completion", "completion", texts=("prompt", "completion"), without=("answer", "solution")
    ),
    "trl_chat": ColumnPreset(
        "prompt[user].content",
        "completion[assistant].content",
        "completion[assistant].content",
        lists=("prompt", "completion"),
        without=("answer", "solution"),
    ),
    "trl_prompt": ColumnPreset("prompt", "answer", texts=("prompt", "answer"), without=("completion", "solution")),
    "trl_prompt_chat": ColumnPreset(
        "prompt[user].content",
        "answer",
        lists=("prompt",),
        texts=("answer",),
        without=("completion", "solution", "reward_model"),
    ),
    "open_r1": ColumnPreset("problem", "answer", "solution", texts=("problem", "solution", "answer")),
    "open_r1_solution": ColumnPreset(  # NuminaMath-TIR and its kin: the answer stands in the solution's \\boxed{}
        "problem", "solution", "solution", texts=("problem", "solution"), without=("answer",)
    ),
    "problem_answer": ColumnPreset("problem", "answer", texts=("problem", "answer"), without=("solution",)),
    "gsm8k": ColumnPreset("question", "answer", "answer"),  # never recognised: its names are the usual ones
}

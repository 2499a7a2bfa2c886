"""The base of every configuration section."""

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings; unknown keys are rejected by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @property
    def silent(self) -> set[str]:
        """Younger settings that change nothing at their present values: what was stored before there were any is found again."""
        return set()

    def identity(self, *, mode: Literal["python", "json"] = "python", exclude: Collection[str] = ()) -> dict[str, Any]:
        """The settings as identities have them: without those that are silent, here and in the sections within."""
        return self._spoken(self.model_dump(mode=mode, exclude=set(exclude)))

    def _spoken(self, dumped: dict[str, Any]) -> dict[str, Any]:
        return {name: _spoken(getattr(self, name), values) for name, values in dumped.items() if name not in self.silent}


def _spoken(value: Any, dumped: Any) -> Any:
    if isinstance(value, Section):
        return value._spoken(dumped)
    if isinstance(value, list | tuple):
        return type(dumped)(_spoken(*pair) for pair in zip(value, dumped, strict=True))
    return dumped

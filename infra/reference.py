"""Generated documentation: docs/configuration.md from the configuration itself.

python -m infra.reference           write the page
python -m infra.reference --check   exit status 1 when the page differs from the code
"""

import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from opsd_core.config import RECIPES, CampaignConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

_HEAD = """# Configuration

Generated from `opsd_core/config` by `make docs`; a test compares it with the code.

A campaign is configured by a *recipe* (a partial configuration with a name), the flat parameters of the deployment, and
`overrides`, which are merged deeply: setting one nested value leaves its siblings alone.

```bash
prefect deployment run opsd/iterate -p recipe=tiny -p iterations=5 -p 'overrides={"teacher": {"temperature": 0.8}}'
```

Unknown keys are refused by name; combinations that cannot work are refused with the reason before any work is done.
"""


def render() -> str:
    """The whole page."""
    parts = [_HEAD, "## Recipes\n", "| recipe | what it sets |", "|---|---|"]
    parts += [f"| `{name}` | {_flat(recipe)} |" for name, recipe in sorted(RECIPES.items())]
    parts += ["", "## Top level\n", *_table("", CampaignConfig, nested=False)]
    for name, field in CampaignConfig.model_fields.items():
        if section := _section(field):
            parts += [
                "",
                f"## {name}\n",
                f"{(section.__doc__ or '').strip().splitlines()[0]}\n",
                *_table(name, section),
            ]
    return "\n".join(parts) + "\n"


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table(prefix: str, model: type[BaseModel], nested: bool = True) -> list[str]:
    rows = ["| field | default | allowed | meaning |", "|---|---|---|---|"] if prefix.count(".") == 0 else []
    for name, field in model.model_fields.items():
        path = f"{prefix}.{name}".strip(".")
        section = _section(field)
        if section is None:
            rows.append(f"| `{path}` | {_default(field)} | {_allowed(field)} | {_escape(field.description or '')} |")
        elif nested:
            rows += _table(path, section)
    return rows


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else "computed"
    return f"`{_escape(str(field.default))}`" if field.default != "" else "empty"


def _allowed(field: FieldInfo) -> str:
    kind = field.annotation
    if choices := [choice for choice in get_args(kind) if isinstance(choice, str)]:
        return ", ".join(f"`{choice}`" for choice in choices)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(part, key)}" for part in field.metadata for key, sign in signs.items() if hasattr(part, key)
    ]
    label = getattr(kind, "__name__", str(kind)).replace("NoneType", "null")
    return _escape(
        " ".join([label if get_args(kind) == () else str(kind).replace("NoneType", "null"), ", ".join(bounds)]).strip()
    )


def _flat(recipe: dict[str, Any], prefix: str = "") -> str:
    items = []
    for key, value in recipe.items():
        nested = isinstance(value, dict) and key != "options"
        items.append(_flat(value, f"{prefix}{key}.") if nested else f"`{prefix}{key}={_escape(str(value))}`")
    return " ".join(items)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Write or check the page."""
    if "--check" in sys.argv[1:]:
        return int(not PAGE.exists() or PAGE.read_text() != render())
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())

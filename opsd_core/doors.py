"""Names of a package that its modules have: each module is imported when one of its names is first asked for (PEP 562)."""

import ast
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


def door(package: str, modules: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of `package`, which hands out the names of `modules`, dotted paths from the root.

        __getattr__, __dir__, __all__ = door(__name__, {"opsd_core.data.load": ("load_examples", "load_items")})

    Another name raises AttributeError with those that there are.
    """
    homes = {name: module for module, names in modules.items() for name in names}
    known = sorted(homes)

    def handed_out(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(known)}")
        return getattr(import_module(homes[name]), name)

    return handed_out, lambda: known, known


def for_type_checkers(file: str) -> dict[str, tuple[str, ...]]:
    """Module -> names of what `file` imports under TYPE_CHECKING, where type checkers and the import contracts read it too."""
    blocks = [node for node in ast.parse(Path(file).read_text()).body if isinstance(node, ast.If)]
    imports = [node for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING" for node in block.body]
    return {node.module: tuple(alias.name for alias in node.names) for node in imports if isinstance(node, ast.ImportFrom)}

"""The child of `functions`: imports a function of the user's, calls it, one JSON request and one JSON answer a line.

It is run by its path, so that it imports nothing of opsd. What it imports is the user's own code and runs as that: the limit of
processor time is there for the text that makes it slow, not against the code.
"""

import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import os
import resource
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_SHOWN = 300
"""Characters of an error's words."""
_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")


def loaded(place: str, parameters: list[str]) -> tuple[Callable[..., Any], dict[str, list[str]]]:
    """The function at `place`, and the files of the user's that importing it read: name of a module -> path, sha256.

    Raises whatever the import raises; LookupError or TypeError when it is no function of these parameters.
    """
    known = set(sys.modules)
    where, _, name = place.rpartition(":")
    module = _of_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    function: Any = module
    for part in name.split("."):
        if not hasattr(function, part):
            raise LookupError(f"{where} has no {name}")
        function = getattr(function, part)
    if not callable(function):
        raise TypeError(f"{name} is no function but a {type(function).__name__}")
    if any(test(function) for test in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)):
        raise TypeError(f"{name} is no plain function: calling it gives a coroutine or a generator")
    try:
        inspect.signature(function).bind(*parameters)
    except TypeError as error:
        called = f"{name}({', '.join(parameters)})"
        raise TypeError(f"{name}{inspect.signature(function)} cannot be called as {called}: {error}") from None
    except ValueError:  # written in C, which does not always tell
        pass
    return function, _files(module, known)


def _of_file(path: Path) -> ModuleType:
    """The module of a file by its path; files beside it can be imported, as if it were run as a program."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path.absolute()}")
    sys.path.insert(0, str(path.absolute().parent))
    spec = importlib.util.spec_from_file_location(f"{path.stem} (opsd)", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _files(module: ModuleType, known: set[str]) -> dict[str, list[str]]:
    """Of the module, of what belongs to its package, and of what it imported that is no library."""
    roots = [os.path.realpath(path) + os.sep for path in {sysconfig.get_path(name) for name in _LIBRARIES}]
    package, found = module.__name__.partition(".")[0], {}
    for name, other in sorted(sys.modules.items()):
        file = getattr(other, "__file__", None)
        if not file or not Path(file).is_file():
            continue
        own = name == package or name.startswith(f"{package}.")
        if own or (name not in known and not os.path.realpath(file).startswith(tuple(roots))):
            found[name] = [str(Path(file).absolute()), hashlib.sha256(Path(file).read_bytes()).hexdigest()]
    if module.__name__ not in found:
        raise ImportError(f"{module.__name__} has no file, so nobody could tell when it changes")
    return found


def _plain(value: Any) -> Any:
    """numpy's and torch's numbers as Python's."""
    return value.item() if hasattr(value, "item") and hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0 else value


def _answer(request: dict[str, Any], functions: list[Callable[..., Any]]) -> dict[str, Any]:
    if "load" in request:
        function, files = loaded(request["load"], request["parameters"])
        functions[:] = [function]
        return {"files": files}
    _limit_time(request["seconds"])
    value = functions[0](*request["arguments"])
    value = [_plain(part) for part in value] if isinstance(value, list | tuple) else _plain(value)
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return {"result": None, "unreadable": f"{type(value).__name__}: {value!r:.80}"}
    return {"result": value}


def _limit_time(seconds: float) -> None:
    """From now on; the kernel ends this process beyond it, whatever it is doing."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def main() -> None:
    """Answer requests until stdin ends, which is when the parent ends."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # a function that asks gets no request
    os.dup2(2, 1)  # what it prints must not mix with the answers
    functions: list[Callable[..., Any]] = []
    for line in requests:
        try:
            answer = _answer(json.loads(line), functions)
        except BaseException as error:  # the user's code can raise anything, SystemExit too
            answer = {"error": f"{type(error).__name__}: {error}"[:_SHOWN]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

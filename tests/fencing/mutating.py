"""One text of tenure replaced, in this process, for as long as a block lasts.

The mutant's functions take the places of the module's own, wherever those were imported to; its classes and constants
stay, so that an error of the mutant is still caught by whoever waits for it.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import tenure

if TYPE_CHECKING:
    from collections.abc import Iterator


class Change(NamedTuple):
    """One text of a file, and what is to stand there; the file's path begins below the package."""

    file: str
    text: str
    replacement: str


@contextmanager
def changed(change: Change) -> Iterator[None]:
    """Make a change, in a module, or in SQL or Lua that nobody has read yet."""
    file, text, replacement = change
    if file.endswith(".py"):
        with mutated(f"tenure.{file.removesuffix('.py').replace('/', '.')}", text, replacement):
            yield
        return
    path = Path(tenure.__file__).parent / file
    found = path.read_text("utf-8")
    assert found.count(text) == 1, f"{file}: the text to change is not there, or not unique"
    mutant = found.replace(text, replacement)
    with ExitStack() as undoing:
        for method, content in (("read_text", mutant), ("read_bytes", mutant.encode())):
            plain = getattr(Path, method)

            def read(self: Path, *args: Any, _plain: Any = plain, _content: Any = content, **named: Any) -> Any:
                return _content if self == path else _plain(self, *args, **named)

            _put(undoing, Path, method, read)
        yield


@contextmanager
def mutated(name: str, text: str, replacement: str) -> Iterator[None]:
    """Replace a text, which occurs once in the module."""
    original = import_module(name)
    assert original.__file__ is not None
    source = Path(original.__file__).read_text("utf-8")
    assert source.count(text) == 1, f"{name}: the text to change is not there, or not unique"
    mutant = ModuleType(name)
    mark = f"{original.__file__} (mutant)"
    exec(compile(source.replace(text, replacement), mark, "exec"), mutant.__dict__)  # noqa: S102 - the tree's own text
    with ExitStack() as undoing:
        for key, value in list(vars(mutant).items()):
            mine = vars(original).get(key)
            if isinstance(value, type) and isinstance(mine, type) and value.__module__ == name:
                for attribute, made in vars(value).items():
                    if _code(made) == mark:
                        _put(undoing, mine, attribute, made)
                setattr(mutant, key, mine)
            elif _code(value) == mark:
                for module in [m for n, m in sys.modules.items() if n.startswith(("tenure", "tests"))]:
                    if vars(module).get(key) is mine:
                        _put(undoing, module, key, value)
        yield


def _put(undoing: ExitStack, owner: Any, name: str, value: Any) -> None:
    undoing.callback(setattr, owner, name, vars(owner)[name])
    setattr(owner, name, value)


def _code(made: Any) -> str:
    """Where a function, or what is made of one, was written."""
    made = made.fget if isinstance(made, property) else made
    made = getattr(made, "__wrapped__", made)
    return made.__code__.co_filename if isinstance(made, FunctionType) else ""

"""Both faces have the same methods, and the public API is the one that is recorded."""

from __future__ import annotations

import enum
import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest

import tenure
from tenure import fencing, observe, testing

PAIRS = [
    (tenure.Client, tenure.AsyncClient),
    (tenure.Lock, tenure.AsyncLock),
    (tenure.Lease, tenure.AsyncLease),
    (tenure.Locks, tenure.AsyncLocks),
    (tenure.Leases, tenure.AsyncLeases),
]
RECORD = Path(__file__).with_name("public_api.txt")
ONLY_ASYNC = {"cancel_on_loss"}
"""A thread cannot be stopped, so the blocking face has nothing to opt out of."""

CONTEXT = {"__enter__": "__aenter__", "__exit__": "__aexit__"}


def members(cls: type) -> dict[str, Any]:
    """What users see of a class, however it is inherited."""
    return {
        name: inspect.getattr_static(cls, name)
        for name in dir(cls)
        if not name.startswith("_") or name in ("__init__", *CONTEXT, *CONTEXT.values())
    }


def signature(function: Any) -> list[tuple[str, Any, Any]]:
    found = []
    for parameter in inspect.signature(function).parameters.values():
        default = "<default>" if type(parameter.default) is object else parameter.default
        found.append((parameter.name, parameter.kind, default))
    return found


@pytest.mark.parametrize(("blocking", "aio"), PAIRS)
def test_both_faces_have_the_same_methods_parameters_and_defaults(blocking: type, aio: type) -> None:
    ours = {CONTEXT.get(name, name): member for name, member in members(blocking).items()}
    theirs = members(aio)
    assert set(ours) == set(theirs)
    for name, member in ours.items():
        other = theirs[name]
        assert type(member) is type(other), name
        if not inspect.isfunction(member) or (name == "__init__" and blocking is not tenure.Client):
            continue
        assert signature(member) == [p for p in signature(other) if p[0] not in ONLY_ASYNC], name


@pytest.mark.parametrize(("blocking", "aio"), PAIRS)
def test_what_may_wait_is_async_and_nothing_else(blocking: type, aio: type) -> None:
    waits = {name for name, member in members(aio).items() if inspect.iscoroutinefunction(member)}
    assert not [name for name, member in members(blocking).items() if inspect.iscoroutinefunction(member)]
    assert waits <= {
        "open", "close", "inspect", "names", "steal", "descriptors", "doctor", "migrate", "acquire", "try_acquire",
        "release", "confirm", "wait_lost", "__aenter__", "__aexit__",
    }  # fmt: skip


@pytest.mark.parametrize(("blocking", "aio"), PAIRS)
def test_both_faces_say_the_same_of_the_same(blocking: type, aio: type) -> None:
    for name, member in members(blocking).items():
        if name.startswith("_"):
            continue
        one, two = inspect.getdoc(member), inspect.getdoc(members(aio)[name])
        assert one, f"{blocking.__name__}.{name} has no docstring"
        assert two, f"{aio.__name__}.{name} has no docstring"
        assert one.split("\n")[0].replace("thread", "task") == two.split("\n")[0].replace("thread", "task")


def public_api() -> str:
    """Every public name, what it is, and how it is called."""
    lines = []
    for module in (tenure, fencing, observe, testing):
        for name in sorted(module.__all__):
            thing = getattr(module, name)
            lines.append(f"{module.__name__}.{name}{describe(thing)}")
            if not inspect.isclass(thing):
                continue
            if issubclass(thing, enum.Enum):
                lines += [f"    {member.name} = {member.value!r}" for member in thing]
                continue
            for attribute, member in sorted(own(thing).items()):
                if isinstance(member, property):
                    lines.append(f"    .{attribute}")
                elif inspect.isfunction(member):
                    prefix = "async " if inspect.iscoroutinefunction(member) else ""
                    lines.append(f"    {prefix}.{attribute}{shown(member)}")
    return "\n".join(lines) + "\n"


def own(thing: type) -> dict[str, Any]:
    if issubclass(thing, BaseException | tuple) or hasattr(thing, "__dataclass_fields__"):
        return {}
    return {name: member for name, member in members(thing).items() if not name.startswith("__")}


def describe(thing: Any) -> str:
    if inspect.isfunction(thing):
        return shown(thing)
    if not inspect.isclass(thing):
        return ""
    if issubclass(thing, BaseException):
        return f"({', '.join(base.__name__ for base in thing.__bases__)}) retry={getattr(thing, 'retry', False)}"
    if hasattr(thing, "_fields"):
        return f"({', '.join(thing._fields)})"
    if hasattr(thing, "__dataclass_fields__"):
        return f"({', '.join(thing.__dataclass_fields__)})"
    if thing in (tenure.Client, tenure.AsyncClient, fencing.Row, testing.VirtualClock):
        return shown(thing.__init__)
    return ""


def shown(function: Any) -> str:
    parts, keyword = [], False
    for name, kind, default in signature(function):
        if name == "self":
            continue
        if kind is inspect.Parameter.KEYWORD_ONLY and not keyword:
            keyword = True
            parts.append("*")
        parts.append(name if default is inspect.Parameter.empty else f"{name}={default}")
    return f"({', '.join(parts)})"


def test_the_public_api_is_the_recorded_one() -> None:
    """A change of it is meant, or it is a mistake: RECORD_API=1 records it, and the diff is reviewed."""
    found = public_api()
    if os.environ.get("RECORD_API"):
        RECORD.write_text(found)
    assert found == RECORD.read_text()


def test_no_default_shows_a_memory_address() -> None:
    assert not re.search(r"0x[0-9a-f]+", RECORD.read_text())

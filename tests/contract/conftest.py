"""Runs every test of this folder over every engine and runtime."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.faces import FACES, Face
from tests.contract.registry import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAIRS = list(itertools.product(REGISTRY, FACES))
"""Every engine with every runtime; what the `face` fixture is made of."""


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Callable[[], str]]]:
    """The engines' stores; each engine is started when it is first needed."""
    with contextlib.ExitStack() as stack:
        started: dict[str, Callable[[], str]] = {}

        def site(name: str) -> Callable[[], str]:
            if name not in started:
                folder = tmp_path_factory.mktemp(name)
                started[name] = stack.enter_context(REGISTRY[name].site(folder))
            return started[name]

        yield site


@pytest.fixture(params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def face(request: pytest.FixtureRequest, sites: Callable[[str], Callable[[], str]]) -> Face:
    """One engine under one runtime, with a fresh store."""
    name, runtime = request.param
    registered = REGISTRY[name]
    if reason := registered.missing():
        pytest.skip(reason)
    for mark in request.node.iter_markers("needs"):
        if lacking := set(mark.args) - registered.capabilities:
            pytest.skip(f"{name} does not offer {', '.join(sorted(lacking))}")
    return FACES[runtime](registered, sites(name))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*capabilities): skip engines that do not declare these capabilities")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """An `async def` test is a scenario of its face."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(arguments["face"].run(pyfuncitem.obj, **arguments))
    return True

"""Runs every test of this folder over every engine and runtime."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.contract.faces import FACES, Face
from tests.contract.registry import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.contract.registry import Registered


class Site(NamedTuple):
    """An engine whose servers run."""

    name: str
    registered: Registered
    fresh_url: Callable[[], str]


PAIRS = list(itertools.product(REGISTRY, FACES))
"""Every engine with every runtime; what the fixtures `site` and `face` are made of."""

SCHEMES = {registered.example.partition(":")[0]: name for name, registered in reversed(REGISTRY.items())}
"""One entry for each scheme: until something is connected to, the others are the same client."""

UNCONNECTED = list(itertools.product(SCHEMES.values(), FACES))
"""Every scheme with every runtime, for tests that connect to nothing."""


@pytest.fixture(scope="session", params=REGISTRY)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An engine and its store, of which there is one at a time: pytest puts the tests of an engine together.

    Servers that wait for their next test cost time too: those of ZooKeeper, etcd and Redis's sentinels are never idle.
    """
    name: str = request.param
    registered = REGISTRY[name]
    if reason := registered.missing():
        pytest.skip(reason)
    with registered.site(tmp_path_factory.mktemp(name)) as fresh_url:
        yield Site(name, registered, fresh_url)


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, site: Site) -> Face:
    """One engine under one runtime, with a fresh store."""
    for mark in request.node.iter_markers("needs"):
        if lacking := set(mark.args) - site.registered.capabilities:
            pytest.skip(f"{site.name} does not offer {', '.join(sorted(lacking))}")
    return FACES[request.param](site.registered, site.fresh_url)


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

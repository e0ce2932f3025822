"""No engine and no runtime is left out of this suite."""

from __future__ import annotations

import itertools

import pytest

from tenure import engines
from tests.contract.conftest import PAIRS, SCHEMES, UNCONNECTED
from tests.contract.faces import FACES, Face
from tests.contract.registry import REGISTRY, Registered


def test_every_engine_that_has_a_url_is_registered_with_every_runtime() -> None:
    assert {registered.example.partition(":")[0] for registered in REGISTRY.values()} == set(engines.ENGINES)
    assert set(PAIRS) == set(itertools.product(REGISTRY, ["blocking", "asyncio"]))
    assert set(SCHEMES) == set(engines.ENGINES)
    assert set(UNCONNECTED) == set(itertools.product(SCHEMES.values(), ["blocking", "asyncio"]))
    assert set(FACES) == {"blocking", "asyncio"}


def test_the_whole_suite_is_collected_for_each_pair(request: pytest.FixtureRequest) -> None:
    seen: dict[str, set[object]] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and "/contract/" in item.path.as_posix() and "face" in item.fixturenames:
            params = item.callspec.params
            pair = (params["site"], params["face"]) if "site" in params else params["face"]
            seen.setdefault(f"{item.path.name}::{item.originalname}", set()).add(pair)
    if request.config.option.keyword or not seen or any("[" in argument for argument in request.config.args):
        pytest.skip("only a part of the suite was asked for")
    wanted = {name: set(UNCONNECTED if name.startswith("test_arguments.py") else PAIRS) for name in seen}
    assert {name: pairs for name, pairs in seen.items() if pairs != wanted[name]} == {}


@pytest.mark.parametrize("registered", REGISTRY.values(), ids=REGISTRY)
def test_an_engine_declares_what_it_is_registered_with(registered: Registered) -> None:
    engine = engines.connect(registered.example, "tenure")
    assert engine.capabilities == registered.capabilities
    assert engine.conditional == registered.conditional


async def test_a_client_shows_what_its_engine_offers(face: Face) -> None:
    client = face.client()
    assert client.capabilities == face.registered.capabilities
    assert client.scope
    assert not client._core.is_open, "asking what an engine offers must not connect"

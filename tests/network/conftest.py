"""A server of each kind, behind a network that fails on demand."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tenure import Client
from tests.faces.watched import LONG
from tests.network.places import KINDS, Way
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.network.places import Place

_serial = itertools.count(1)


@pytest.fixture(scope="module", params=sorted(KINDS))
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    kind = KINDS[request.param]
    if reason := kind.missing():
        pytest.skip(reason)
    with kind.enter() as place:
        yield place


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    with Proxy(place.address) as proxy:
        yield proxy


@pytest.fixture
def way(place: Place, proxy: Proxy) -> Way:
    namespace = {"namespace": f"network-{next(_serial)}"}
    return Way(place.url(proxy.host, proxy.port), place.url(*place.address), namespace, place.ttl, place.patience)


@pytest.fixture
def witness(way: Way) -> Iterator[Client]:
    """A client whose network is sound."""
    with Client(way.sound, ttl=LONG, **way.options) as client:
        yield client

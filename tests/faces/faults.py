"""Faults of a network that pass, each struck while a request is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.faces.watched import Attempt
from tests.servers.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.proxy import Proxy


def cut(proxy: Proxy, how: Any) -> None:
    """Close the connections while a request is on its way; it never arrives."""
    proxy.hold("requests")
    until(lambda: proxy.held("requests"), "a request is on its way")
    assert proxy.cut(how) > 0
    proxy.heal()


def lose(proxy: Proxy, *what: Any) -> None:
    """Let requests or replies disappear, and after them whatever else is sent on those connections."""
    before = dict(proxy.dropped)
    proxy.drop(*what)
    until(lambda: any(proxy.dropped[one] > before[one] for one in what), "something is lost")
    proxy.heal()


FAULTS: Final[dict[str, Callable[[Proxy], object]]] = {
    "reset": lambda proxy: cut(proxy, "rst"),
    "end of stream": lambda proxy: cut(proxy, "fin"),
    "half-open": lambda proxy: lose(proxy, "requests", "replies"),
    "lost reply": lambda proxy: lose(proxy, "replies"),
}


def during(fault: Callable[[Proxy], object], proxy: Proxy, do: Callable[[], Any]) -> Attempt[Any]:
    """Do it, with a fault while its request is under way."""
    hit = Attempt(lambda: (fault(proxy), True))
    # What was still under way from before may have met it already: then the request meets what is left of it.
    until(lambda: hit.ended_at or any(mode.value != "flow" for mode in proxy._modes.values()), "it is armed")
    attempt = Attempt(do)
    hit.outcome()
    return attempt

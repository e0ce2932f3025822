"""Whatever is given for an argument or stands in a URL: refused as `UsageError` or taken, and no secret is repeated.

The tables of the contract suite say which values are wrong; here hypothesis looks for those that nobody thought of.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenure import AsyncClient, Client, UsageError, config
from tenure.engines import ENGINES

if TYPE_CHECKING:
    from collections.abc import Callable

HUGE: Final = 10**5000
"""No float, and more digits than Python prints."""

VALUES: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(HUGE),
    st.floats(),
    st.text(max_size=600),
    st.text(st.characters(categories=["Cs", "Cc", "Lu"]), max_size=4),
    st.binary(max_size=4),
    st.decimals(),
    st.timedeltas(),
    st.lists(st.text(max_size=3), max_size=2),
    st.just([[]]),
    st.builds(object),
)

URLS: Final = ("memory://any", "sqlite:///nowhere/any.db", "redis://127.0.0.1:1")
CLIENTS: Final = [face(url) for url in URLS for face in (Client, AsyncClient)]

CALLS: Final[dict[str, Callable[[Any, Any], object]]] = {
    "name": lambda client, value: client.lock(value),
    "shared": lambda client, value: client.lock("n", shared=value),
    "wait": lambda client, value: client.lock("n", wait=value),
    "max_hold": lambda client, value: client.lock("n", max_hold=value),
    "lock_delay": lambda client, value: client.lock("n", lock_delay=value),
    "info": lambda client, value: client.lock("n", info=value),
    "limit": lambda client, value: client.semaphore("n", value),
    "permits": lambda client, value: client.semaphore("n", 3, permits=value),
}
OPTIONS: Final = ("ttl", "namespace", "max_hold", "require", "skew", "client", "on_event", "options")


def refusal(make: Callable[[], object]) -> str | None:
    """What the refusal says, in a line whatever was given; None if there is none."""
    try:
        make()
    except UsageError as error:
        said = str(error)
    else:
        return None
    assert len(said) < 300
    return said


@pytest.mark.parametrize("argument", CALLS)
@given(client=st.sampled_from(CLIENTS), value=VALUES)
@example(client=CLIENTS[0], value=HUGE)
def test_of_a_lock(argument: str, client: Any, value: Any) -> None:
    said = refusal(lambda: CALLS[argument](client, value))
    assert said is None or argument in said
    assert not client._core.is_open


@pytest.mark.parametrize("option", OPTIONS)
@given(face=st.sampled_from((Client, AsyncClient)), url=st.sampled_from(URLS), value=VALUES)
@example(face=Client, url=URLS[0], value=HUGE)
@example(face=Client, url=URLS[0], value=None)
@example(face=Client, url=URLS[0], value=[[]])
@example(face=Client, url=URLS[0], value=0)
def test_of_a_client(option: str, face: Any, url: str, value: Any) -> None:
    said = refusal(lambda: repr(face(url, **{option: value})))
    assert said is None or option in said
    if option in ("client", "on_event") and value is not None and not isinstance(value, str):
        assert said is not None, "also what Python takes for false is no name and no function"


@given(value=VALUES)
@example(value=HUGE)
def test_of_a_question(value: Any) -> None:
    """Where a right value would be asked for, only the check is called that stands before the question."""
    for check in (config.name, config.wait, lambda value: config.count("token", value, 2**63 - 1)):
        with suppress(UsageError):
            check(value)


def test_of_a_lease() -> None:
    with Client("memory://") as client, client.lock("n") as lease, pytest.raises(UsageError, match="timeout"):
        lease.wait_lost(HUGE)


# -- URLs --------------------------------------------------------------------------------------------------------------

SECRET: Final = "hunter2"  # noqa: S105 - a test's

PIECES: Final = st.lists(
    st.sampled_from([*"/?#%@:[]&=,; \n", "é", "℀", "\ud800", "%ff", "%00", "ttl=3", "require=", "db=1", "://", "::1"]),
    max_size=5,
).map("".join)


def said_of(url: str) -> list[str]:
    """All that a client of this URL, or the refusal to make one, says for people."""
    try:
        client = Client(url)
    except UsageError as error:
        return [str(error), repr(error), *map(str, [error.__cause__] if error.__cause__ else [])]
    return [repr(client), client.scope]


@pytest.mark.parametrize("scheme", [scheme for scheme in ENGINES if scheme not in ("sqlite", "redis+unix")])
@settings(max_examples=50)
@given(before=PIECES, after=PIECES, behind=PIECES)
@example(before="[", after="", behind="")  # urllib takes it for an address
@example(before="", after="℀", behind="")  # and for this it would repeat the whole part before the path
@example(before="?ttl=3", after="", behind="")
@example(before="?require=", after="", behind="")
def test_a_password_that_was_not_escaped_is_not_repeated(scheme: str, before: str, after: str, behind: str) -> None:
    url = f"{scheme}://user:{before}{SECRET}{after}@host{behind}"
    assert [said for said in said_of(url) if SECRET in said] == []


@given(text=st.text(st.characters(exclude_categories=[]), max_size=30), scheme=st.sampled_from(sorted(ENGINES)))
@example(text="/\ud800", scheme="sqlite")
@example(text="h/\ud800", scheme="postgresql")
def test_any_url_is_taken_or_refused(scheme: str, text: str) -> None:
    said_of(f"{scheme}://{text}")


@pytest.mark.parametrize("url", ["sqlite:///tmp/any.db\n", "redis+unix:///run/any.sock\r", "memory://any\n"])
def test_a_line_that_came_along_names_no_other_store(url: str) -> None:
    with pytest.raises(UsageError, match=r"^url: the control character"):
        Client(url)


@pytest.mark.parametrize("url", [f"redis:user:{SECRET}@host://", f"redis:/{SECRET}@h?listen_url=redis://h"])
def test_what_is_no_scheme_is_not_repeated(url: str) -> None:
    assert [said for said in said_of(url) if SECRET in said] == []

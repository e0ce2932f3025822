"""Ways to add one to a counter under a lease: ours, and those that look right and are not.

Each is a write path of the drill: `async def (session, lease, pause)`. It calls `pause(place)` where it can be stopped:
"granted" before anything is asked, "read" between read and write, "written" before the commit. A store that speaks no
SQL has paths of its own, in its `Driver`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tenure.errors import StaleToken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fencing.stores import Session

    Pause = Callable[[str], Awaitable[None]]


class Fault(Exception):
    """The work of a holder fails."""


async def write(session: Session, value: int) -> None:
    await session.do(f"UPDATE counter SET v = {value} WHERE id = 1")


async def guarded(session: Session, lease: Any, pause: Pause) -> None:
    """One guarded transaction."""
    await pause("granted")
    async with session.guard(lease):
        value = await session.value()
        await pause("read")
        await write(session, value + 1)
        await pause("written")


async def guarded_twice(session: Session, lease: Any, pause: Pause) -> None:
    """One guarded transaction reads, another one writes what came of it."""
    await pause("granted")
    async with session.guard(lease):
        value = await session.value()
    await pause("read")
    async with session.guard(lease):
        await write(session, value + 1)
        await pause("written")


async def opened(session: Session, lease: Any, pause: Pause) -> None:
    """The fence is opened first; the transaction is the user's, and is checked before it is committed."""
    await pause("granted")
    await session.open(lease)
    await session.begin()
    async with session.guard(lease):
        value = await session.value()
        await pause("read")
        await write(session, value + 1)
    await pause("written")
    await session.commit()


async def numbered(session: Session, lease: Any, pause: Pause) -> None:
    """One guarded transaction, with the number of the operation."""
    await pause("granted")
    async with session.guard(lease, seq=session.seq):
        value = await session.value()
        await pause("read")
        await write(session, value + 1)
        await pause("written")


async def unfenced(session: Session, lease: Any, pause: Pause) -> None:
    """The lock alone."""
    await pause("granted")
    value = await session.value()
    await session.rollback()
    await pause("read")
    await write(session, value + 1)
    await pause("written")
    await session.commit()


async def asked(session: Session, lease: Any, pause: Pause) -> None:
    """Ask the lease right before the write."""
    await pause("granted")
    value = await session.value()
    await session.rollback()
    lease.check()
    await pause("read")
    await write(session, value + 1)
    await pause("written")
    await session.commit()


async def read_before_raise(session: Session, lease: Any, pause: Pause) -> None:
    """Our own guard, with the read before it."""
    await pause("granted")
    value = await session.value()
    await session.rollback()
    await pause("read")
    async with session.guard(lease):
        await write(session, value + 1)
        await pause("written")


async def write_without_raise(session: Session, lease: Any, pause: Pause) -> None:
    """The fence beside the value: compared and raised by the write itself, in one statement."""
    await pause("granted")
    value = await session.value()
    await session.rollback()
    await pause("read")
    await session.do(
        f"UPDATE counter SET v = {value + 1}, fence = {lease.token} WHERE id = 1 AND fence <= {lease.token}"
    )
    if await session.one("SELECT fence FROM counter WHERE id = 1") != lease.token:
        await session.rollback()
        raise StaleToken("stale")
    await pause("written")
    await session.commit()


async def check_then_write(session: Session, lease: Any, pause: Pause) -> None:
    """Raise, read, check and write, each right by itself."""
    await pause("granted")
    await raise_column(session, lease, "<=")
    value = await session.value()
    if await session.one("SELECT fence FROM counter WHERE id = 1") != lease.token:
        await session.rollback()
        raise StaleToken("stale")
    await session.rollback()
    await pause("read")
    await write(session, value + 1)
    await pause("written")
    await session.commit()


async def strict(session: Session, lease: Any, pause: Pause) -> None:
    """As it should be, but a token counts once only."""
    await pause("granted")
    await raise_column(session, lease, "<")
    value = await session.value()
    await session.rollback()
    await pause("read")
    await session.do(f"UPDATE counter SET v = {value + 1} WHERE id = 1 AND fence = {lease.token}")
    if await session.one("SELECT fence FROM counter WHERE id = 1") != lease.token:
        await session.rollback()
        raise StaleToken("stale")
    await pause("written")
    await session.commit()


async def forgotten(session: Session, lease: Any, pause: Pause) -> None:
    """As it should be, but the fence has a ttl, which is over when somebody comes back late."""
    await pause("granted")
    await keep_for_a_while(session, lease, "v")
    await session.commit()
    value = await session.value()
    await session.rollback()
    await pause("read")
    await keep_for_a_while(session, lease, str(value + 1))
    await pause("written")
    await session.commit()


async def keep_for_a_while(session: Session, lease: Any, value: str) -> None:
    """Compare and raise a fence that has a ttl, and write."""
    token, now = lease.token, now_us()
    await session.do(
        f"UPDATE counter SET v = {value}, fence = {token} WHERE id = 1 "
        f"AND (fence <= {token} OR (SELECT until FROM lapse) < {now})"
    )
    if await session.one("SELECT fence FROM counter WHERE id = 1") != token:
        await session.rollback()
        raise StaleToken("stale")
    await session.do(f"UPDATE lapse SET until = {now + TTL_US}")


TTL_US = 100
"""Of a fence that has one: any is too short for somebody who was away for longer."""


def now_us() -> int:
    return time.monotonic_ns() // 1000


async def raise_column(session: Session, lease: Any, comparison: str) -> None:
    """Raise the fence beside the value, committed."""
    found = await session.one("SELECT fence FROM counter WHERE id = 1")
    if not (found < lease.token if comparison == "<" else found <= lease.token):
        await session.rollback()
        raise StaleToken("stale")
    await session.do(f"UPDATE counter SET fence = {lease.token} WHERE id = 1 AND fence {comparison} {lease.token}")
    await session.commit()


PATHS: dict[str, Any] = {
    "guarded": guarded,
    "guarded twice": guarded_twice,
    "opened": opened,
    "numbered": numbered,
}
"""Must lose nothing and deny nobody."""

NAIVE: dict[str, Any] = {
    "unfenced": unfenced,
    "asked": asked,
    "read before raise": read_before_raise,
    "write without raise": write_without_raise,
    "check then write": check_then_write,
    "strict comparison": strict,
    "ttl on the fence": forgotten,
    "not numbered": guarded,
}
"""Must be found out."""

DENYING = frozenset({"strict comparison"})
"""Of the wrong ones, those that lose nothing and refuse the rightful holder."""

DUPLICATING = frozenset({"numbered", "not numbered"})
"""Those of which operations are sent twice."""

"""Ways to add one to a counter under a lease: ours, and those that look right and are not.

Each is a write path of the drill: `async def (session, lease, pause)`. It calls `pause(place)` where it can be stopped:
"granted" before anything is asked, "read" between read and write, "written" before the commit. Which of them a store
can be worked on by stands in its `Driver`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenure.errors import StaleToken
from tenure.fencing import Row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.fencing.session import Session

    Pause = Callable[[str], Awaitable[None]]


class Fault(Exception):
    """The work of a holder fails."""


async def guarded(session: Session, lease: Any, pause: Pause) -> None:
    """One guarded transaction."""
    await pause("granted")
    async with session.guard(lease):
        value = await session.value()
        await pause("read")
        await session.write(value + 1)
        await pause("written")


async def guarded_twice(session: Session, lease: Any, pause: Pause) -> None:
    """One guarded transaction reads, another one writes what came of it."""
    await pause("granted")
    async with session.guard(lease):
        value = await session.value()
    await pause("read")
    async with session.guard(lease):
        await session.write(value + 1)
        await pause("written")


async def opened(session: Session, lease: Any, pause: Pause) -> None:
    """The fence is opened first; the transaction is the user's, and is checked before it is committed."""
    await pause("granted")
    await session.open(lease)
    await session.begin()
    async with session.guard(lease):
        value = await session.value()
        await pause("read")
        await session.write(value + 1)
    await pause("written")
    await session.commit()


async def numbered(session: Session, lease: Any, pause: Pause) -> None:
    """One guarded transaction, with the number of the operation."""
    await pause("granted")
    async with session.guard(lease, seq=session.seq):
        value = await session.value()
        await pause("read")
        await session.write(value + 1)
        await pause("written")


async def in_its_row(session: Session, lease: Any, pause: Pause) -> None:
    """One guarded transaction, with the fence in the row itself."""
    await pause("granted")
    async with session.guard(lease, row=Row("counter", {"id": 1})):
        value = await session.value()
        await pause("read")
        await session.write(value + 1)
        await pause("written")


async def unfenced(session: Session, lease: Any, pause: Pause) -> None:
    """The lock alone."""
    await pause("granted")
    value = await session.value()
    await session.rollback()
    await pause("read")
    await session.write(value + 1)
    await pause("written")
    await session.commit()


async def asked(session: Session, lease: Any, pause: Pause) -> None:
    """Ask the lease right before the write."""
    await pause("granted")
    value = await session.value()
    await session.rollback()
    lease.check()
    await pause("read")
    await session.write(value + 1)
    await pause("written")
    await session.commit()


async def read_before_raise(session: Session, lease: Any, pause: Pause) -> None:
    """Our own guard, with the read before it."""
    await pause("granted")
    value = await session.value()
    await session.rollback()
    await pause("read")
    async with session.guard(lease):
        await session.write(value + 1)
        await pause("written")


async def write_without_raise(session: Session, lease: Any, pause: Pause) -> None:
    """The fence beside the value: compared and raised by the write itself, in one step."""
    await pause("granted")
    value = await session.value()
    await session.rollback()
    await pause("read")
    if not await session.write_beside(value + 1, lease.token):
        await session.rollback()
        raise StaleToken("stale")
    await pause("written")
    await session.commit()


async def check_then_write(session: Session, lease: Any, pause: Pause) -> None:
    """Raise, read, check and write, each right by itself."""
    await pause("granted")
    await raise_beside(session, lease, strict=False)
    value = await session.value()
    if await session.beside() != lease.token:
        await session.rollback()
        raise StaleToken("stale")
    await session.rollback()
    await pause("read")
    await session.write(value + 1)
    await pause("written")
    await session.commit()


async def strict(session: Session, lease: Any, pause: Pause) -> None:
    """As it should be, but a token counts once only."""
    await pause("granted")
    await raise_beside(session, lease, strict=True)
    value = await session.value()
    await session.rollback()
    await pause("read")
    if not await session.write_beside(value + 1, lease.token, strict=True):
        await session.rollback()
        raise StaleToken("stale")
    await pause("written")
    await session.commit()


async def forgetful(session: Session, lease: Any, pause: Pause) -> None:
    """As it should be, but the fence has a TTL, which is over when somebody comes back late."""
    await pause("granted")
    if not await session.write_lapsing(lease.token):
        await session.rollback()
        raise StaleToken("stale")
    await session.commit()
    value = await session.value()
    await session.rollback()
    await pause("read")
    if not await session.write_lapsing(lease.token, value + 1):
        await session.rollback()
        raise StaleToken("stale")
    await pause("written")
    await session.commit()


async def raise_beside(session: Session, lease: Any, *, strict: bool) -> None:
    """Raise the fence beside the value, committed."""
    found = await session.beside()
    if not (found < lease.token if strict else found <= lease.token):
        await session.rollback()
        raise StaleToken("stale")
    await session.raise_beside(lease.token)


PATHS: dict[str, Any] = {
    "guarded": guarded,
    "guarded twice": guarded_twice,
    "opened": opened,
    "numbered": numbered,
    "in its row": in_its_row,
}
"""Must lose nothing and deny nobody."""

NAIVE: dict[str, Any] = {
    "unfenced": unfenced,
    "asked": asked,
    "read before raise": read_before_raise,
    "write without raise": write_without_raise,
    "check then write": check_then_write,
    "strict comparison": strict,
    "TTL on the fence": forgetful,
    "not numbered": guarded,
}
"""Must be found out."""

DENYING = frozenset({"strict comparison"})
"""Of the wrong ones, those that lose nothing and refuse the rightful holder."""

DUPLICATING = frozenset({"numbered", "not numbered"})
"""Those of which operations are sent twice."""


def without(paths: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """All but those that a store has no means for."""
    return {name: path for name, path in paths.items() if name not in names}

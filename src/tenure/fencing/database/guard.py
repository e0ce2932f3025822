"""The guards of SQL: raise first, committed; then, in each transaction, check before anything is read.

Promises: the work of a guarded transaction is committed only if no later holder had raised the fence when it began, and
none can raise it before it ends. What a holder reads under its guard is what earlier holders left, and none of them
writes afterwards. Does not promise that a stale holder is told before it asks, nor anything of a resource that nobody
raised, or of reads before the guard.

Written once: `Section` awaits only its port to the database, so that `Guard` runs it for blocking drivers and
`AsyncGuard` under asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from tenure.errors import MissingRow, UsageError
from tenure.fencing.refusing import settle
from tenure.fencing.rule import Fence, Verdict, judge, raised
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from types import TracebackType

    from tenure.fencing.database.places import Place
    from tenure.fencing.rule import Holder, Proof
    from tenure.sql.ports import Database
    from tenure.sql.statements import Statement

C = TypeVar("C")

# Python 3.11 takes 90 ns for an enum's member and 10 for a module's name, and each block asks five times.
ACCEPTED: Final = Verdict.ACCEPTED
NOT_RAISED: Final = Verdict.NOT_RAISED


class Section:
    """One holder at one resource over one connection."""

    def __init__(self, database: Database, place: Place, proof: Proof, holder: Holder | None) -> None:
        self._database = database
        self._place = place
        self._proof = proof
        self._holder = holder
        self._is_ours = False
        self._is_inside = False
        if proof.seq and place.number is None:
            raise UsageError("seq: this row has no column for operation numbers; name one, or use the table of fences")

    async def open(self) -> None:
        """Raise the fence, and commit that.

        Raises:
            LeaseLost: the lease says so itself; nothing was asked.
            UsageError: a transaction has begun on this connection; nothing was done.
            StaleToken, ForeignToken, FenceRegression: refused.
            MissingTable, MissingRow: there is no fence to raise.
        """
        self._look()
        if self._database.has_begun():
            raise UsageError(
                "a transaction has begun on this connection, and a fence is raised in one of its own: commit it first"
            )
        await self._raise()

    async def join(self) -> None:
        """Raise the fence in the transaction that has begun, to be kept with its commit.

        Only for one that is READ COMMITTED, whose proof is its own, and that reads what it protects afterwards (D1).
        Waits for the open transactions of an earlier holder.

        Raises:
            StaleToken, ForeignToken: refused; nothing was raised.
            MissingTable, MissingRow: there is no fence to raise.
        """
        last = self._place.raising[-1]
        verdict, fence = await self._lift(last.read, last.write)
        if verdict is not NOT_RAISED:
            await settle(verdict, fence, self._proof, self._holder, is_async=self._database.is_async)

    async def enter(self) -> None:
        """Begin the user's transaction with a check; or only check, in one that has begun."""
        if self._is_inside:
            raise UsageError("this guard is entered already; make another for a block inside of its own")
        self._look()
        database = self._database
        self._is_ours = not database.has_begun()
        if not self._is_ours:
            verdict, fence = await self._check()
        else:
            verdict, fence = await self._begin()
            if verdict is NOT_RAISED:
                await self._raise()
                verdict, fence = await self._begin()
        if verdict is not ACCEPTED:
            await settle(verdict, fence, self._proof, self._holder, is_async=self._database.is_async)
        self._is_inside = True

    async def leave(self, error: BaseException | None) -> bool:
        """End the transaction if it is ours."""
        self._is_inside = False
        return await self._database.end(error) if self._is_ours else False

    def _look(self) -> None:
        """Whoever has lost its lease is not asked for its token; costs no request."""
        if self._holder is not None:
            self._holder.check()

    async def _begin(self) -> tuple[Verdict, Fence]:
        """Begin, and check; the transaction is open only if the proof was accepted."""
        await self._database.begin(raising=False)
        try:
            verdict, fence = await self._check()
        except BaseException as error:
            await self._database.end(error)
            raise
        if verdict is not ACCEPTED:
            await self._database.end(_Refused())
        return verdict, fence

    async def _check(self) -> tuple[Verdict, Fence]:
        """The first statement of a transaction: nothing was read that could be out of date."""
        place, proof = self._place, self._proof
        if place.join is not None:
            await self._database.execute(place.join, {})
        fence = await self._read(place.lock if proof.seq else place.check)
        if fence is None and not place.plant:
            raise MissingRow(f"there is no row {proof.resource}, which carries the fence")
        verdict = NOT_RAISED if fence is None else judge(fence, proof)
        if verdict is ACCEPTED and place.number is not None and proof.seq:
            await self._database.execute(place.number, {**place.key, "seq": proof.seq})
        return verdict, fence or Fence()

    async def _raise(self) -> None:
        for step in self._place.raising:
            await self._database.begin(raising=True)
            try:
                verdict, fence = await self._lift(step.read, step.write)
            except BaseException as error:
                await self._database.end(error)
                raise
            await self._database.end(None)
            if verdict is ACCEPTED:
                return
            if verdict is not NOT_RAISED:
                await settle(verdict, fence, self._proof, self._holder, is_async=self._database.is_async)

    async def _lift(self, read: Statement, write: Statement) -> tuple[Verdict, Fence]:
        """Raise the fence if it is too low; also where it is raised a second time, as the raise has no number."""
        place, proof = self._place, self._proof._replace(seq=0)
        if place.join is not None:
            await self._database.execute(place.join, {})
        fence = await self._read(read)
        if fence is None:
            for plant in place.plant:
                await self._database.execute(plant, place.key)
            fence = await self._read(read)
        if fence is None:
            raise MissingRow(f"there is no row {proof.resource}, which carries the fence")
        verdict = judge(fence, proof)
        if verdict is NOT_RAISED:
            after = raised(fence, proof)
            values = {"floor": after.token, "authority": after.authority}
            await self._database.execute(write, {**place.key, **values})
        return verdict, fence

    async def _read(self, read: Statement) -> Fence | None:
        """The fence; to a snapshot from before a raise, as one that is about to be raised."""
        place = self._place
        row = await self._database.fetch(read, place.key)
        if row is None:
            return None
        fence = Fence(*row)
        if place.snapshot is None:
            return fence
        (token,) = await self._database.fetch(place.snapshot, place.key) or (0,)
        return fence._replace(token=token, intent=fence.token)


class _Refused(Exception):
    """Rolls back a transaction of ours in which nothing was done."""


class Guard(Generic[C]):
    """A `with` block whose work is committed only if no later holder has come."""

    def __init__(self, connection: C, section: Section) -> None:
        self._connection = connection
        self._section = section

    def __enter__(self) -> C:
        run(self._section.enter())
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return run(self._section.leave(error))


class AsyncGuard(Generic[C]):
    """An `async with` block whose work is committed only if no later holder has come."""

    def __init__(self, connection: C, section: Section) -> None:
        self._connection = connection
        self._section = section

    async def __aenter__(self) -> C:
        await self._section.enter()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return await self._section.leave(error)

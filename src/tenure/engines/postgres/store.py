"""The store's port over one PostgreSQL database: one function call per step, written once for both transports.

Promises: every step compares format and id of the genesis record before it touches anything (B12); a step that the
server refused had no effect, for it is one statement in a transaction of its own; one without an answer is
`OutcomeUnknown`, never a guess.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from tenure.engines.diagnosis import refuse_future
from tenure.errors import IncompatibleStore, OutcomeUnknown, SetupError, StoreUnavailable, TenureError, UnsafeSetup
from tenure.model import Contender, Instant, Kind, Mode, Queue, UtcTime, holders
from tenure.ports import Beat, ClaimRef, Message, Peer, Place, SessionFacts, Standing
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tenure.engines.postgres.link import Answer
    from tenure.model import Seconds
    from tenure.ports import Closing, Entry

FORMAT: Final = 1
SPOKEN: Final = (1,)

IDLE_S: Final = 3600.0
"""Seconds without a claim after which the row of a name is collected."""

DEAF_S: Final = 0.05
"""Seconds after which a waiter looks again whose request was sent while nobody listened."""

TRIES: Final = 3
"""How often one step adopts a genesis record, or raises a ceiling, that has changed under it."""

_KIND: Final = {Kind.EXCLUSIVE: b"0", Kind.SHARED: b"1", Kind.PERMITS: b"2"}
_KINDS: Final = tuple(_KIND)
_STANDINGS: Final = {standing.value: standing for standing in Standing}

_AGAIN: Final = ("40001", "40P01")
"""A serialization failure, a deadlock: the transaction had no effect, and another try has a fair chance."""

_FORMAT: Final = b"%d" % FORMAT

_parsed: Final = json.JSONDecoder().raw_decode
"""Reads a reply as the server writes it. `json.loads` guesses the encoding of bytes and skips blanks besides."""

_MISSING: Final = ("3F000", "42883", "42P01")
"""There is no such schema, function or table."""


HOT: Final = (("join_queue", 13), ("release", 7), ("heartbeat", 7), ("look", 8))
"""The steps that are made often, and with how many arguments."""


class Wire(Protocol):
    """A transport: one statement at a time goes out, and its answer comes in."""

    async def exchange(self, statement: bytes, values: Sequence[bytes | None], timeout: Seconds) -> Answer:
        """Run a statement in a transaction of its own; an error of the server is an answer, not raised.

        Raises:
            StoreUnavailable: nothing was sent.
            UnsafeSetup: nothing was sent, for the server refuses us.
            OutcomeUnknown: something was, and no answer came.
        """
        ...

    def forget(self) -> None:
        """This server is not the one to ask, as it says itself: connect anew, which looks for it."""
        ...


class Known:
    """What one client knows of the store, over all its connections.

    Attributes:
        schema: where the functions are.
        commits: synchronous_commit of our transactions; empty for the server's own.
        id: the random id of the genesis record; empty until it was read.
        hears: the mailbox hears what is told now. While it does not, a waiter looks again soon: what was told between
            its request and the first LISTEN was told to nobody.
    """

    def __init__(self, schema: str, commits: str) -> None:
        self.schema = schema
        self.commits = commits.encode()
        self.id = ""
        self.hears = True

    @property
    def hot(self) -> tuple[bytes, ...]:
        """The statements that are worth preparing."""
        return tuple(self.statement(*step) for step in HOT)

    def statement(self, function: str, arguments: int) -> bytes:
        """The call of a function."""
        places = ",".join(f"${place}" for place in range(1, arguments + 1))
        return f'SELECT "{self.schema}".{function}({places})'.encode()


class PostgresStore:
    """As `ports.QueueStore`."""

    def __init__(self, wire: Wire, known: Known, now: Callable[[], Instant]) -> None:
        self._wire = wire
        self._known = known
        self._now = now
        self._statements: dict[tuple[str, int], bytes] = {}

    # -- the steps --------------------------------------------------------------------------------------------------

    async def enter(self, entry: Entry, timeout: Seconds) -> Place:
        card, mode = entry.session, entry.mode
        sent = self._now()
        claim = (
            b"%d" % entry.claim,
            entry.name.encode(),
            _KIND[mode.kind],
            b"%d" % mode.permits,
            b"%d" % mode.limit,
            b"%d" % _us(entry.delay),
            entry.at_once,
            entry.info.encode(),
        )
        hears = self._known.hears
        for _ in range(TRIES):
            if entry.opening or entry.extend:
                session = card.id, entry.opening, entry.extend, _us(card.ttl)
                reply = await self._step("enter", timeout, *session, *claim, *card[2:])
            else:
                reply = await self._step("join_queue", timeout, card.id, *claim)
            if reply[0] != "ceiling":
                break
            await self._step("raise_ceiling", timeout, reply[1])
        else:
            raise StoreUnavailable("the ceiling of the numbers changed several times during one request; try again")
        if reply[0] == "exhausted":
            raise UnsafeSetup("the name has given its last number, 2^53 - 1; a clock was wrong. Nothing was entered")
        return self._place(reply, sent, card.ttl, hears)

    async def look(self, ref: ClaimRef, timeout: Seconds) -> Place:
        sent, hears = self._now(), self._known.hears
        reply = await self._step("look", timeout, ref.session, ref.claim, ref.name, ref.number)
        return self._place(reply, sent, 0.0, hears)

    async def close(self, closings: Sequence[Closing], timeout: Seconds) -> list[bool]:
        were: list[bool]
        ref, tombstone, _, held, _ = closings[0]
        if len(closings) == 1 and held and ref.number and not tombstone:
            were = await self._step("release", timeout, ref.session, ref.name, ref.number)
            return were
        wanted = [
            {**_named(ref), "tombstone": tombstone, "clean": clean, "held": held, "ttl_us": _us(ttl)}
            for ref, tombstone, clean, held, ttl in closings
        ]
        were = await self._step("close_claims", timeout, _json(wanted))
        return were

    async def heartbeat(self, session: str, ttl: Seconds, waiting: bool, timeout: Seconds) -> Beat:
        until = self._now() + timeout
        verdict, life, *rest = await self._step("heartbeat", timeout, session, _us(ttl), waiting)
        if verdict == "over":
            return Beat(SessionFacts(ttl, self._life(life), 0), (), over=True)
        stolen, is_sweep_due, grants = rest
        if is_sweep_due:
            # A step of its own: the heartbeat holds its session's row, and names are locked before sessions.
            grants = await self._swept(session, until - self._now()) if waiting else await self._sweep(until)
        granted = tuple(Message(session, *grant) for grant in grants)
        return Beat(SessionFacts(ttl, self._life(life), stolen), granted if waiting else ())

    async def standing(self, refs: Sequence[ClaimRef], timeout: Seconds) -> list[bool]:
        stands: list[bool] = await self._step("standing", timeout, _json([_named(ref) for ref in refs]))
        return stands

    async def claims(self, session: str, timeout: Seconds) -> list[ClaimRef]:
        rows = await self._step("claims_of", timeout, session)
        return [ClaimRef(session, claim, name, number) for claim, number, name in rows]

    async def end(self, session: str, timeout: Seconds) -> None:
        await self._step("end_session", timeout, session)

    async def inspect(self, name: str, timeout: Seconds) -> Queue:
        return queue_of(name, await self._step("inspect", timeout, name))

    async def names(self, prefix: str, timeout: Seconds) -> list[str]:
        return sorted(await self._step("names_like", timeout, prefix))

    async def steal(self, name: str, number: int, timeout: Seconds) -> bool:
        reply = await self._step("steal", timeout, name, number)
        return bool(reply[0])

    async def authority(self, timeout: Seconds) -> str:
        await self._adopt(timeout)
        return f"postgresql:{self._known.id}"

    async def collect(self, timeout: Seconds, idle: Seconds = IDLE_S) -> int:
        """Remove the rows of names that nobody has asked for in so many seconds; how many there were."""
        reply = await self._step("collect", timeout, _us(idle))
        return int(reply[0])

    # -- one step ---------------------------------------------------------------------------------------------------

    async def _step(self, name: str, timeout: Seconds, *arguments: str | int | bytes) -> Any:
        """Run a step in this life of the store, and again after what certainly had no effect and may pass."""
        until = self._now() + timeout
        for _ in range(TRIES):
            store_id = self._known.id
            left = max(0.001, until - self._now())
            # The server gives up before the caller does: a certain "no effect" is worth more than no answer, and no
            # transaction stays behind in the queue for a lock.
            patience_ms = max(1, int(left * 900))
            answer = await self._ask(name, left, _FORMAT, store_id, self._known.commits, patience_ms, *arguments)
            if not answer.state:
                return _parsed(answer.value.decode())[0]
            if answer.state == "TN001" and store_id == self._known.id:
                # Nothing was touched. The schema was made anew, and perhaps by another release: this is another life.
                await self._adopt(until - self._now())
            elif answer.state not in ("TN001", *_AGAIN):
                raise self._explained(answer)
        raise StoreUnavailable("the store changed, or transactions met, several times during one request; try again")

    async def _ask(self, name: str, timeout: Seconds, *arguments: str | int | bytes) -> Answer:
        values = [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
        key = name, len(values)
        statement = self._statements.get(key)
        if statement is None:
            statement = self._statements[key] = self._known.statement(*key)
        return await self._wire.exchange(statement, values, timeout)

    async def _sweep(self, until: float) -> list[Any]:
        with suppress(TenureError):  # the heartbeat was answered; whoever beats next sweeps
            await self._step("sweep", until - self._now())
        return []

    async def _swept(self, session: str, timeout: Seconds) -> list[Any]:
        """Sweep, which may have granted something to this session itself; its grants."""
        until = self._now() + timeout
        await self._sweep(until)
        try:
            answer = await self._ask("grants", max(0.001, until - self._now()), session)
        except TenureError:
            return []
        grants: list[Any] = [] if answer.state else json.loads(answer.value)
        return grants

    async def _adopt(self, timeout: Seconds) -> None:
        """Read the genesis record and go by it from now on."""
        answer = await self._ask("genesis_of", timeout)
        if answer.state:
            raise self._explained(answer)
        if not answer.value:
            raise self._unmade("its genesis record is missing")
        found, store_id, _, largest, clock = json.loads(answer.value)
        if found not in SPOKEN:
            raise IncompatibleStore(
                f"the schema {self._known.schema!r} has format {found}, and this release speaks {SPOKEN}; use a newer "
                "release of tenure",
                in_force=found,
                spoken=SPOKEN,
            )
        here = native.utc()
        refuse_future(largest, int(here * 1e6), "use another schema", offset=clock / 1e6 - here)
        self._known.id = store_id

    def _explained(self, answer: Answer) -> Exception:
        """An error of the server, in the words of tenure. The transaction had no effect, unless it is fatal."""
        state, said = answer.state, f"{answer.message} ({answer.state})"
        if answer.is_fatal:
            return OutcomeUnknown(f"the server ended the connection during a request: {said}")
        if state in _MISSING:
            return self._unmade(said)
        if state == "TN002":
            return UnsafeSetup(
                "this user's transactions are not READ COMMITTED by default, and a pooler keeps us from saying so; run "
                "ALTER ROLE ... SET default_transaction_isolation = 'read committed'"
            )
        if state == "42501":
            return UnsafeSetup(
                f"a right is missing: {said}; run GRANT USAGE ON SCHEMA {self._known.schema} TO this user"
            )
        if state == "25006":
            # A standby, or a server that was told to be read-only.
            self._wire.forget()
            return StoreUnavailable(f"the server takes no writes: {said}")
        if state == "55P03":
            return StoreUnavailable(
                f"somebody else keeps the row of this name locked: {said}; pg_blocking_pids() says who"
            )
        if state.startswith(("42", "22")) and state != "22P05":
            return SetupError(f"PostgreSQL does not understand this release: {said}")
        return StoreUnavailable(f"PostgreSQL refused: {said}")

    def _unmade(self, said: str) -> IncompatibleStore:
        return IncompatibleStore(
            f"the schema {self._known.schema!r} has no tables of tenure that this user can see: {said}; run `tenure "
            "migrate URL` as the user who is to own them, or name another schema with the option schema",
            spoken=SPOKEN,
        )

    # -- replies ----------------------------------------------------------------------------------------------------

    def _life(self, life: str) -> str:
        return f"{self._known.id}:{life}"

    def _place(self, reply: Sequence[Any], sent: Instant, ttl: Seconds, hears: bool) -> Place:
        standing, number, floor, stolen, life, limit, rows = reply
        most = float("inf") if hears else DEAF_S
        peers = tuple(Peer(session, address, Instant(sent + min(left / 1e6, most))) for session, address, left in rows)
        facts = None if stolen is None else SessionFacts(ttl, self._life(life), stolen)
        return Place(_STANDINGS[standing], number, floor, peers, facts, limit)


def _us(seconds: Seconds) -> int:
    return int(seconds * 1e6)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _named(ref: ClaimRef) -> dict[str, Any]:
    return {"session": ref.session, "claim": ref.claim, "name": ref.name, "number": ref.number}


def queue_of(name: str, rows: Sequence[Sequence[Any]]) -> Queue:
    """What the step `inspect` has replied of a name."""
    queue = [_contender(row) for row in rows]
    held = len(holders(queue))
    return Queue(name, tuple(c._replace(holds=True) for c in queue[:held]), tuple(queue[held:]))


def _contender(row: Sequence[Any]) -> Contender:
    number, kind, permits, limit, client, host, pid, info, *begun = row
    # A number is the wall clock at which the claim entered, unless the clock has been set back since. A transaction of
    # somebody's own has none that could be seen before its commit, and says when it began.
    since = UtcTime((begun[0] if begun else number) / 1e6)
    return Contender(number, Mode(_KINDS[kind], permits, limit), False, client, host, pid, info, since)

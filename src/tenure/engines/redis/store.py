"""The store's port over one Redis server: one script per step, written once for both transports.

Promises: every step compares format and id of the genesis record before it touches anything (B12); a step refused by
the server had no effect; one without an answer is `OutcomeUnknown`, never a guess.
Does not promise durability: that is the server's configuration. What it lost is noticed at the next heartbeat (A2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from redis.exceptions import ResponseError

from tenure.engines.diagnosis import refuse_future
from tenure.engines.redis.explain import explain
from tenure.engines.redis.life import ASK, FORMAT, PLAIN_FORMAT, QUESTIONS, SPOKEN
from tenure.engines.redis.scripts import call, command, script, script_beside
from tenure.errors import IncompatibleStore, OutcomeUnknown, StoreUnavailable, UnsafeSetup
from tenure.model import Contender, Instant, Kind, Mode, Queue, UtcTime, holders, maker
from tenure.ports import Beat, ClaimRef, Message, Peer, Place, SessionFacts, Standing
from tenure.runtimes import native

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from tenure.engines.redis.life import Life
    from tenure.model import Seconds
    from tenure.ports import Closing, Entry, SessionCard

HASH: Final = "crc32"
"""How names are spread over partitions: zlib's CRC-32 of the name's UTF-8, modulo their number. Part of the format."""

RECORD: Final = 7
"""Words of a genesis record, as its script says them."""

ADOPT_MOST: Final = 3
"""How often one step adopts a genesis record that has changed under it."""

_ELSEWHERE: Final = ("READONLY", "MASTERDOWN", "NOREPLICAS", "LOADING")
"""What a server says that is no master any more, or not yet one."""

_peer = maker(Peer)
_place = maker(Place)

_KINDS: Final = {kind[0].encode(): kind for kind in Kind}
_FLAG: Final = ("0", "1")
_ACKNOWLEDGED: Final = ("enter", "look", "heartbeat")
_GRANTING: Final = (b"lives", b"holds")
"""What may be said to be acknowledged by replicas: the steps, and the replies that count only then."""

_STANDINGS: Final = {
    b"holds": Standing.HOLDS,
    b"waits": Standing.WAITS,
    b"busy": Standing.BUSY,
    b"gone": Standing.GONE,
}


class Wire(Protocol):
    """A transport: requests go out, replies come in, in order."""

    def exchange(self, payload: bytes, replies: int, timeout: Seconds) -> Awaitable[list[Any]]:
        """Send commands in one write and read as many replies.

        Returns:
            The replies as bytes, integers, lists and None; an error of the server as a `ResponseError`, not raised.

        Raises:
            StoreUnavailable: nothing was sent.
            OutcomeUnknown: something was, and not every reply came.
        """
        ...

    def forget(self) -> None:
        """This server is not the one to ask, as it says itself: connect anew, which looks for it."""
        ...


class RedisStore:
    """As `ports.QueueStore`, over one partition of a namespace; a single server has one."""

    _script = staticmethod(script)
    _spoken: tuple[int, ...] = SPOKEN

    def __init__(
        self,
        wire: Wire,
        namespace: str,
        life: Life,
        now: Callable[[], Instant],
        partition: int = 0,
        acknowledge: int = 0,
    ) -> None:
        """Ask nothing yet.

        Args:
            wire: to the server that has the partition.
            namespace: part of every name.
            life: of the partition, shared with the client's other stores of it.
            now: the runtime's clock.
            partition: which one it is.
            acknowledge: how many replicas must have a grant, or the extension of a session, before it counts.
        """
        self._wire = wire
        self._acknowledge = acknowledge
        self._life = life
        self._now = now
        self._prefix = f"{namespace}:"
        self._genesis = genesis_key(namespace, partition).encode()

    # -- the steps --------------------------------------------------------------------------------------------------

    async def enter(self, entry: Entry, timeout: Seconds) -> Place:
        # Taken apart once: a field by its name costs as much as a word of the request.
        card, opening, extend, claim, name, (kind, permits, limit), delay, info, at_once, again = entry
        life = self._life.value
        sent = self._now()
        reply = await self._step(
            "enter",
            timeout,
            card.id,
            _us(card.ttl),
            # What a repeat finds was written on another connection, and an acknowledgement is of what this one has.
            _FLAG[opening] + _FLAG[extend or (again and self._acknowledge > 0)] + _FLAG[at_once] + _FLAG[again],
            claim,
            self._bare(name),
            f"{kind[0]} {permits} {limit} {_us(delay)}",
            info,
            *((card.address, card.client, card.host, card.pid) if opening else ()),
        )
        if reply[0] == b"exhausted":
            raise UnsafeSetup("the store has given its last number, 2^53 - 1; its clock was wrong. Nothing was entered")
        # A new session begins with the life before the request: what is learnt meanwhile may be of a loss after it. One
        # that is extended shows the life after it, for the server that answered may be another one (A2).
        return self._place(reply, sent, card, life if opening else "")

    async def look(self, ref: ClaimRef, timeout: Seconds) -> Place:
        sent = self._now()
        arguments = (ref.session, ref.claim, self._bare(ref.name), ref.number, _FLAG[self._acknowledge > 0])
        reply = await self._step("look", timeout, *arguments)
        return self._place(reply, sent)

    async def close(self, closings: Sequence[Closing], timeout: Seconds) -> list[bool]:
        arguments: list[str | int] = []
        for (session, claim, name, number), tombstone, clean, _, ttl in closings:
            arguments += (session, claim, self._bare(name), number, _FLAG[tombstone] + _FLAG[clean], _us(ttl))
        reply = await self._step("close", timeout, *arguments)
        return [there == b"1" for there in reply[1:]]

    async def heartbeat(self, session: str, ttl: Seconds, waiting: bool, timeout: Seconds) -> Beat:
        # Asked in one go with the heartbeat: it proves the session, and only with the life of the store its claims.
        reply = await self._step("heartbeat", timeout, session, _us(ttl), _FLAG[waiting], and_life=True)
        return self._beat(reply, session, ttl)

    def _beat(self, reply: Sequence[bytes], session: str, ttl: Seconds) -> Beat:
        if reply[0] == b"over":
            return Beat(SessionFacts(ttl, self._life.value, 0), (), over=True)
        granted = [Message(session, *map(int, grant)) for grant in _rows(reply[2:], 3)]
        stolen = self._counted(session, reply[1])
        return Beat(SessionFacts(ttl, self._life.value, stolen), tuple(granted))

    async def standing(self, refs: Sequence[ClaimRef], timeout: Seconds) -> list[bool]:
        arguments: list[str | int] = []
        for ref in refs:
            arguments += (ref.session, ref.claim, self._bare(ref.name), ref.number)
        reply = await self._step("standing", timeout, *arguments)
        return [there == b"1" for there in reply[1:]]

    async def claims(self, session: str, timeout: Seconds) -> list[ClaimRef]:
        reply = await self._step("claims", timeout, session)
        return [
            ClaimRef(session, int(claim), self._prefix + name.decode(), int(number))
            for claim, number, name in _rows(reply[1:], 3)
        ]

    async def end(self, session: str, timeout: Seconds) -> None:
        await self._step("end", timeout, session)

    async def inspect(self, name: str, timeout: Seconds) -> Queue:
        reply = await self._step("inspect", timeout, self._bare(name))
        rows = list(_rows(reply[1:], 9))
        queue = [_contender(row) for row in rows]
        held = len(holders(queue))
        if self._life.template:
            # While somebody else has the plain key, those whom the queue would let hold wait all the same.
            held = sum(row[8] != b"0" for row in rows[:held])
        return Queue(name, tuple(c._replace(holds=True) for c in queue[:held]), tuple(queue[held:]))

    async def names(self, prefix: str, timeout: Seconds) -> list[str]:
        reply = await self._step("names", timeout, self._bare(prefix))
        return sorted(self._prefix + name.decode() for name in reply[1:])

    async def steal(self, name: str, number: int, timeout: Seconds) -> bool:
        reply = await self._step("steal", timeout, self._bare(name), number)
        return bool(reply[1] == b"1")

    async def authority(self, timeout: Seconds) -> str:
        until = self._now() + timeout
        await self._adopt(timeout)
        await self.check_rights(max(0.001, until - self._now()))
        return f"redis:{self._life.id}"

    # -- one step ---------------------------------------------------------------------------------------------------

    async def _step(self, name: str, timeout: Seconds, *arguments: str | int, and_life: bool = False) -> list[bytes]:
        """Run a script in this life of the store, about which some questions may be asked with it; the reply."""
        until, left, life = self._now() + timeout, timeout, self._life
        wanted = self._script(name) if life.format == FORMAT else script_beside(name)
        words = wanted.by_hash
        tail, replies = (ASK, 1 + QUESTIONS) if and_life else (b"", 1)
        acknowledged = self._acknowledge and name in _ACKNOWLEDGED
        if acknowledged:
            replies += 1
        for _ in range(1 + ADOPT_MOST):
            store_id = life.id
            payload = call((*words, 1, self._genesis, life.format, store_id), arguments)
            if acknowledged:
                payload += self.ask_replicas(left)  # a script that was not known has cost the time of one already
            answers = await self._wire.exchange(payload + tail, replies, left)
            reply: list[bytes] | ResponseError = answers[0]
            if isinstance(reply, ResponseError):
                if not str(reply).startswith("NOSCRIPT"):
                    raise self._refusal(reply) from reply
                # A server that was started anew, or has forgotten its scripts: this makes it know the script again.
                words = wanted.by_text
            elif reply[0] != b"genesis":
                if and_life:
                    life.note(answers[-QUESTIONS:])
                if acknowledged:
                    self._check_acknowledged(reply, answers[1])
                return reply
            else:
                if store_id == life.id:
                    # Nothing was touched. The store is new, or somebody else has made it anew: this is another life.
                    await self._adopt(until - self._now())
                wanted = self._script(name) if life.format == FORMAT else script_beside(name)
                words = wanted.by_hash
            left = max(0.001, until - self._now())
        raise StoreUnavailable("the store was emptied several times during one request; nothing was changed")

    async def check_rights(self, timeout: Seconds) -> None:
        """Whether replicas may be asked, if they are to be: later, what was done could only be said to be unknown.

        Raises:
            UnsafeSetup: this user may not.
        """
        if self._acknowledge:
            (answer,) = await self._wire.exchange(command(("WAIT", 0, 1)), 1, timeout)
            if isinstance(answer, ResponseError):
                raise self._refusal(answer) from answer

    def ask_replicas(self, timeout: Seconds) -> bytes:
        """The question of how many replicas have what was written so far on this connection."""
        # Its answer comes when the time is half over, or the whole connection would be given up for it.
        return command(("WAIT", self._acknowledge, max(1, int(timeout * 500))))

    def _check_acknowledged(self, reply: list[bytes], answer: int | ResponseError) -> None:
        """Raise `OutcomeUnknown` if it grants something or extends a session, and a fail-over may forget that."""
        if reply[0] not in _GRANTING and not (len(reply) > 3 and reply[3]):
            return
        if isinstance(answer, ResponseError):
            raise OutcomeUnknown(f"it was done, and no replica could be asked about it: {answer}") from answer
        if answer < self._acknowledge:
            wanted = self._acknowledge
            raise OutcomeUnknown(f"it was done, and {answer} of the {wanted} replicas wanted have acknowledged it")

    def _refusal(self, error: ResponseError, *, repeatable: bool = False) -> Exception:
        if str(error).startswith(_ELSEWHERE):
            self._wire.forget()
        return explain(error, repeatable=repeatable)

    async def _adopt(self, timeout: Seconds, count: int = 1) -> None:
        """Read the genesis record, making it if there is none, and go by it from now on.

        Args:
            timeout: how long it may take.
            count: of the partitions over which the names are spread, as this client goes by.
        """
        # Whoever makes the record anew, after a loss, keeps to what was in force.
        template = self._life.told or self._life.template
        wanted = PLAIN_FORMAT if template else FORMAT
        # Seldom asked, and short: by its text, which every server understands.
        words = (*self._script("genesis").by_text, 1, self._genesis)
        payload = command((*words, wanted, native.new_id(), count, HASH, template))
        reply = (await self._wire.exchange(payload, 1, max(0.001, timeout)))[0]
        if isinstance(reply, ResponseError):
            raise self._refusal(reply, repeatable=True) from reply
        if not isinstance(reply, list) or len(reply) != RECORD:
            raise IncompatibleStore("this is no Redis server: it does not run scripts, though it says so")
        found, store_id, last, partitions, clock, spread, plain = reply
        if not found.isdigit() or int(found) not in self._spoken:
            raise IncompatibleStore(
                f"the namespace {self._prefix[:-1]!r} of this server has format {_text(found)}, and this release "
                f"speaks {self._spoken} there; use a newer release of tenure",
                in_force=int(found) if found.isdigit() else None,
                spoken=self._spoken,
            )
        if self._life.told not in ("", _text(plain)):
            raise IncompatibleStore(
                f"the plain keys of namespace {self._prefix[:-1]!r} are {_text(plain) or 'none'!r}, and this client "
                f"was told {self._life.told!r}: the two would not keep the same locks out. "
                + (
                    "Use the same option plain_key on all hosts, or another namespace"
                    if plain
                    else "Leave the option plain_key out if nobody takes such keys any more; else use another namespace"
                ),
                in_force=int(found),
                spoken=self._spoken,
            )
        if partitions != b"%d" % count or (count > 1 and spread != HASH.encode()):
            raise IncompatibleStore(
                f"the names of namespace {self._prefix[:-1]!r} are spread over {_text(partitions)} partitions by "
                f"{_text(spread)}, and this client goes by {count} and {HASH} (a single server has one partition)",
                in_force=int(found),
                spoken=SPOKEN,
            )
        if not last.isdigit():
            raise IncompatibleStore(
                f"the genesis record of namespace {self._prefix[:-1]!r} is damaged: last is {_text(last[:40])!r}",
                in_force=int(found),
                spoken=SPOKEN,
            )
        here = native.utc()
        refuse_future(int(last), int(here * 1e6), "use another namespace", offset=int(clock) / 1e6 - here)
        self._life.adopt(_text(store_id), int(found), _text(plain))

    # -- replies ----------------------------------------------------------------------------------------------------

    def _bare(self, name: str) -> str:
        """A name without the namespace, which is part of every key."""
        return name[len(self._prefix) :]

    def _counted(self, session: str, counts: bytes) -> int:
        """Take note of how many claims of a session have lost their plain keys; how many were stolen."""
        stolen, _, lost = counts.partition(b" ")
        if lost:
            self._life.lost(session, int(lost))
        return int(stolen)

    def _place(self, reply: list[bytes], sent: Instant, card: SessionCard | None = None, life: str = "") -> Place:
        """What an answer says.

        Args:
            reply: the answer.
            sent: when it was asked for.
            card: of the session, if the request may have extended it.
            life: of the store, if it was opened; else the life after the request.
        """
        standing = _STANDINGS[reply[0]]
        if len(reply) == 1:
            return Place(standing)
        facts = None
        if card is not None and reply[3]:
            stolen = self._counted(card.id, reply[3])
            facts = SessionFacts(card.ttl, life or self._life.value, stolen)
        peers = _peers(reply, sent) if len(reply) > 5 else ()
        return _place((standing, int(reply[1]), int(reply[2]), peers, facts, int(reply[4])))


def _peers(reply: list[bytes], sent: Instant) -> tuple[Peer, ...]:
    """The sessions in front."""
    # No generators: of all the functions for an answer these were the dearest.
    return tuple(
        [
            _peer((_text(reply[at]), _text(reply[at + 1]), sent + int(reply[at + 2]) / 1e6))
            for at in range(5, len(reply), 3)
        ]
    )


def genesis_key(namespace: str, partition: int) -> str:
    """Where a partition's genesis record lies; what is in braces decides on its slot, and that of all its keys."""
    return f"{{{namespace}:{partition}}}:genesis"


def _us(seconds: Seconds) -> int:
    return int(seconds * 1e6)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _rows(flat: Sequence[bytes], width: int) -> Iterator[Sequence[bytes]]:
    """A flat reply, cut into rows."""
    return (flat[start : start + width] for start in range(0, len(flat), width))


def _contender(row: Sequence[bytes]) -> Contender:
    number, kind, permits, limit, client, host, pid, info, _ = row
    mode = Mode(_KINDS[kind], int(permits), int(limit))
    # A number is the wall clock at which the claim entered, unless the clock has been set back since.
    since = UtcTime(int(number) / 1e6)
    return Contender(int(number), mode, False, _text(client), _text(host), int(pid), _text(info), since)

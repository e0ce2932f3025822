"""One holder at one resource in one Redis: raise first, committed; then each step is one script that checks first.

Written once: `Section` awaits only its wire, so that it runs for blocking clients and under asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.commands import READ_COMMANDS

from tenure.errors import NotRaised, UsageError
from tenure.fencing.keyspace import scripts
from tenure.fencing.refusing import settle
from tenure.fencing.rule import Fence, Verdict, judge, raised

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tenure.fencing.keyspace.scripts import Script
    from tenure.fencing.keyspace.wires import Wire
    from tenure.fencing.rule import Holder, Proof

WORDS_MAX: Final = 7_000
"""Words of one command: Lua passes fewer than 8,000."""

REFUSED: Final = frozenset(
    {
        "AUTH", "CLIENT", "DISCARD", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "EXEC", "FCALL", "FCALL_RO", "FLUSHALL",
        "FLUSHDB", "HELLO", "MONITOR", "MULTI", "PSUBSCRIBE", "QUIT", "RESET", "SCRIPT", "SELECT", "SSUBSCRIBE",
        "SUBSCRIBE", "SWAPDB", "UNWATCH", "WAIT", "WAITAOF", "WATCH",
    }
)  # fmt: skip
"""What would leave the check behind, or the database of the fence, or throw the fence away; or is not for scripts."""

_KEYLESS: Final = frozenset({"PUBLISH", "SPUBLISH"})
"""Their first word is a channel, which the driver takes for a key."""


class Command(NamedTuple):
    """A command as its words, and what the driver wants to know when it reads the reply."""

    words: tuple[Any, ...]
    options: Mapping[str, Any]


def fence_key(resource: str) -> bytes:
    """The key of a resource's fence. Its hash tag is the resource, which the protected keys have in common with it."""
    return f"tenure:fence:{{{resource}}}".encode()


def command(args: Sequence[Any], options: Mapping[str, Any]) -> Command:
    """A command as the driver's methods give it.

    Raises:
        UsageError: it cannot be fenced.
    """
    if not args or not isinstance(args[0], (str, bytes)):
        raise UsageError("a command begins with its name")
    name = args[0] if isinstance(args[0], str) else args[0].decode("ascii", "replace")
    # The driver writes some as one: "MEMORY USAGE".
    words = (*name.upper().split(), *args[1:])
    if words[0] in REFUSED:
        raise UsageError(f"{words[0]} cannot be fenced: it is not done by a script, or past its check")
    if len(words) > WORDS_MAX:
        raise UsageError(f"{words[0]} has {len(words)} words, and a fenced command at most {WORDS_MAX}: split it")
    return Command(words, options)


class Section:
    """One holder at one resource."""

    def __init__(self, wire: Wire, proof: Proof, holder: Holder | None) -> None:
        self._wire = wire
        self._proof = proof
        self._holder = holder
        self._key = fence_key(proof.resource)
        self._words = str(proof.token), str(proof.floor), proof.authority.encode()
        self._is_raised = self._is_inside = self._is_done = False

    async def open(self) -> None:
        """Raise the fence, committed."""
        if self._holder is not None:
            self._holder.check()
        proof = self._proof
        found = await self._wire.run(scripts.raising(), (self._key,), self._shown(0))
        fence = self._fence(found)
        verdict = judge(fence, proof._replace(seq=0))
        if verdict is Verdict.NOT_RAISED:
            verdict, fence = Verdict.ACCEPTED, raised(fence, proof)
        if verdict is Verdict.ACCEPTED:
            verdict = judge(fence, proof)
        await self._settle(verdict, fence)
        self._is_raised = True

    async def enter(self) -> None:
        """Begin a block. Only the first one raises: each step checks whether it is raised still."""
        if self._is_inside:
            raise UsageError("this guard is entered already; make another for a block inside of its own")
        if self._holder is not None:
            self._holder.check()
        if not self._is_raised or self._proof.seq:
            await self.open()
        self._is_inside = True
        self._is_done = False

    def leave(self) -> None:
        """End the block; what was done is done."""
        self._is_inside = False

    async def commands(self, asked: Sequence[Command]) -> list[Any]:
        """Run commands as one step.

        Returns:
            The replies, in order; the last one is an error if that command failed.
        """
        keys: list[Any] = []
        if self._wire.has_slots:
            keys = [key for one in asked if one.words[0] not in _KEYLESS for key in await self._wire.keys(one.words)]
        words = [word for one in asked for word in (len(one.words), *one.words)]
        is_read = not self._proof.seq or all(one.words[0] in READ_COMMANDS for one in asked)
        return await self._step(scripts.commands(), keys, words, is_read=is_read)

    async def script(self, text: str | bytes, keys: Sequence[Any], values: Sequence[Any]) -> Any:
        """Run a script of the user's as one step, with keys and arguments of its own."""
        body = text.encode() if isinstance(text, str) else text
        found = await self._step(scripts.wrapped(body), keys, values, is_read=False)
        # Lua's nil ends a table.
        reply = found[0] if found else None
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _step(self, script: Script, keys: Sequence[Any], values: Sequence[Any], *, is_read: bool) -> list[Any]:
        if not self._is_inside:
            raise UsageError("the guarded block has ended; enter the guard again")
        if self._holder is not None:
            self._holder.check()
        seq = 0 if is_read else self._proof.seq
        if seq and self._is_done:
            raise UsageError("seq: this block has made its numbered step; put its commands into one pipeline")
        if self._wire.has_slots:
            self._check_keys(keys)
        # Noted before it is sent: a step whose outcome is unknown may have been made.
        self._is_done = self._is_done or bool(seq)
        reply = await self._wire.run(script, (self._key, *keys), (*self._shown(seq), *values))
        if reply[0] == 1:
            replies: list[Any] = reply[1:]
            return replies
        fence = self._fence(reply[1:])
        verdict = judge(fence, self._proof._replace(seq=seq))
        if verdict is Verdict.NOT_RAISED:
            self._is_raised = False
            raise self._forgotten(fence)
        await self._settle(verdict, fence)
        raise AssertionError("a fence refuses what its own rule accepts")

    def _check_keys(self, keys: Sequence[Any]) -> None:
        """In a cluster, what shares a step shares a slot."""
        client = self._wire.client
        slot = client.keyslot(self._key)
        for key in keys:
            if client.keyslot(key) != slot:
                raise UsageError(
                    f"key {key!r} is in another slot of the cluster than its fence: let it carry the hash tag "
                    f"{{{self._proof.resource}}}, or name its tag with resource="
                )

    def _shown(self, seq: int) -> tuple[Any, ...]:
        return *self._words, str(seq)

    def _fence(self, found: Sequence[Any]) -> Fence:
        token, seq, authority = found
        if isinstance(authority, str):
            encoder = self._wire.client.get_encoder()
            authority = authority.encode(encoder.encoding, encoder.encoding_errors)
        return Fence(int(token), 0, int(seq), authority.decode("utf-8", "replace"))

    async def _settle(self, verdict: Verdict, fence: Fence) -> None:
        await settle(verdict, fence, self._proof, self._holder, is_async=self._wire.is_async)

    def _forgotten(self, fence: Fence) -> NotRaised:
        proof = self._proof
        return NotRaised(
            f"{proof.resource!r} does not know token {proof.token} any more: the server lost its fence, and perhaps "
            "data; enter the guard anew, and read again",
            resource=proof.resource,
            token=proof.token,
            fence=fence.token,
        )

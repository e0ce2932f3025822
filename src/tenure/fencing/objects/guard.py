"""The guard of a state object: raise, read, and at the end of the block write, each by compare and swap.

Promises: what a block reads is what earlier holders left, and none of them writes afterwards; what it writes replaces
what it has read, and nothing else. Does not promise that a block which only reads reads the newest of a store that
reads old states; a block that writes would be refused.
"""

from __future__ import annotations

import random
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from tenure.errors import Conflict, MissingRow, OutcomeUnknown, UsageError
from tenure.fencing.objects.bucket import Refused, Unanswered
from tenure.fencing.objects.state import NONE, PAYLOAD_BYTES, Fate, State, fate, lifted, written
from tenure.fencing.refusing import settle
from tenure.fencing.rule import Fence, Verdict, judge
from tenure.runtimes.blocking import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tenure.fencing.objects.bucket import Bucket, Found
    from tenure.fencing.rule import Holder, Proof

TRIES: Final = 10
"""How often one PUT is tried: after pauses of chance, the longest of which doubles from 40 ms to 1 s."""

RAISES: Final = 100
"""How often a raise begins anew because others were faster. It does not make room: whom it meets it must overtake."""

PAUSE_S: Final = 0.02


class Stored:
    """What a fenced object holds, in a block of its guard."""

    def __init__(self, state: State, load: Callable[[], bytes]) -> None:
        self._state = state
        self._load = load
        self._is_changed = False
        self._data: bytes | None = None

    def read(self) -> bytes | None:
        """The payload: what this block has written, or what it found; None if nothing was ever written, or deleted.

        Raises:
            StaleToken, ForeignToken, FenceRegression: a payload of more than 64 KiB is gone, as a later holder wrote.
            Conflict: it is gone, as another worker of this holder wrote.
            MissingRow: it was deleted by other means.
            botocore's errors.
        """
        if self._is_changed:
            return self._data
        if self._state.is_apart:
            return self._load()
        return None if self._state.payload == NONE else self._state.body

    def write(self, data: bytes) -> None:
        """Say what the object shall hold from the end of the block on; until then nothing is sent.

        Args:
            data: at most 5 GiB, held in memory. Up to 64 KiB are kept beside the fence; more, in an object of its own
                beside it, so that a raise does not write it again.

        Raises:
            UsageError: it is no bytes, or too many.
        """
        if not isinstance(data, bytes) or len(data) > PAYLOAD_BYTES:
            raise UsageError(f"data: at most {PAYLOAD_BYTES} bytes are needed, not {type(data).__name__}")
        self._is_changed, self._data = True, data

    def delete(self) -> None:
        """Say that the object shall hold nothing from the end of the block on. The fence stays, as a tombstone."""
        self._is_changed, self._data = True, None


class ObjectGuard:
    """A `with` block whose writes are done at its end, and only if no later holder has come."""

    def __init__(self, bucket: Bucket, proof: Proof, holder: Holder | None) -> None:
        self._bucket = bucket
        self._proof = proof
        self._holder = holder
        self._found: Found | None = None
        self._stored: Stored | None = None

    def __enter__(self) -> Stored:
        if self._stored is not None:
            raise UsageError("this guard is entered already; make another for a block inside of its own")
        self._look()
        self._bucket.probe()
        self._found = found = self._open()
        self._stored = Stored(found.state, partial(self._load, found.state))
        return self._stored

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stored, found = self._stored, self._found
        self._stored = self._found = None
        if error is None and stored is not None and found is not None and stored._is_changed:  # noqa: SLF001 - its own
            self._look()
            self._write(found, stored._data)  # noqa: SLF001 - its own

    def _look(self) -> None:
        """Whoever has lost its lease is not asked for its token; costs no request."""
        if self._holder is not None:
            self._holder.check()

    def _open(self) -> Found:
        """Raise the fence if it is too low. The state that is returned was read by nobody before it was raised."""
        found = self._bucket.get()
        for attempt in range(RAISES):
            verdict = self._judge(found)
            if found is not None and verdict is Verdict.ACCEPTED:
                return found
            if verdict is not Verdict.NOT_RAISED:
                self._refuse(verdict, found)
            if attempt:
                _pause(0)
            # The payload stays what it was in `found`, or the swap fails: to read it now is to read it afterwards.
            _, found = self._swap(found, lifted(found.state if found else None, self._proof, secrets.token_hex(12)))
        raise self._conflict(f"was changed by others {RAISES} times in a row")

    def _load(self, state: State) -> bytes:
        """A payload that has an object of its own."""
        data = self._bucket.load(state.payload)
        if data is not None and len(data) == state.size:
            return data
        now = self._bucket.get()
        if now is not None and now.state.nonce != state.nonce:
            self._refuse(self._judge(now), now)
            raise self._conflict("was written by another worker of this holder since this block began")
        raise MissingRow(f"the payload of {self._bucket.name}, {state.payload}, was deleted by other means")

    def _write(self, found: Found, data: bytes | None) -> None:
        before = found.state
        after = written(before, self._proof, secrets.token_hex(12), data)
        if after.is_apart:
            self._bucket.save(after.nonce, data or b"")
        what, now = self._swap(found, after)
        if what is Fate.LANDED:
            if before.is_apart:
                self._bucket.discard(before.payload)
            return
        verdict = self._judge(now)
        if what is Fate.UNKNOWN:
            if verdict is Verdict.STALE and self._holder is not None:
                self._holder.refused()
            raise OutcomeUnknown(f"no answer to a write of {self._bucket.name}, and too many others since to tell")
        if after.is_apart:
            self._bucket.discard(after.nonce)
        if now is None:
            raise MissingRow(f"{self._bucket.name} was deleted by other means, and the fence with it")
        self._refuse(verdict, now)
        raise self._conflict("was written by another worker of this holder since this block began")

    def _swap(self, before: Found | None, after: State) -> tuple[Fate, Found | None]:
        """Put a state in place of another, until it is known what became of that; and what is there then.

        Raises:
            OutcomeUnknown: no answer tells, and it may land as long as nobody else's write does.
            Conflict: the store kept saying that others are at work on the key, and it is as it was.
            botocore's errors: the store refused.
        """
        doubt: BaseException | None = None
        for attempt in range(TRIES):
            if attempt:
                _pause(attempt)
            try:
                return Fate.LANDED, self._bucket.put(after, before)
            except Unanswered as error:
                doubt = error.__cause__
            except Refused:
                pass
            except Exception as error:
                if doubt is None:
                    raise
                raise OutcomeUnknown(f"no answer to a write of {self._bucket.name}, and then a refusal") from error
            now = self._look_again(doubt)
            what = fate(before.state if before else None, after, now.state if now else None)
            if what is not Fate.PENDING:
                return what, now
            # Again with the same bytes: of two that meet one condition, one lands.
        if doubt is not None:
            raise OutcomeUnknown(f"no answer to a write of {self._bucket.name}") from doubt
        raise self._conflict(f"is at work for others, {TRIES} times in a row")

    def _look_again(self, doubt: BaseException | None) -> Found | None:
        try:
            return self._bucket.get()
        except Exception as error:
            if doubt is None:
                raise
            raise OutcomeUnknown(f"no look at {self._bucket.name} tells whether a write was done") from error

    def _judge(self, found: Found | None) -> Verdict:
        return judge(found.state.fence if found else Fence(), self._proof)

    def _refuse(self, verdict: Verdict, found: Found | None) -> None:
        fence = found.state.fence if found else Fence()
        run(settle(verdict, fence, self._proof, self._holder, is_async=False))

    def _conflict(self, what: str) -> Conflict:
        return Conflict(f"{self._bucket.name} {what}", resource=self._bucket.name)


def _pause(attempt: int) -> None:
    """Part two writers by chance."""
    time.sleep(random.uniform(0, min(1.0, PAUSE_S * 2**attempt)))  # noqa: S311

"""A loop's one connection, as tasks come for it while it is being made."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from tenure import OutcomeUnknown, StoreUnavailable
from tenure.engines.connecting_aio import Connecting

if TYPE_CHECKING:
    from collections.abc import Iterator


class Line:
    """A connection to nobody."""

    def __init__(self) -> None:
        self.ends = socket.socketpair()
        self.is_closed = False

    def fileno(self) -> int:
        return self.ends[0].fileno()

    def unblock(self) -> None:
        self.ends[0].setblocking(False)

    def close(self) -> None:
        self.is_closed = True
        for end in self.ends:
            end.close()


class Wire(Connecting[Line]):
    """Notes what is made of it; connections come when the test lets them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(loop)
        self.dials: list[asyncio.Future[Line]] = []
        self.failures: list[str] = []
        self.is_spent = False
        monkeypatch.setattr(loop, "run_in_executor", self._in_executor)

    def _in_executor(self, *_: object) -> asyncio.Future[Line]:
        self.dials.append(self._loop.create_future())
        return self.dials[-1]

    def _dial(self, timeout: float) -> Line:
        raise AssertionError("only in another thread")

    def _read(self) -> None: ...

    def _fail(self, error: OutcomeUnknown) -> None:
        self.failures.append(str(error))
        self._hang_up()

    def _is_connected(self) -> bool:
        return self._pipe is not None and not self.is_spent

    async def connect(self) -> None:
        await self._connect(1.0)


@contextlib.contextmanager
def lines(*made: Line) -> Iterator[None]:
    try:
        yield
    finally:
        for line in made:
            line.close()


def test_whoever_comes_between_a_connection_and_its_use_makes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(line: Line) -> None:
        wire = Wire(asyncio.get_running_loop(), monkeypatch)
        first = asyncio.ensure_future(wire.connect())
        await asyncio.sleep(0)
        # The second's turn comes before the loop says that the connection is made, which it is.
        second = asyncio.ensure_future(wire.connect())
        wire.dials[0].set_result(line)
        await asyncio.wait_for(asyncio.gather(first, second), 5)
        assert (len(wire.dials), wire.failures) == (1, [])
        wire.disown()

    line = Line()
    with lines(line):
        asyncio.run(main(line))


def test_a_cancelled_task_leaves_the_connection_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(line: Line) -> None:
        wire = Wire(asyncio.get_running_loop(), monkeypatch)
        first, second = asyncio.ensure_future(wire.connect()), asyncio.ensure_future(wire.connect())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        wire.dials[0].set_result(line)
        await asyncio.wait_for(second, 5)
        assert first.cancelled()
        assert len(wire.dials) == 1
        wire.disown()

    line = Line()
    with lines(line):
        asyncio.run(main(line))


def test_one_that_comes_after_the_end_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(line: Line) -> None:
        wire = Wire(asyncio.get_running_loop(), monkeypatch)
        waiting = asyncio.ensure_future(wire.connect())
        await asyncio.sleep(0)
        wire.shut()
        wire.dials[0].set_result(line)
        with pytest.raises(StoreUnavailable, match="closed"):
            await asyncio.wait_for(waiting, 5)
        assert line.is_closed

    line = Line()
    with lines(line):
        asyncio.run(main(line))


def test_one_that_is_spent_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(old: Line, new: Line) -> None:
        wire = Wire(asyncio.get_running_loop(), monkeypatch)
        for line in (old, new):
            connecting = asyncio.ensure_future(wire.connect())
            await asyncio.sleep(0)
            wire.dials[-1].set_result(line)
            wire.is_spent = False
            await asyncio.wait_for(connecting, 5)
            wire.is_spent = line is old
        assert old.is_closed
        assert not new.is_closed
        assert wire.failures == ["the server went away during a request"]
        wire.disown()

    old, new = Line(), Line()
    with lines(old, new):
        asyncio.run(main(old, new))

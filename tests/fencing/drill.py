"""The drill: a holder is overtaken at the worst moments, and goes on as if nothing had happened.

Two processes with real leases of one name share one counter in a real store. In each round the first holder reads it,
is stopped somewhere, and overtaken by the second; then it is let go on, or killed, or its server is. Each acknowledged
run of a *write path* adds one, so what the counter lacks was lost. A path must lose nothing, and must never refuse the
rightful holder.

Scenarios and paths are data: a path is any `async def (session, lease, pause)` that adds one to the counter and calls
`pause(place)` where it can be stopped. `python -m tests.fencing.drill --rounds 10000` prints a table of all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tenure
from tenure.observe.log import silence
from tests.fencing.drivers import every, find
from tests.fencing.paths import NAIVE, PATHS, Fault, naive_of, paths_of
from tests.servers.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from tests.servers.processes import Server

BLOCKED_S = 0.01
"""Seconds after which whoever has not come to an end is taken to wait for the other one."""


class Scenario(NamedTuple):
    """What happens to the first holder, and when.

    Attributes:
        stop: the place where it is stopped; empty: at a random instant, by SIGSTOP.
        then: "resume" it, "kill" it, or "restart" the server and resume it; or "fail": it is not overtaken, but an
            error ends its block, and it tries again.
        between: stop the second holder too, at this place, until the first is done.
        weight: how often, among the others.
    """

    name: str
    stop: str
    then: str = "resume"
    between: str = ""
    weight: int = 10


SCENARIOS = (
    Scenario("delayed after the grant", "granted"),
    Scenario("delayed between read and write", "read"),
    Scenario("delayed before the commit", "written"),
    Scenario("lands after the next one's read", "read", between="read"),
    Scenario("the first write lands after the next one's read", "granted", between="read"),
    Scenario("stopped anywhere", ""),
    Scenario("killed between raise and write", "read", then="kill", weight=1),
    Scenario("killed before the commit", "written", then="kill", weight=1),
    Scenario("the server is killed and restarted", "read", then="restart", weight=1),
    Scenario("rolled back and tried again", "written", then="fail", weight=4),
)


class Tally(NamedTuple):
    """What came of some rounds.

    Attributes:
        rounds: how many.
        done: runs that were acknowledged.
        refused: runs of an overtaken holder that were refused.
        lost: acknowledged runs that the counter lacks.
        denied: runs of the rightful holder that were refused.
        worst: the scenario that lost most, if any did.
    """

    rounds: int
    done: int
    refused: int
    lost: int
    denied: int
    worst: str

    @property
    def is_safe(self) -> bool:
        """Nothing lost, nobody denied; and the rounds were worth something."""
        return not self.lost and not self.denied and self.refused > self.rounds // 10


# -- the actor: one holder, in a process of its own --------------------------------------------------------------------


def act(pipe: Connection, driver: str, url: str, locks: str, path: str) -> None:
    """The life of a holder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence()
    with tenure.Client(locks, ttl=600) as client, suppress(EOFError, BrokenPipeError):
        asyncio.run(_act(pipe, driver, url, client, path))


async def _act(pipe: Connection, driver: str, url: str, client: tenure.Client, path: str) -> None:
    write = (PATHS | NAIVE)[path]
    session = await find(driver).session(url)
    lease: tenure.Lease | None = None
    pipe.send("ready")
    while True:
        what, argument = pipe.recv()
        if what == "take":
            try:
                if argument:
                    client.steal("orders", argument)
                lease = client.lock("orders", wait=PATIENCE).acquire()
            except tenure.StoreUnavailable:
                pipe.send(0)
            else:
                pipe.send(lease.token)
        elif what == "drop":
            if lease is not None:
                with suppress(tenure.LeaseLost):
                    lease.release()
            lease = None
            pipe.send("dropped")
        else:
            outcome = "done"
            try:
                await write(session, lease, _pauses(pipe, *argument))
            except (tenure.StoreUnavailable, tenure.OutcomeUnknown) as error:
                outcome = f"failed: {error!r}"
            except tenure.TenureError as error:
                outcome = f"refused: {error!r}"
            except Exception as error:  # noqa: BLE001 - whatever a driver says of a server that has gone
                outcome = f"failed: {error!r}"
            if outcome != "done":
                with suppress(Exception):
                    await session.close()
                with suppress(Exception):
                    session = await find(driver).session(url)
            pipe.send(outcome)


def _pauses(pipe: Connection, stop: str, then: str) -> Callable[[str], Any]:
    """What a path calls where it can be stopped; it is stopped at one place, once."""
    is_due = True

    async def pause(place: str) -> None:
        nonlocal is_due
        if is_due and place == stop:
            is_due = False
            if then == "fail":
                raise Fault
            pipe.send(f"at {place}")
            pipe.recv()

    return pause


class Actor:
    """A holder, as the one sees who plays with it."""

    def __init__(self, *setting: str) -> None:
        self._setting = setting
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=act, args=(theirs, *self._setting), daemon=True)
        self._process.start()
        theirs.close()
        assert self.hear() == "ready"

    def call(self, what: str, argument: Any = None) -> Any:
        self.send(what, argument)
        return self.hear()

    def send(self, what: str, argument: Any = None) -> None:
        self._pipe.send((what, argument))

    def hear(self, seconds: float = PATIENCE) -> Any:
        assert self._pipe.poll(seconds), "a holder hangs"
        return self._pipe.recv()

    def has_news(self, seconds: float) -> bool:
        return self._pipe.poll(seconds)

    def signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


# -- the rounds ----------------------------------------------------------------------------------------------------


class Drill:
    """Rounds of one path over one store."""

    def __init__(
        self, driver: str, url: str, folder: str, path: str, *, server: Server | None = None, seed: int = 0
    ) -> None:
        self._driver, self._url, self._server = driver, url, server
        setting = (driver, url, f"sqlite://{folder}/locks.db", path)
        # Nobody waits for another one at a store without transactions, and this one takes longer to answer.
        self._blocked_s = PATIENCE if driver == "s3" else BLOCKED_S
        self._random = random.Random(seed)  # noqa: S311 - a test's
        self._actors = ExitStack()
        self._first, self._second = Actor(*setting), Actor(*setting)
        self._actors.callback(self._first.end)
        self._actors.callback(self._second.end)
        self.lost: dict[str, int] = {}
        self.done = self.refused = self.denied = 0
        self.notes: list[str] = []

    def close(self) -> None:
        self._actors.close()

    def run(self, rounds: int, scenarios: Sequence[Scenario] = SCENARIOS) -> Tally:
        """Play so many rounds."""
        playable = [s for s in scenarios if self._can_play(s)]
        expected = self._value()
        for _ in range(rounds):
            scenario = self._random.choices(playable, [s.weight for s in playable])[0]
            expected += self._round(scenario)
            found = self._value()
            if found != expected:
                self.lost[scenario.name] = self.lost.get(scenario.name, 0) + abs(expected - found)
                expected = found
        worst = max(self.lost, key=lambda name: self.lost[name], default="")
        return Tally(rounds, self.done, self.refused, sum(self.lost.values()), self.denied, worst)

    def _can_play(self, scenario: Scenario) -> bool:
        if scenario.then == "restart":
            return self._server is not None
        # Without transactions, what was written before the end stays, and nobody has acknowledged it.
        is_taken_back = scenario.stop == "written" and scenario.then in ("kill", "fail")
        return find(self._driver).rolls_back or not is_taken_back

    def _round(self, scenario: Scenario) -> int:
        """One round; how many runs were acknowledged."""
        first, second = self._first, self._second
        token = first.call("take")
        first.send("run", (scenario.stop, scenario.then))
        if scenario.then == "fail":
            return self._overtaken(first.hear()) + self._finish(first)
        early = self._stop(scenario)
        if scenario.then == "restart" and self._server is not None:
            self._server.restart()
        if not second.call("take", token):
            # It was stopped while it wrote to the store of the locks, of which there is one writer at a time.
            first.signal(signal.SIGCONT)
            assert second.call("take", token), "the locks are out of order"
        second.send("run", (scenario.between, "resume"))
        # Whoever is not heard of waits for the other one to end its transaction.
        news = second.hear() if second.has_news(self._blocked_s) else ""
        if not early:
            self._go_on(scenario)
            if news.startswith("at "):
                # The second stands between its read and its write: the first has its chance.
                first.has_news(self._blocked_s)
        while not news or news.startswith("at "):
            if news:
                second.send("on")
            news = second.hear()
        outcome = news
        done = self._rightful(early) if early else self._overtaken("" if scenario.then == "kill" else first.hear())
        if scenario.then == "restart":
            # Both had connections to the server that died; with new ones, they try again.
            if outcome.startswith("failed"):
                outcome = second.call("run", ("nowhere", "resume"))
            done += self._overtaken(first.call("run", ("nowhere", "resume")))
        done += self._rightful(outcome)
        first.call("drop")
        return done + self._finish(second)

    def _stop(self, scenario: Scenario) -> str:
        """Stop the first holder, or kill it; how it ended, if it ended before that."""
        if not scenario.stop:
            time.sleep(self._random.random() * 0.002)
            self._first.signal(signal.SIGSTOP)
            return ""
        news: str = self._first.hear()
        if scenario.then == "kill":
            self._first.end()
            self._first.start()
        return "" if news.startswith("at ") else news

    def _go_on(self, scenario: Scenario) -> None:
        """Let the first holder go on."""
        if not scenario.stop:
            self._first.signal(signal.SIGCONT)
        elif scenario.then != "kill":
            self._first.send("on")

    def _finish(self, holder: Actor) -> int:
        """A holder works once more, under the same token, and lets go."""
        done = self._rightful(holder.call("run", ("nowhere", "resume")))
        holder.call("drop")
        return done

    def _rightful(self, outcome: str) -> int:
        """Note what came of a run of whoever holds the name."""
        if outcome == "done":
            self.done += 1
            return 1
        self.denied += 1
        self.notes.append(outcome)
        return 0

    def _overtaken(self, outcome: str) -> int:
        """Note what came of a run of whoever has lost it; that it is done is right if it was done before."""
        self.done += outcome == "done"
        self.refused += outcome.startswith("refused")
        return int(outcome == "done")

    def _value(self) -> int:
        """The counter, by a connection of its own."""

        async def read() -> int:
            session = await find(self._driver).session(self._url)
            try:
                return await session.value()
            finally:
                await session.close()

        return asyncio.run(read())


# -- by command ----------------------------------------------------------------------------------------------------


def play(driver: str, path: str, rounds: int, url: str, server: Server | None, seed: int) -> tuple[Tally, list[str]]:
    """Rounds of one path on a store whose tables are there."""
    with tempfile.TemporaryDirectory(prefix="tn-drill-") as folder:
        drill = Drill(driver, url, folder, path, server=server, seed=seed)
        try:
            return drill.run(rounds), drill.notes
        finally:
            drill.close()


async def prepare(driver: str, url: str) -> None:
    """Make the tables."""
    session = await find(driver).session(url)
    await session.prepare()
    await session.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Play each path with each driver, and print the counts side by side."""
    from tests.fencing.servers import Servers

    parser = argparse.ArgumentParser(prog="python -m tests.fencing.drill", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=500, help="rounds of each path (500)")
    parser.add_argument("--naive-rounds", type=int, default=200, help="rounds of each wrong path (200)")
    parser.add_argument("--path", action="append", choices=[*PATHS, *NAIVE], help="only this one; may be repeated")
    parser.add_argument("--driver", action="append", choices=sorted(every()), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    failed = False
    print(f"{'driver':15} {'path':22} {'rounds':>6} {'done':>7} {'refused':>8} {'lost':>6} {'denied':>7}  worst")
    with tempfile.TemporaryDirectory(prefix="tn-drill-") as folder, Servers(Path(folder)) as servers:
        for driver in options.driver or sorted(every()):
            for path in options.path or [*paths_of(find(driver)), *naive_of(find(driver))]:
                url, server = servers.new(find(driver).store)
                asyncio.run(prepare(driver, url))
                rounds = options.rounds if path in PATHS else options.naive_rounds
                tally, notes = play(driver, path, rounds, url, server, options.seed)
                print(
                    f"{driver:15} {path:22} {tally.rounds:6} {tally.done:7} {tally.refused:8} {tally.lost:6} "
                    f"{tally.denied:7}  {tally.worst}",
                    flush=True,
                )
                if path in PATHS and not tally.is_safe:
                    failed = True
                    print(*notes[:3], sep="\n")
                if path in NAIVE and tally.is_safe:
                    failed = True
                    print("    was not found out")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

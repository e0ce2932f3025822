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
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.fencing.actors import Actor, Setting, expect_one_driver, new_folder
from tests.fencing.drivers import every, find
from tests.fencing.paths import DENYING, DUPLICATING
from tests.servers.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from tenure.model import Grant
    from tests.fencing.mutating import Change
    from tests.fencing.session import Driver, Session
    from tests.servers.processes import Server

WAITS_LEAST_S = 0.01
WAITS_MOST_S = 0.25
"""Seconds after which whoever has not come to an end is taken to wait for the other one: three times what a run took
that nobody disturbed, within these bounds."""


class Scenario(NamedTuple):
    """What happens to the first holder, and when.

    Attributes:
        stop: the place where it is stopped; empty: at a random instant, by SIGSTOP.
        then: "resume" it, "kill" it, or "restart" the server and resume it; or "fail": it is not overtaken, but an
            error ends its block, and it tries again; or "repeat": it is not overtaken, but what it sent is held up,
            and it sends that again over another connection.
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
    Scenario("rolled back and tried again", "written", then="fail", weight=4),
)
UNBLOCKED = tuple(s for s in SCENARIOS if s.stop in ("granted", "read") and s.then == "resume")
"""Those in which nobody waits for anybody, if a way to write holds nothing where it is stopped, as the wrong ones do:
so what is wrong with them shows each time, however slow the host is."""

RESTART = Scenario("the server is killed and restarted", "read", then="restart")
DUPLICATES = (
    Scenario("its own duplicate lands late", "granted", then="repeat"),
    Scenario("its own duplicate is half done", "read", then="repeat"),
)


def playable(driver: Driver) -> tuple[Scenario, ...]:
    """Those that a store can be judged by: where nothing is taken back, what a run had written before its end stays."""
    return tuple(s for s in SCENARIOS if driver.rolls_back or s.stop != "written" or s.then not in ("kill", "fail"))


class Tally(NamedTuple):
    """What came of some rounds.

    Attributes:
        rounds: how many.
        done: runs that were acknowledged.
        refused: runs of an overtaken holder, and duplicates, that were refused.
        lost: acknowledged runs that the counter lacks, and runs that it has twice.
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

    def is_found_out(self, path: str) -> bool:
        """Whether a wrong path did what is wrong with it."""
        return bool(self.denied if path in DENYING else self.lost)


class Reader:
    """Reads the counter, over a connection of its own that it keeps."""

    def __init__(self, driver: str, url: str) -> None:
        self._driver, self._url = driver, url
        self._runner = asyncio.Runner()
        self._session: Session | None = None

    def value(self) -> int:
        """The counter; also by a server that has gone and come back."""
        try:
            return self._runner.run(self._read())
        except Exception:  # noqa: BLE001 - whatever a driver says of a server that has gone
            self._drop()
            return self._runner.run(self._read())

    async def _read(self) -> int:
        if self._session is None:
            self._session = await find(self._driver).session(self._url)
        value = await self._session.value()
        await self._session.rollback()
        return value

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):
                self._runner.run(session.close())

    def close(self) -> None:
        self._drop()
        self._runner.close()


class Drill:
    """Rounds over one store, path after path, by the same two processes."""

    def __init__(
        self, driver: str, url: str, *, server: Server | None = None, seed: int = 0, change: Change | None = None
    ) -> None:
        self._driver, self._server = driver, server
        self._random = random.Random(seed)  # noqa: S311 - a test's
        with ExitStack() as stack:
            setting = Setting(driver, url, f"sqlite://{stack.enter_context(new_folder())}/locks.db", change)
            self._reader = Reader(driver, url)
            stack.callback(self._reader.close)
            self._first, self._second = Actor(setting), Actor(setting)
            stack.callback(self._first.end)
            stack.callback(self._second.end)
            self._ends = stack.pop_all()
        self._waits = WAITS_MOST_S
        self._is_waiting = True
        self._reset("")

    def _reset(self, path: str) -> None:
        self._path = path
        self.lost: dict[str, int] = {}
        self.done = self.refused = self.denied = 0
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def run(self, path: str, rounds: int, *, restarts: int = 1) -> Tally:
        """Play so many rounds of one path, drawn; as many of them with a restart of the server, if it has one."""
        scenarios = () if path == "not numbered" else playable(find(self._driver))
        scenarios += DUPLICATES if path in DUPLICATING else ()
        drawn = self._random.choices(scenarios, [s.weight for s in scenarios], k=rounds)
        if self._server is not None and path != "not numbered":
            for at in self._random.sample(range(rounds), min(restarts, rounds)):
                drawn[at] = RESTART
        return self.play(path, drawn)

    def play(self, path: str, drawn: Sequence[Scenario], *, is_waiting: bool = True) -> Tally:
        """Play these scenarios with one path; say so if neither holder ever waits for the other one in them."""
        self._reset(path)
        self._is_waiting = is_waiting
        expected = self._reader.value()
        for scenario in drawn:
            expected += self._round(scenario)
            found = self._reader.value()
            if found != expected:
                self.lost[scenario.name] = self.lost.get(scenario.name, 0) + abs(expected - found)
                expected = found
        worst = max(self.lost, key=lambda name: self.lost[name], default="")
        return Tally(len(drawn), self.done, self.refused, sum(self.lost.values()), self.denied, worst)

    def _round(self, scenario: Scenario) -> int:
        """One round; how many runs were acknowledged."""
        first, second = self._first, self._second
        grant = first.take()
        assert grant is not None, "the locks are out of order"
        first.run(self._path, scenario.stop, is_failing=scenario.then == "fail")
        if scenario.then == "fail":
            return self._overtaken(first.hear()) + self._finish(first)
        early = self._stop(scenario)
        if scenario.then == "repeat":
            assert not early, early
            return self._repeat(grant)
        if scenario.then == "restart" and self._server is not None:
            self._server.restart()
        if not second.take(grant.token):
            # It was stopped while it wrote to the store of the locks, of which there is one writer at a time.
            first.signal(signal.SIGCONT)
            assert second.take(grant.token), "the locks are out of order"
        second.run(self._path, scenario.between)
        # Whoever is not heard of waits for the other one to end its transaction.
        news = second.hear() if second.has_news(self._patience) else ""
        if not early:
            self._go_on(scenario)
            if news.startswith("at "):
                # The second stands between its read and its write: the first has its chance.
                first.has_news(self._patience)
        while not news or news.startswith("at "):
            if news:
                second.send("on")
            news = second.hear()
        outcome = news
        done = self._rightful(early) if early else self._overtaken("" if scenario.then == "kill" else first.hear())
        if scenario.then == "restart":
            # Both had connections to the server that died; with new ones, they try again.
            if outcome.startswith("failed"):
                second.run(self._path)
                outcome = second.hear()
            first.run(self._path)
            done += self._overtaken(first.hear())
        done += self._rightful(outcome)
        first.call("drop")
        return done + self._finish(second)

    @property
    def _patience(self) -> float:
        return self._waits if self._is_waiting else PATIENCE

    def _repeat(self, grant: Grant) -> int:
        """The holder sends what is held up again, as the same operation; each of them or one may be acknowledged."""
        first, second = self._first, self._second
        second.call("borrow", grant)
        second.run(self._path, seq=first.seq)
        news = second.hear() if second.has_news(self._waits) else ""
        first.send("on")
        late = first.hear()
        outcomes = [news or second.hear(), late]
        second.call("drop")
        self.refused += sum(outcome.startswith("refused") for outcome in outcomes)
        # However often it was acknowledged, it is one operation.
        done = 1 if "done" in outcomes else self._rightful(outcomes[0])
        self.done += done
        return done + self._finish(first)

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
        begun = time.monotonic()
        holder.run(self._path)
        done = self._rightful(holder.hear())
        self._waits = min(WAITS_MOST_S, max(WAITS_LEAST_S, 3 * (time.monotonic() - begun)))
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


# -- by command ----------------------------------------------------------------------------------------------------


async def prepare(driver: str, url: str) -> None:
    """Make the tables."""
    session = await find(driver).session(url)
    await session.prepare()
    await session.close()


HEADING = f"{'driver':22} {'path':22} {'rounds':>6} {'done':>7} {'refused':>8} {'lost':>6} {'denied':>7}  worst"


def share(rounds: int, driver: Driver, drivers: Iterable[Driver], paths: Collection[str] = ()) -> int:
    """How many of a pair's rounds are each path's of one driver; a pair is a guard and a store.

    Args:
        rounds: of each pair.
        driver: whose.
        drivers: all that are played: those of one pair share its rounds.
        paths: only these; empty: all.
    """
    pair = (driver.guard, driver.store)
    sharing = [d for d in drivers if (d.guard, d.store) == pair]
    return -(-rounds // sum(len([p for p in d.paths if p in (paths or [p])]) for d in sharing))


def row(driver: str, path: str, tally: Tally) -> str:
    """A line under the heading."""
    return (
        f"{driver:22} {path:22} {tally.rounds:6} {tally.done:7} {tally.refused:8} {tally.lost:6} {tally.denied:7}  "
        f"{tally.worst}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Play each path with each driver, and print the counts side by side."""
    from tests.fencing.servers import Servers

    parser = argparse.ArgumentParser(prog="python -m tests.fencing.drill", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=500, help="of each pair of guard and store, over its paths (500)")
    parser.add_argument("--naive-rounds", type=int, default=100, help="rounds of each wrong path (100)")
    parser.add_argument("--restarts", type=int, help="of each path's, with a restart of the server (one in a hundred)")
    parser.add_argument("--path", action="append", help="only this one; may be repeated")
    parser.add_argument("--driver", action="append", help="only this one; may be repeated")
    parser.add_argument("--url", help="an empty database or a bucket to be, of a server that is there, for one driver")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        drivers = [find(name) for name in options.driver or sorted(every())]
    except KeyError as error:
        parser.error(f"there is no driver {error}; there are {', '.join(sorted(every()))}")
    if len(drivers) == 1:
        expect_one_driver()
    elif options.url:
        parser.error("--url is for one --driver")
    is_failed = False
    print(HEADING)
    with tempfile.TemporaryDirectory(prefix="tn-drill-") as folder, Servers(Path(folder)) as servers:
        for driver in drivers:
            url, server = (options.url, None) if options.url else servers.new(driver.store)
            asyncio.run(prepare(driver.name, url))
            with Drill(driver.name, url, server=server, seed=options.seed) as drill:
                for path in [p for p in [*driver.paths, *driver.naive] if p in (options.path or [p])]:
                    rounds = options.naive_rounds
                    if path in driver.paths:
                        rounds = share(options.rounds, driver, drivers, options.path or ())
                    restarts = 1 + rounds // 100 if options.restarts is None else options.restarts
                    tally = drill.run(path, rounds, restarts=restarts)
                    print(row(driver.name, path, tally), flush=True)
                    if path in driver.paths and not tally.is_safe:
                        is_failed = True
                        print(*drill.notes[:3], sep="\n")
                    if path in driver.naive and not tally.is_found_out(path):
                        is_failed = True
                        print("    was not found out")
    return int(is_failed)


if __name__ == "__main__":
    sys.exit(main())

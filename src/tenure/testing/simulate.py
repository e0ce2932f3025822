"""Run seeds: `python -m tenure.testing.simulate --seeds 0..500 --mode safety`.

Promises: prints the seed, the violated property and a timeline of a failing run, and exits 1.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter

from tenure.errors import OutcomeUnknown, StoreUnavailable
from tenure.testing.checkers import Violation, check
from tenure.testing.clients import SimClient
from tenure.testing.faults import DISASTERS, KINDS, Fault, plan, weather
from tenure.testing.history import Disaster, History, Leftover
from tenure.testing.network import Network, Server, SimStore, Weather
from tenure.testing.runtime import SimRuntime
from tenure.testing.tables import SimTables
from tenure.testing.world import Process, Task, World

TICK = 0.1
"""Seconds between looks at who is entitled by the end of a session."""


class Simulation:
    """One run of one seed."""

    def __init__(
        self,
        seed: int,
        mode: str,
        kinds: frozenset[str],
        parts: int = 1,
        *,
        together: bool = False,
        traced: bool = False,
    ) -> None:
        self.mode = mode
        self.world = World(seed, traced=traced)
        self.rng = self.world.rng
        self.plan = plan(self.rng, mode, kinds)._replace(parts=parts, together=together)
        self.history = History(ttl=self.plan.ttl)
        self.tables = SimTables(self.world, self.history)
        self.server = Server(self.world, self.tables, self.history, 1.0 + (self.rng.random() - 0.5) * 0.008)
        self.network = Network(self.world, self.server, self.history)
        self.network.weather = self.plan.weather
        self.network.dead_after = self.plan.dead_after
        self.clients: list[SimClient] = []
        self.is_calm = False

    # -- the course of a run -----------------------------------------------------------------------------------------

    def run(self) -> History:
        """Chaos, then calm, then an orderly end."""
        chaos, calm, ttl = self.plan.chaos, self.plan.calm, self.plan.ttl
        drain = 8 * ttl + 10
        for _ in range(self.plan.clients):
            self._client()
        for fault in self.plan.faults:
            self.world.at(fault.at, None, self._strike, fault)
        if "steal" in {fault.kind for fault in self.plan.faults}:
            self._operator()
        self.world.run(chaos)
        self._heal()
        self.history.calm = (chaos + 2 * ttl + 3, chaos + calm + drain - 2 * ttl)
        self.history.lossy = self.plan.lossy
        self._tick(chaos + calm + drain)
        self.world.run(chaos + calm)
        for client in self.clients:
            client.is_stopping = True
        self.world.run(chaos + calm + drain)
        self._collect()
        for task in self.world.tasks:
            task.discard()
        return self.history

    def _client(self) -> None:
        client = SimClient(self.world, self.network, self.history, self.plan, f"c{len(self.clients)}")
        client.is_calm = self.is_calm
        self.clients.append(client)
        client.start(anchored=self.rng.random() < 0.6)

    def _tick(self, until: float) -> None:
        self.tables.note_entitled(self.server.now_us)
        if self.world.time + TICK < until:
            self.world.after(TICK, None, self._tick, until)

    def _heal(self) -> None:
        """From now on nothing fails, but clients may still die, and mail may be lost if the seed says so."""
        self.is_calm = True
        self.world.starve = 0.0
        self.network.weather = Weather(mail_lose=0.5 if self.plan.lossy else 0.0)
        self.server.is_down = False
        self.server.process.resume()
        self.server.ahead = min(0.0, self.server.ahead)
        for link in sorted(self.network.cut):
            self.network.heal(link)
        for client in self.clients:
            client.process.pause_armed = None
            client.process.resume()
            client.is_calm = True
        self.world.note("world", "healed")

    def _collect(self) -> None:
        for client in self.clients:
            client.finish()
        wanted = {claim for client in self.clients for claim in client.wanted()}
        # Each heartbeat sweeps; without any, the dead are left until somebody asks for their names.
        swept = any(c.is_anchored and c.process.is_alive and not c.is_closed for c in self.clients)
        for row in self.tables.rows():
            is_dead = row.ended or row.until_us <= self.server.now_us
            if not row.freed_us and (row.session, row.claim) not in wanted and (swept or not is_dead):
                self.history.leftovers.append(Leftover(row.name, row.number, row.session, "nobody wants it"))
        for client in self.clients:
            if not client.process.is_alive:
                continue
            if client.ledger.debts and not client.is_closed:
                self.history.stuck.append(f"{client.name} still owes {len(client.ledger.debts)} closings")
            tasks = [*client.callers, client.keeper] if client.is_closed else client.callers
            self.history.stuck.extend(task.name for task in tasks if not task.is_done)

    # -- faults ------------------------------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        world = self.world
        world.note("world", "fault", f"{fault.kind} {fault.target}", fault)
        self.history.counts[f"fault: {fault.kind}"] += 1
        if fault.kind in DISASTERS:
            self.history.disasters.append(Disaster(world.time, fault.kind))
        alive = [client for client in self.clients if client.process.is_alive and not client.is_closed]
        client = self.rng.choice(alive)
        match fault.kind:
            case "pause":
                self._pause(client, fault)
            case "cut":
                self._cut(client.name, fault)
            case "crash":
                client.crash()
                self._client()
            case "close":
                client.close()
                self._client()
            case "storm":
                self.network.weather = weather(self.rng, self.plan.ttl, 0.3)
                world.after(fault.length, None, self._storm_over)
            case "starve":
                world.starve, world.starve_most = self.rng.choice((0.01, 0.1)), fault.length
                world.after(fault.length * 2, None, self._starve_over)
            case _:
                self._strike_server(fault)

    def _strike_server(self, fault: Fault) -> None:
        server = self.server
        match fault.kind:
            case "stall":
                server.process.pause()
                self.world.after(fault.length, None, server.process.resume)
            case "restart" | "forget":
                self._restart(fault)
            case "skip":
                server.ahead += fault.amount
                self.world.after(fault.length, None, self._set_back, fault.amount)
            case "back":
                server.ahead -= fault.amount
            case "wall":
                server.wall_ahead -= fault.amount

    def _pause(self, client: SimClient, fault: Fault) -> None:
        if fault.target == "sending":
            client.process.pause_armed = fault.length
        else:
            client.process.pause()
            self.world.after(fault.length, None, client.process.resume)

    def _set_back(self, amount: float) -> None:
        if not self.is_calm:
            self.server.ahead -= amount

    def _storm_over(self) -> None:
        if not self.is_calm:
            self.network.weather = self.plan.weather

    def _starve_over(self) -> None:
        self.world.starve = 0.0

    def _cut(self, name: str, fault: Fault) -> None:
        links = {"to": [(name, "server")], "from": [("server", name)]}.get(
            fault.target, [(name, "server"), ("server", name)]
        )
        for link in links:
            self.network.cut.add(link)
            self.world.after(fault.length, None, self.network.heal, link)

    def _restart(self, fault: Fault) -> None:
        """Stop the server; with "forget" it comes back as it was `amount` seconds earlier, or blank."""
        state = None
        if fault.kind == "restart" or self.rng.random() < 0.75:
            state = self.tables.snapshot()
        lasting = fault.amount if fault.kind == "forget" else 0.0
        # The tail that will be lost begins now: what is answered from here on is gone.
        self.world.after(lasting, None, self._stop, fault, state)

    def _stop(self, fault: Fault, state: dict[str, object] | None) -> None:
        if self.is_calm or self.server.is_down:
            return
        self.server.is_down = True
        self.server.starts += 1
        if fault.kind == "forget":
            self.history.disasters.append(Disaster(self.world.time, "forget"))
            self.tables.restore(state)
        self.tables.new_life()
        self.world.after(min(fault.length, self.plan.ttl / 2), None, self._start)

    def _start(self) -> None:
        self.server.is_down = False

    # -- the operator ------------------------------------------------------------------------------------------------

    def _operator(self) -> None:
        process = Process(self.world, "operator")
        store = SimStore(process, self.network, "operator")
        self.operator = Task(process, "operator", self._steals(SimRuntime(process), store))

    async def _steals(self, runtime: SimRuntime, store: SimStore) -> None:
        while not self.is_calm:
            await runtime.sleep(self.plan.ttl * self.rng.random())
            name = self.rng.choice(("a", "b"))
            try:
                queue = await store.inspect(name, 1.0)
                seen = [*queue.holders, *queue.holders, *queue.waiters]
                if seen:
                    token = self.rng.choice(seen).token
                    # A repeat must rob nobody (B9).
                    for _ in range(self.rng.randint(1, 3)):
                        await store.steal(name, token, 1.0)
            except (StoreUnavailable, OutcomeUnknown):
                continue


def run_seed(
    seed: int,
    mode: str = "safety",
    kinds: frozenset[str] = frozenset(KINDS),
    parts: int = 1,
    *,
    together: bool = False,
    traced: bool = False,
) -> tuple[Simulation, list[Violation]]:
    """Run one seed and judge it."""
    simulation = Simulation(seed, mode, kinds, parts, together=together, traced=traced)
    try:
        history = simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever the protocols raise is a finding, with its seed
        where = traceback.format_tb(error.__traceback__)[-1].strip()
        now = simulation.world.time
        return simulation, [Violation("crash", now, now, f"{type(error).__name__}: {error}, {where}")]
    return simulation, check(history)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m tenure.testing.simulate", description="Simulate tenure's protocols.")
    parser.add_argument("--seeds", default="0..200", help="A..B, or one seed")
    parser.add_argument("--mode", choices=("safety", "liveness"), default="safety")
    parser.add_argument("--faults", default=",".join(KINDS), help="which kinds, separated by commas")
    parser.add_argument("--parts", type=int, default=1, help="parts of the store, each with sessions of its own")
    parser.add_argument("--together", action="store_true", help="callers also take several names at once")
    parser.add_argument("--trace", action="store_true", help="print the whole timeline of each run")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failing seed")
    options = parser.parse_args(argv)
    first, _, last = options.seeds.partition("..")
    kinds = frozenset(filter(None, options.faults.split(",")))
    if kinds - frozenset(KINDS):
        parser.error(f"unknown faults: {', '.join(sorted(kinds - frozenset(KINDS)))}; known: {', '.join(KINDS)}")
    counts: Counter[str] = Counter()
    begun, failed, ran = time.perf_counter(), 0, 0
    for seed in range(int(first), int(last or int(first) + 1)):
        simulation, violations = run_seed(
            seed, options.mode, kinds, options.parts, together=options.together, traced=options.trace
        )
        counts.update(simulation.history.counts)
        ran += 1
        if options.trace:
            _print(timeline(simulation, None))
        if violations:
            failed += 1
            report(simulation, violations)
            if not options.keep_going:
                break
    seconds = time.perf_counter() - begun
    shown = ", ".join(f"{key} {counts[key]}" for key in sorted(counts))
    _print(f"{ran} seeds of {options.mode} in {seconds:.1f} s, {failed} failed; {shown}")
    return 1 if failed else 0


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def report(first: Simulation, violations: list[Violation]) -> None:
    """Print what was violated, and the timeline around it; the seed is run again for that."""
    seed, plan = first.world.seed, first.plan
    simulation, again = run_seed(seed, first.mode, plan.kinds, plan.parts, together=plan.together, traced=True)
    if [v.text for v in again] != [v.text for v in violations]:
        _print(f"seed {seed}: the second run differs from the first: the simulator itself is not deterministic")
    _print(f"seed {seed} ({first.mode}): {len(again)} violations")
    _print(f"  plan: {simulation.plan}")
    for violation in again[:8]:
        _print(f"  {violation.rule}: {violation.text}")
    if again:
        _print(timeline(simulation, again[0]))


def timeline(simulation: Simulation, violation: Violation | None) -> str:
    """The trace, or the part of it that leads to a violation and is about its name."""
    shown = []
    for line in simulation.world.lines:
        if violation is not None:
            if not violation.since - 2 * simulation.plan.ttl <= line.at <= violation.at + 1:
                continue
            if "anchor" in line.what and "anchor" not in violation.text:
                continue
        shown.append(f"{line.at:11.6f} {line.who:>9} {line.what}")
    return "\n".join(shown)


if __name__ == "__main__":
    sys.exit(main())

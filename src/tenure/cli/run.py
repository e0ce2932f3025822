"""`tenure run NAME -- COMMAND`: run a command while a name is held.

The order is what makes it safe. The command's process is forked before the library is loaded, since a process with
threads must not fork; it waits at a gate. The lease is acquired. The gate opens. The group is watched until it is gone.
Only then is the name given back.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from tenure.cli import exits, spawn
from tenure.cli.report import Report, queue_fields
from tenure.cli.supervise import Interrupted, Limits, Signals, Supervisor, clock
from tenure.cli.terminal import Terminal

if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager

    from tenure.cli.supervise import Outcome
    from tenure.client import Client, Lease, Lock
    from tenure.errors import AcquireTimeout
    from tenure.observe.events import Event


def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    report = Report(options.name, as_json=options.json, quiet=options.quiet)
    with Signals() as signals:
        spawn.become_subreaper()
        child = spawn.spawn(options.command)
        try:
            return _Job(options, report, signals, child).run()
        except Interrupted as interruption:
            return exits.SIGNAL_BASE + interruption.number
        except Exception as error:
            if not report.as_json:
                raise
            status = exits.status_of(error)
            report.event("error", message=str(error) or type(error).__name__, status=status)
            return status
        finally:
            child.dismiss()


def limits_of(options: argparse.Namespace, ttl: float) -> Limits:
    """Return when the group is stopped, checked against the TTL.

    Raises:
        UsageError: a single late renewal would stop the command, or the grace would outlast the lease.
    """
    from tenure.errors import UsageError

    margin = ttl / 4 if options.stop_margin is None else options.stop_margin
    grace = margin * 2 / 3 if options.grace is None else options.grace
    # A renewal is sent every ttl/3 and waited for at most ttl/6: what is left then must exceed the margin.
    if not ttl / 3 + ttl / 6 < ttl - margin:
        raise UsageError(f"--stop-margin {margin:g} must be below half of the ttl {ttl:g}: a slow renewal is no loss")
    if not grace < margin:
        raise UsageError(f"--grace {grace:g} must be below --stop-margin {margin:g}: the command must end in time")
    if options.max_hold is not None and not margin < options.max_hold:
        raise UsageError(f"--max-hold {options.max_hold:g} must be above --stop-margin {margin:g}: no time is left")
    return Limits(margin, grace)


class _Job:
    """One run: its options, its voice, its signals and the process at the gate."""

    def __init__(self, options: argparse.Namespace, report: Report, signals: Signals, child: spawn.Child) -> None:
        self._options = options
        self._report = report
        self._signals = signals
        self._child = child
        self._number = 0

    def run(self) -> int:
        from tenure.cli.connect import connect, opened
        from tenure.errors import AcquireTimeout

        client, ttl = connect(self._options, self._hear, on_fallback=self._tell_scope)
        limits = limits_of(self._options, ttl)
        lock = self._lock(client)
        # Whatever happens inside, leaving closes the client, and that gives back what it may hold.
        with opened(client):
            # The start does without (see main); what follows may last for days.
            gc.enable()
            began = clock()
            try:
                with self._waiting_line(client):
                    lease = lock.acquire()
            except AcquireTimeout as error:
                return self._busy(error)
            acquired = clock()
            self._signals.collect()
            self._report.event(
                "acquired",
                token=lease.token,
                floor=lease.floor,
                authority=lease.grant.authority,
                waited=round(acquired - began, 6),
            )
            return self._settle(lease, self._supervise(client, lease, limits, acquired))

    def _tell_scope(self, scope: str) -> None:
        from tenure.cli.connect import fallen_back

        self._report.event("scope", scope=scope)
        self._report.note(fallen_back(scope))

    def _hear(self, event: Event) -> None:
        """Take an event of the library; in whichever thread saw it, so be short."""
        from tenure.observe import events

        if isinstance(event, events.Claimed):
            self._number = event.number
            self._report.event("waiting", token=event.number, wait=self._options.wait, pid=os.getpid())
        elif isinstance(event, events.Lost):
            # The keeper has learned it, of a steal for example; the supervisor is asleep.
            self._signals.poke()
        elif isinstance(event, events.Suspect):
            self._report.event("suspect", remaining=round(event.remaining, 6), cause=event.cause)
            self._report.note(f"a renewal failed, {event.remaining:.1f} s are left: {event.cause}")

    def _lock(self, client: Client) -> Lock:
        options = self._options
        if options.limit is None:
            return client.lock(
                options.name,
                shared=options.shared,
                wait=options.wait,
                max_hold=options.max_hold,
                lock_delay=options.lock_delay,
                info=options.info,
            )
        return client.semaphore(
            options.name,
            options.limit,
            permits=options.permits or 1,
            wait=options.wait,
            max_hold=options.max_hold,
            lock_delay=options.lock_delay,
            info=options.info,
        )

    def _waiting_line(self, client: Client) -> AbstractContextManager[object]:
        wanted = self._options.wait != 0 and not (self._report.as_json or self._report.quiet)
        if not wanted or not sys.stderr.isatty():
            return nullcontext()
        from tenure.cli.waiting import WaitingLine

        return WaitingLine(client, self._options.name, sys.stderr, lambda: self._number)

    def _busy(self, error: AcquireTimeout) -> int:
        from tenure.cli.text import busy, duration, own_place

        options, queue = self._options, error.queue
        if queue is not None:
            # Our own claim may not be closed yet.
            own = own_place(queue, self._number)
            queue = queue._replace(waiters=tuple(one for place, one in enumerate(queue.waiters) if place != own))
        seen = {"holders": None, "waiters": None} if queue is None else queue_fields(queue)
        self._report.event("busy", **{**seen, "name": options.name}, waited=round(error.waited, 6))
        facts = "who holds it could not be asked" if queue is None else busy(queue, time.time())
        waited = f" after {duration(error.waited)}" if options.wait else ""
        # With --busy-ok under cron, a line here would be a mail.
        if not options.busy_ok or sys.stderr.isatty():
            self._report.note(f"{options.name} is busy{waited}: {facts}")
        return 0 if options.busy_ok else int(options.busy_status)

    def _supervise(self, client: Client, lease: Lease, limits: Limits, acquired: float) -> Outcome:
        def on_stop() -> None:
            self._reason, self._why = self._cause(lease, limits, acquired)
            self._report.event("stopping", token=lease.token, reason=self._reason)

        def start() -> None:
            self._child.open(environment, client.descriptors())
            self._report.event("started", pid=self._child.pid)

        environment = {
            "TENURE_NAME": lease.name,
            "TENURE_TOKEN": str(lease.token),
            "TENURE_FLOOR": str(lease.floor),
            "TENURE_AUTHORITY": lease.grant.authority,
        }
        terminal = Terminal()
        try:
            if terminal.wants_foreground():
                terminal.give(self._child.pid)
            return Supervisor(self._child, lease, limits, self._signals, terminal, on_stop).run(start)
        finally:
            terminal.take_back(self._child.pid)
            terminal.close()

    _reason = _why = ""

    def _cause(self, lease: Lease, limits: Limits, acquired: float) -> tuple[str, str]:
        """Why the command is stopped: the stable word of the events, and a sentence."""
        if lease.lost is not None:
            return lease.lost.name.lower(), str(lease.lost)
        most = self._options.max_hold
        if most is not None and clock() - acquired >= most - limits.stop_margin - 0.1:
            return "max_hold", f"it was held for all of --max-hold {most:g}, less the time to stop"
        return "no_renewal", "no renewal was answered in time"

    def _settle(self, lease: Lease, outcome: Outcome) -> int:
        """Give the name back and say how it went. A lost lease is never 0, whatever the command returned."""
        from tenure.errors import LeaseLost, TenureError

        options, report = self._options, self._report
        report.event("exited", status=outcome.status, signal=outcome.signal)
        if outcome.failure is not None:
            missing = outcome.failure.status == exits.NOT_FOUND
            text = "command not found" if missing else os.strerror(outcome.failure.error)
            report.failure(f"{options.command[0]}: {text}", outcome.failure.status)
        lost = outcome.stopped
        try:
            lease.release()
        except LeaseLost as error:
            # Somebody else may have been at work beside the command.
            if not lost:
                reason = error.reason
                self._reason, self._why = (reason.name.lower(), str(reason)) if reason else ("unknown", str(error))
            lost = True
        except TenureError as error:
            # No answer: the command's work is done, and the ttl frees the name.
            report.note(f"{options.name} could not be released: {error}")
        if lost:
            report.event("lost", token=lease.token, reason=self._reason)
            what = "the command was stopped" if outcome.stopped else f"the command had ended with {outcome.status}"
            report.error(f"lost {options.name} (token {lease.token}): {self._why}; {what}")
            return exits.LOST
        report.event("released", token=lease.token)
        return outcome.status

"""The wire of etcd: keys, values, the leases that they are bound to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tenure.engines.etcd import messages as m
from tenure.engines.etcd.keys import after, whole_delay
from tenure.engines.etcd.requests import FORMAT
from tenure.runtimes.blocking import run
from tests.etcd.rig import Bare, fresh
from tests.wire.scenario import DELAY, NAMESPACE, SESSIONS, Play, scenario
from tests.wire.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.servers.etcd import EtcdServer

_WHEN: Final = re.compile(r'(?<="t":)[0-9.]+')


class EtcdDesk:
    """As `Desk`: a root of its own on a server."""

    has_tombstones = True

    def __init__(self, server: EtcdServer, transcript: Transcript) -> None:
        self._bare = Bare(fresh(server.url), NAMESPACE)
        self._transcript = transcript
        self.store = self._bare.store
        keys = self._bare.ask.keys
        self.root = keys.prefix.decode().removesuffix(f"{NAMESPACE}/")
        self._leases = {0: ""} | {keys.lease(session): f", lease of {session}" for session in SESSIONS}
        delay = whole_delay(DELAY)
        self._leases |= {keys.lease(s, delay): f", lease of {s} with a delay of {delay}" for s in SESSIONS}
        transcript.call(self._bare.life.id, "STORE")
        transcript.call(self.root, "ROOT/")

    def said(self) -> list[tuple[str, str]]:
        return []

    def state(self) -> list[tuple[str, str]]:
        prefix = self._bare.ask.keys.prefix
        listing = m.get_op(m.get(prefix, after(prefix), order=m.ASCEND))
        reply = run(self._bare.ask.read([listing], self._bare.until()))
        return [self._row(kv) for kv in reply.parts[0].kvs]

    def _row(self, kv: m.Kv) -> tuple[str, str]:
        number = kv.create + self._bare.life.base
        made = self._transcript.named(number)
        value = _WHEN.sub("NOW", kv.value.decode())
        about = f"made as {made}" if made != str(number) else "made"
        written = "" if kv.mod == kv.create else ", written since"
        return kv.key.decode().replace("\0", "\\0"), f"'{value}' ({about}{written}{self._lease(kv.lease)})"

    def _lease(self, lease: int) -> str:
        return self._leases.get(lease, ", a lease of its own")

    def clocks(self) -> Sequence[int]:
        return ()

    def leases(self) -> list[str]:
        """How the ids of leases are drawn from those of sessions, so that a repeated request finds the first."""
        keys = type(self._bare.ask.keys)("tenure", NAMESPACE)
        return [f"session {s}, lock_delay {delay}: {keys.lease(s, delay)}" for s in SESSIONS for delay in (0, 400)]

    def close(self) -> None:
        self._bare.wire.shut()


def record(server: EtcdServer) -> str:
    """The transcript of the format in force."""
    transcript = Transcript("etcd", FORMAT)
    desk = EtcdDesk(server, transcript)
    try:
        scenario(Play(desk, transcript))
        transcript.section("ids of leases, under the root tenure", desk.leases())
    finally:
        desk.close()
    return transcript.text()

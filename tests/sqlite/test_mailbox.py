import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tenure import errors
from tenure.engines.sqlite import mailbox
from tenure.engines.sqlite.endpoint import Endpoint, Sender
from tenure.engines.sqlite.files import Home, open_home
from tenure.engines.sqlite.mailbox import PEERS_MAX, BlockingMailbox
from tenure.engines.sqlite.mailbox_aio import AioMailbox
from tenure.errors import UsageError
from tenure.model import Instant
from tenure.ports import Message, Peer
from tenure.runtimes import native
from tests.timing import Bound

T = TypeVar("T")
Box = BlockingMailbox | AioMailbox

SRC = os.path.dirname(os.path.dirname(errors.__file__))
LIVE = """
import sys
from tenure.engines.sqlite.endpoint import Endpoint
from tenure.engines.sqlite.files import open_home
endpoint = Endpoint.create(open_home(sys.argv[1]), sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
"""


def mail(number: int) -> Message:
    return Message("s", 1, number, number)


def peer(address: str) -> Peer:
    return Peer("session-" + address, address, Instant(native.now() + 60))


def soon() -> Instant:
    return Instant(native.now() + 30)


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a blocking mailbox suspended")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return open_home(str(tmp_path / "x.db"))


@pytest.fixture
def endpoint(home: Home) -> Iterator[Endpoint]:
    made = Endpoint.create(home, "own")
    yield made
    made.close()


@pytest.fixture
def neighbour(home: Home) -> Iterator[Endpoint]:
    made = Endpoint.create(home, "other")
    yield made
    made.close()


@pytest.fixture
def sender(home: Home) -> Iterator[Sender]:
    made = Sender(home)
    yield made
    made.close()


@pytest.fixture(params=[BlockingMailbox, AioMailbox])
def box(request: pytest.FixtureRequest, endpoint: Endpoint) -> Iterator[Box]:
    made: Box = request.param(endpoint, native.now)
    yield made
    made.close()


@pytest.fixture
def receive(box: Box) -> Callable[[Instant | None], list[Message]]:
    """Receive to the end, in the way of the mailbox's runtime."""
    if isinstance(box, BlockingMailbox):
        return lambda until: run_blocking(box.receive(until))
    return lambda until: asyncio.run(box.receive(until))


Receive = Callable[[Instant | None], list[Message]]


def test_messages_arrive_in_order(receive: Receive, sender: Sender) -> None:
    for number in (1, 2, 3):
        assert sender.send("own", mail(number))
    assert receive(soon()) == [mail(1), mail(2), mail(3)]
    assert receive(native.now()) == []


def test_an_instant_that_has_passed_still_takes_what_is_there(receive: Receive, sender: Sender) -> None:
    sender.send("own", mail(1))
    assert receive(Instant(0.0)) == [mail(1)]
    assert receive(Instant(0.0)) == []


def test_it_returns_empty_handed_not_before_its_instant(receive: Receive) -> None:
    until = Instant(native.now() + 0.05)
    assert receive(until) == []
    assert native.now() >= until


def test_many_at_once_are_marked_as_an_overflow(box: Box, receive: Receive, sender: Sender) -> None:
    for number in range(1, 5):
        sender.send("own", mail(number))
    assert len(receive(soon())) == 4
    assert not box.overflowed
    taken = sum(sender.send("own", mail(number)) for number in range(1, 30))
    assert 5 <= taken < 29
    assert len(receive(soon())) == taken
    assert box.overflowed


def test_a_poke_before_or_during_a_receive_ends_it(box: Box, receive: Receive) -> None:
    for _ in range(1000):
        box.poke()
    assert receive(None) == []
    thread = threading.Thread(target=box.poke)
    thread.start()
    assert receive(None) == []
    thread.join()
    assert receive(native.now()) == []


def test_what_is_not_understood_is_a_hint_to_look(endpoint: Endpoint, receive: Receive, home: Home) -> None:
    sender = Sender(home)
    path = home.within("own.mail")
    for payload in (b"", b"9 from the future", b"x" * 1000):
        sender._socket.sendto(payload, path)
        assert receive(None) == []
    sender.close()


def test_the_end_of_a_neighbour_ends_the_wait(box: Box, receive: Receive, neighbour: Endpoint) -> None:
    assert box.watch([peer("other")])
    assert receive(native.now()) == []
    neighbour.close()
    assert receive(None) == []
    assert receive(native.now()) == []


def test_a_neighbour_that_is_killed_while_somebody_waits_is_heard(box: Box, receive: Receive, home: Home) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LIVE, home.path, "killed"],
        env={**os.environ, "PYTHONPATH": SRC},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert box.watch([peer("killed")])
        thread = threading.Thread(target=other.kill)
        thread.start()
        began = native.now()
        assert receive(soon()) == []
        assert native.now() - began < Bound(20)
        thread.join()


def test_a_neighbour_that_is_gone_is_told_once_and_then_polled_for(
    box: Box, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "DEAF_S", 0.01)
    assert not box.watch([peer("gone")])
    assert box.watch([peer("gone")])
    began = native.now()
    assert receive(soon()) == []
    assert native.now() - began < Bound(10)


def test_watching_again_costs_no_system_call(box: Box, neighbour: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert box.watch([peer("other"), peer("own")])
    monkeypatch.setattr(mailbox, "connect", None)
    assert box.watch([peer("other"), peer("own")])


def test_only_so_many_neighbours_are_listened_to(box: Box, receive: Receive, home: Home) -> None:
    made = [Endpoint.create(home, f"n{index}") for index in range(PEERS_MAX + 3)]
    for each in made:
        assert box.watch([peer(each.address)])
    assert len(box._peers) == PEERS_MAX
    made[0].close()
    assert receive(native.now()) == []
    made[-1].close()
    assert receive(soon()) == []
    for each in made:
        each.close()


def test_a_neighbour_watched_while_somebody_waits_is_heard(endpoint: Endpoint, neighbour: Endpoint) -> None:
    box = BlockingMailbox(endpoint, native.now)
    got: list[list[Message]] = []
    thread = threading.Thread(target=lambda: got.append(run_blocking(box.receive(soon()))))
    thread.start()
    end = time.monotonic() + 20
    while box._reader is None and time.monotonic() < end:
        os.sched_yield()
    assert box.watch([peer("other")])
    neighbour.close()
    thread.join(20)
    assert got == [[]]
    box.close()


def test_without_a_mail_socket_it_returns_every_so_often(
    home: Home, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(mailbox, "MUTE_S", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(Home, "reach", lambda _home, _name: None)
        mute = Endpoint.create(home, "mute")
    request.addfinalizer(mute.close)
    blocking, tasks = BlockingMailbox(mute, native.now), AioMailbox(mute, native.now)
    assert run_blocking(blocking.receive(None)) == []
    assert asyncio.run(tasks.receive(None)) == []
    blocking.close()
    tasks.close()


def test_one_reader_at_a_time(endpoint: Endpoint) -> None:
    box = BlockingMailbox(endpoint, native.now)
    thread = threading.Thread(target=lambda: run_blocking(box.receive(soon())))
    thread.start()
    end = time.monotonic() + 20
    while box._reader is None and time.monotonic() < end:
        os.sched_yield()
    with pytest.raises(UsageError, match="a reader already"):
        run_blocking(box.receive(soon()))
    box.close()
    thread.join(20)
    assert not thread.is_alive()


def test_one_reading_task_at_a_time(endpoint: Endpoint, sender: Sender) -> None:
    async def main() -> None:
        box = AioMailbox(endpoint, native.now)
        first = asyncio.create_task(box.receive(soon()))
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match="a reader already"):
            await box.receive(soon())
        sender.send("own", mail(1))
        assert await first == [mail(1)]
        box.close()

    asyncio.run(main())


def test_a_closed_mailbox_refuses_and_a_late_poke_is_harmless(box: Box, receive: Receive) -> None:
    box.close()
    box.close()
    box.poke()
    assert not box.watch([peer("other")])
    with pytest.raises(UsageError, match="closed"):
        receive(soon())


def test_cancelling_a_receive_loses_nothing(endpoint: Endpoint, sender: Sender) -> None:
    async def main() -> None:
        box = AioMailbox(endpoint, native.now)
        for number in range(1, 200):
            task = asyncio.create_task(box.receive(soon()))
            await asyncio.sleep(0)
            sender.send("own", mail(number))
            # The cancellation comes before the wake-up, between that and the task's next step, or after the end.
            for _ in range(number % 6):
                await asyncio.sleep(0)
            task.cancel()
            try:
                got = await task
            except asyncio.CancelledError:
                got = await box.receive(soon())
            assert got == [mail(number)]
        box.close()

    asyncio.run(main())


class _Interrupt:
    """Raises KeyboardInterrupt at the n-th place where Python would: a function's start, or the return of C code."""

    def __init__(self, place: int) -> None:
        self.left = place

    def __call__(self, _frame: object, event: str, _arg: object) -> None:
        if event in ("call", "c_return"):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_an_interrupt_at_any_place_of_a_receive_loses_no_message(endpoint: Endpoint, sender: Sender) -> None:
    for place in range(1, 1000):
        box = BlockingMailbox(endpoint, native.now)
        sender.send("own", mail(place))
        got: list[Message] = []
        interrupt = _Interrupt(place)
        try:
            sys.setprofile(interrupt)
            try:
                box.receive(soon()).send(None)
            except StopIteration as end:
                got = end.value
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        if not got:
            got = run_blocking(box.receive(native.now()))
        assert (place, got) == (place, [mail(place)])
        box.close()
        if interrupt.left > 0:
            break
    assert 20 < place < 999


# A connection that an interrupt left to nobody is closed by the collector, which warns of it.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupt_at_any_place_of_a_watch_leaves_a_mailbox_that_hears(endpoint: Endpoint, home: Home) -> None:
    for place in range(1, 1000):
        neighbour = Endpoint.create(home, f"n{place}")
        box = BlockingMailbox(endpoint, native.now)
        assert run_blocking(box.receive(native.now())) == []
        interrupt = _Interrupt(place)
        try:
            sys.setprofile(interrupt)
            box.watch([peer(neighbour.address)])
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        assert box.watch([peer(neighbour.address)])
        assert run_blocking(box.receive(native.now())) == []
        neighbour.close()
        until = soon()
        assert run_blocking(box.receive(until)) == []
        assert native.now() < until
        box.close()
        if interrupt.left > 0:
            break
    assert 20 < place < 999


INTERRUPTED = """
import os, signal, sys, threading
from tenure.engines.sqlite.endpoint import Endpoint, Sender
from tenure.engines.sqlite.files import open_home
from tenure.engines.sqlite.mailbox import BlockingMailbox
from tenure.ports import Message
from tenure.runtimes import native

home = open_home(sys.argv[1])
endpoint = Endpoint.create(home, "own")
box = BlockingMailbox(endpoint, native.now)
sender = Sender(home)
ROUNDS = 300
asked = threading.Semaphore(0)

def disturb():
    for number in range(1, ROUNDS + 1):
        asked.acquire()
        if number % 2:
            sender.send("own", Message("s", 1, number, 1))
        os.kill(os.getpid(), signal.SIGINT)
        if not number % 2:
            sender.send("own", Message("s", 1, number, 1))

interrupts, raised, armed, got = 0, 0, False, []

def interrupt(signum, frame):
    # Raises as Ctrl-C does, but only inside receive: what it would hit elsewhere is this program.
    global interrupts, raised, armed
    interrupts += 1
    if armed:
        armed = False
        raised += 1
        raise KeyboardInterrupt

def take():
    global armed
    try:
        armed = True
        try:
            box.receive(None).send(None)
        except StopIteration as end:
            got.append(end.value)
        armed = False
    except KeyboardInterrupt:
        pass

signal.signal(signal.SIGINT, interrupt)
threading.Thread(target=disturb, daemon=True).start()
for number in range(1, ROUNDS + 1):
    asked.release()
    while interrupts < number or sum(map(len, got)) < number:
        if sum(map(len, got)) < number:
            take()
assert raised > ROUNDS // 10, raised
print(interrupts, [m.number for batch in got for m in batch] == list(range(1, ROUNDS + 1)))
"""


def test_an_interrupt_passes_through_and_loses_nothing(home: Home) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, home.path],
        env={**os.environ, "PYTHONPATH": SRC},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    assert answer.stdout == "300 True\n"


def test_a_forked_child_leaves_its_parents_mailbox_alone(
    box: Box, receive: Receive, sender: Sender, neighbour: Endpoint
) -> None:
    assert box.watch([peer("other")])
    assert receive(native.now()) == []
    child = os.fork()
    if child == 0:
        box.poke()
        box.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert receive(native.now()) == []
    sender.send("own", mail(1))
    assert receive(soon()) == [mail(1)]
    neighbour.close()
    assert receive(None) == []


UNDER_GEVENT = """
import sys
from gevent import monkey
monkey.patch_all()
import gevent
from tenure.engines.sqlite.endpoint import Endpoint, Sender
from tenure.engines.sqlite.files import open_home
from tenure.engines.sqlite.mailbox import BlockingMailbox
from tenure.model import Instant
from tenure.ports import Message, Peer
from tenure.runtimes import native

def receive(box):
    try:
        box.receive(Instant(native.now() + 30)).send(None)
    except StopIteration as end:
        return end.value

home = open_home(sys.argv[1])
own, other = Endpoint.create(home, "own"), Endpoint.create(home, "other")
box = BlockingMailbox(own, native.now)
waiter = gevent.spawn(receive, box)
gevent.sleep(0)
Sender(home).send("own", Message("s", 1, 5, 5))
print([m.number for m in waiter.get(timeout=20)])
waiter = gevent.spawn(receive, box)
gevent.sleep(0)
box.watch([Peer("s", "other", Instant(native.now() + 60))])
print(waiter.get(timeout=20))
waiter = gevent.spawn(receive, box)
gevent.sleep(0)
other.close()
print(waiter.get(timeout=20))
"""


def test_other_greenlets_run_while_one_waits(home: Home) -> None:
    pytest.importorskip("gevent")
    answer = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT, home.path],
        env={**os.environ, "PYTHONPATH": SRC},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    assert answer.stdout == "[5]\n[]\n[]\n"


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP here")
def test_a_stopped_neighbour_ends_no_wait(box: Box, receive: Receive, home: Home) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LIVE, home.path, "stopped"],
        env={**os.environ, "PYTHONPATH": SRC},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert box.watch([peer("stopped")])
        other.send_signal(signal.SIGSTOP)
        assert os.waitid(os.P_PID, other.pid, os.WSTOPPED | os.WNOWAIT) is not None
        until = Instant(native.now() + 0.02)
        assert receive(until) == []
        assert native.now() >= until
        other.kill()
        assert receive(soon()) == []

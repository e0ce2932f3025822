import _socket
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure import errors
from tenure.engines.mail import PAYLOAD_MAX, decode, encode
from tenure.engines.sqlite.endpoint import (
    Endpoint,
    Presence,
    Sender,
    Silence,
    bury,
    connect,
    is_dead,
    presence,
    tidy,
)
from tenure.engines.sqlite.files import Home, open_home
from tenure.errors import StoreUnavailable, UsageError
from tenure.ports import Message

SRC = os.path.dirname(os.path.dirname(errors.__file__))
PRELUDE = """
import os, subprocess, sys
from tenure.engines.sqlite.endpoint import *
from tenure.engines.sqlite.files import open_home
home = open_home(sys.argv[1])
"""
LIVE = """
endpoint = Endpoint.create(home, sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
endpoint.close()
"""
MAIL = Message("0123456789abcdef0123456789abcdef", 7, 1795372291532495, 1795372291532490)


@contextmanager
def process(code: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said its first line; ended afterwards, also if it was stopped."""
    started = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, *args],
        env={**os.environ, "PYTHONPATH": SRC},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() != ""
            yield started
        finally:
            started.kill()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return open_home(str(tmp_path / "x.db"))


@pytest.fixture
def endpoint(home: Home) -> Iterator[Endpoint]:
    made = Endpoint.create(home, "own")
    yield made
    made.close()


@pytest.fixture
def dial(home: Home) -> Iterator[Callable[[str], _socket.socket]]:
    """Connect to a pulse that is there."""
    made: list[_socket.socket] = []

    def call(address: str) -> _socket.socket:
        found = connect(home, address)
        assert not isinstance(found, Silence)
        made.append(found)
        return found

    yield call
    for each in made:
        each.close()


def has_ended(pulse: _socket.socket, seconds: float = 0) -> bool:
    return bool(select.select([pulse], [], [], seconds)[0])


def files_of(home: Home) -> set[str]:
    return set(os.listdir(home.folder)) - {"guard", "guard.bell"}


def test_a_living_client_is_held_connected_and_reachable(
    home: Home, endpoint: Endpoint, dial: Callable[[str], _socket.socket]
) -> None:
    assert files_of(home) == {"own.presence", "own.mail", "own.pulse"}
    assert presence(home, "own") is Presence.HELD
    assert not has_ended(dial("own"))
    sender = Sender(home)
    assert sender.send("own", MAIL)
    sender.close()
    assert not sender.send("own", MAIL)
    assert endpoint.mail is not None
    assert decode(endpoint.mail.recv(PAYLOAD_MAX)) == MAIL
    for fd in endpoint.descriptors():
        assert not os.get_inheritable(fd)


def test_closing_leaves_nothing_and_is_no_proof_of_death(
    home: Home, endpoint: Endpoint, dial: Callable[[str], _socket.socket]
) -> None:
    pulse = dial("own")
    endpoint.close()
    endpoint.close()
    assert files_of(home) == set()
    assert has_ended(pulse)
    assert presence(home, "own") is Presence.UNKNOWN
    assert not is_dead(home, "own")
    assert not bury(home, "own")
    assert connect(home, "own") is Silence.NOBODY


def test_a_killed_client_is_dead_at_once_and_is_heard(home: Home, dial: Callable[[str], _socket.socket]) -> None:
    with process(LIVE, home.path, "other") as other:
        pulse = dial("other")
        assert not is_dead(home, "other")
        other.kill()
        assert has_ended(pulse, 20)
        # Heard and dead: the order in which the kernel closes the two is its own.
        other.wait(20)
        assert is_dead(home, "other")
        assert bury(home, "other")
        assert files_of(home) == set()
        assert not bury(home, "other")


def test_a_connection_taken_in_by_a_sweep_is_heard_too(home: Home, dial: Callable[[str], _socket.socket]) -> None:
    sweep = "sys.stdin.readline()\nendpoint.sweep()\nprint('swept', flush=True)\n"
    code = LIVE.replace("sys.stdin.read()", sweep + "sys.stdin.read()")
    with process(code, home.path, "other") as other:
        pulse = dial("other")
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write("go\n")
        other.stdin.flush()
        other.stdout.readline()
        assert not has_ended(pulse)
        other.kill()
        assert has_ended(pulse, 20)


def test_a_stopped_client_gives_no_event_and_looks_alive(home: Home, dial: Callable[[str], _socket.socket]) -> None:
    with process(LIVE, home.path, "other") as other:
        pulse = dial("other")
        other.send_signal(signal.SIGSTOP)
        assert os.waitid(os.P_PID, other.pid, os.WSTOPPED | os.WNOWAIT) is not None
        assert not has_ended(pulse)
        assert presence(home, "other") is Presence.HELD
        assert not isinstance(dial("other"), Silence)


def test_two_probers_at_once_both_see_the_dead(home: Home) -> None:
    with process(LIVE, home.path, "other") as other:
        other.kill()
        other.wait(20)
        fd = os.open(home.within("other.presence"), os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert is_dead(home, "other")
        # The control: a prober that locks exclusively makes another see the dead alive.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not is_dead(home, "other")
        os.close(fd)


def in_child(work: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_does_not_make_its_parent_look_dead(
    home: Home, endpoint: Endpoint, dial: Callable[[str], _socket.socket]
) -> None:
    pulse = dial("own")
    endpoint.sweep()
    in_child(endpoint.close)
    in_child(endpoint.disown)
    assert files_of(home) == {"own.presence", "own.mail", "own.pulse"}
    assert presence(home, "own") is Presence.HELD
    assert not has_ended(pulse)


def test_the_control_a_child_that_unlocks_makes_its_parent_look_dead(home: Home) -> None:
    # Not through an Endpoint, for that one's descriptor is closed in a child before any code of ours runs there.
    fd = os.open(home.within("raw.presence"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not is_dead(home, "raw")
    in_child(lambda: fcntl.flock(fd, fcntl.LOCK_UN))
    assert is_dead(home, "raw")
    os.close(fd)


def test_fork_itself_closes_what_the_child_inherited(endpoint: Endpoint) -> None:
    fds = endpoint.descriptors()

    def check() -> None:
        assert endpoint.mail is None
        for fd in fds:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)

    in_child(check)


HEIR = """
endpoint = Endpoint.create(home, sys.argv[2])
heir = subprocess.Popen(["cat"], pass_fds=endpoint.descriptors())
print(heir.pid, flush=True)
heir.wait()
"""


def test_a_child_that_inherits_the_descriptors_keeps_its_killed_parent_present(
    home: Home, dial: Callable[[str], _socket.socket]
) -> None:
    with process(HEIR, home.path, "other") as other:
        pulse = dial("other")
        other.kill()
        other.wait(20)
        # `cat` lives until its standard input, which is ours, is closed.
        assert presence(home, "other") is Presence.HELD
        assert not has_ended(pulse)
        assert not has_ended(dial("other"))
        assert not bury(home, "other")
        assert other.stdin is not None
        other.stdin.close()
        assert has_ended(pulse, 20)
        end = time.monotonic() + 20
        while not is_dead(home, "other") and time.monotonic() < end:
            os.sched_yield()
        assert is_dead(home, "other")


def test_long_paths_work_through_a_short_name(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 150)
    deep.mkdir()
    home = open_home(str(deep / "x.db"))
    endpoint = Endpoint.create(home, "a" * 64)
    assert endpoint.mail is not None
    assert len(home.within(endpoint.address + ".mail")) > 200
    sender = Sender(home)
    assert sender.send(endpoint.address, MAIL)
    pulse = connect(home, endpoint.address)
    assert not isinstance(pulse, Silence)
    endpoint.close()
    assert has_ended(pulse)
    assert files_of(home) == set()
    pulse.close()
    sender.close()


def test_without_sockets_the_presence_still_counts(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Home, "reach", lambda _home, _name: None)
    endpoint = Endpoint.create(home, "mute")
    assert (endpoint.mail, endpoint.pulse) == (None, None)
    assert len(endpoint.descriptors()) == 1
    assert files_of(home) == {"mute.presence"}
    assert presence(home, "mute") is Presence.HELD
    endpoint.sweep()
    endpoint.close()
    assert files_of(home) == set()


def test_a_full_mailbox_refuses_and_takes_again_after_a_read(home: Home, endpoint: Endpoint) -> None:
    sender = Sender(home)
    taken = [sender.send("own", MAIL) for _ in range(300)]
    assert taken[:5] == [True] * 5
    assert not taken[-1]
    assert endpoint.mail is not None
    endpoint.mail.recv(PAYLOAD_MAX)
    assert sender.send("own", MAIL)
    sender.close()


def test_sending_to_nobody_is_false(home: Home) -> None:
    sender = Sender(home)
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(home.within("dead.mail"))
    dead.close()
    for address in ("missing", "dead", "", "../x", "a/b", "a\0b", "x" * 200, "\udcff"):
        assert not sender.send(address, MAIL)
        assert connect(home, address) is Silence.NOBODY
        assert presence(home, address) is Presence.UNKNOWN
    sender.close()


def test_a_sweep_makes_room_and_drops_those_who_left(home: Home, endpoint: Endpoint) -> None:
    opened: list[_socket.socket] = []
    while not isinstance(found := connect(home, "own"), Silence):
        opened.append(found)
        assert len(opened) < 1000
    assert found is Silence.CROWDED
    for each in opened[::2]:
        each.close()
    endpoint.sweep()
    again = connect(home, "own")
    assert not isinstance(again, Silence)
    endpoint.sweep()
    assert not any(has_ended(each) for each in (*opened[1::2], again))
    endpoint.close()
    assert all(has_ended(each) for each in (*opened[1::2], again))
    for each in (*opened, again):
        each.close()


def test_an_id_is_used_once_and_is_a_plain_word(home: Home, endpoint: Endpoint) -> None:
    with pytest.raises(UsageError, match="used once"):
        Endpoint.create(home, "own")
    for bad in ("", "a/b", "..", "x" * 65, "é"):
        with pytest.raises(UsageError, match="runtime_id"):
            Endpoint.create(home, bad)


def test_a_missing_folder_is_an_unavailable_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be made"):
        Endpoint.create(Home(str(tmp_path / "x.db")), "own")


def test_tidying_buries_only_the_dead_whom_nobody_names(home: Home, endpoint: Endpoint) -> None:
    for address in ("dead", "named", "dead2"):
        Path(home.within(address + ".presence")).touch()
        Path(home.within(address + ".mail")).touch()
    assert tidy(home, keep={"named"}, limit=100) == 2
    assert files_of(home) == {"own.presence", "own.mail", "own.pulse", "named.presence", "named.mail"}
    assert tidy(Home("/missing/x.db"), keep=()) == 0


@given(
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=64),
    st.integers(0, 2**53 - 1),
    st.integers(0, 2**53 - 1),
    st.integers(0, 2**53 - 1),
)
def test_a_message_survives_the_wire(session: str, claim: int, number: int, floor: int) -> None:
    message = Message(session, claim, number, floor)
    assert len(encode(message)) <= PAYLOAD_MAX
    assert decode(encode(message)) == message
    assert decode(encode(message) + b" a-later-field") == message


@given(st.binary(max_size=300))
def test_what_is_not_understood_is_nothing(payload: bytes) -> None:
    found = decode(payload)
    assert found is None or found == decode(encode(found))


@pytest.mark.parametrize(
    "payload", [b"", b"1", b"2 s 1 2 3", b"1  1 2 3", b"1 s 1 2 -3", b"1 s 1 2 x", b"1 \xff 1 2 3"]
)
def test_other_versions_are_not_guessed_at(payload: bytes) -> None:
    assert decode(payload) is None

"""Servers start, stop, die and end with their test run; their ports stay theirs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.servers import processes
from tests.servers.processes import HOST, PATIENCE, Server, ServerFailed, port_of, reserve_port, until

pytestmark = pytest.mark.skipif(processes.missing() is not None, reason=processes.missing() or "")

ROOT = str(Path(__file__).parents[2])


class Script(Server):
    """A shell script that is ready once it has written its pid into a file named `ready`."""

    def __init__(self, script: str) -> None:
        super().__init__("script")
        self.script = script

    def command(self) -> list[str]:
        return ["/bin/sh", "-c", self.script]

    def is_ready(self) -> bool:
        # Its pid, as the file of an earlier start is still there.
        return Path(self.folder, "ready").read_text() == f"{self.pid}\n"


def state(pid: int) -> str:
    """The state of a process, X for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def test_a_failed_start_shows_the_end_of_the_log() -> None:
    server = Script("echo no such luck; exit 3")
    with pytest.raises(ServerFailed, match=r"(?s)ended with status 3 .*no such luck"):
        server.__enter__()
    assert not os.path.exists(server.folder)


def test_stop_and_kill_reach_what_the_server_started() -> None:
    # In a session of its own, as PostgreSQL's backends are: a signal to the group would miss it.
    with Script("setsid sleep 1000 & echo $! >child; echo $$ >ready; wait") as server:
        # setsid forks when it leads its group, so look for who it became.
        pids = until(lambda: (found := [pid for pid, _ in server._family()])[1:] and found, "the child is there")
        server.stop()
        assert {state(pid) for pid in pids} == {"T"}
        server.cont()
        until(lambda: "T" not in map(state, pids), "all go on")
        server.kill()
        assert not server.is_running
        until(lambda: all(state(pid) in "XZ" for pid in pids), "all are dead")


def test_a_stopped_server_can_be_killed_and_starts_again_in_its_folder() -> None:
    with Script("echo start >>starts; echo $$ >ready; exec sleep 1000") as server:
        server.stop()
        server.restart()
        assert Path(server.folder, "starts").read_text().split() == ["start", "start"]


def test_shut_lets_the_server_end_in_good_order() -> None:
    with Script("trap 'echo bye; exit' TERM; echo $$ >ready; while :; do sleep 0.01; done") as server:
        server.shut()
        assert not server.is_running
        assert server.log() == "bye\n"


def test_a_server_dies_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import sys, time
sys.path.insert(0, {ROOT!r})
from tests.servers.test_processes import Script
with Script("echo $$ >ready; exec sleep 1000") as server:
    print(server.pid, server.folder, flush=True)
    time.sleep(1000)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().split()
        assert state(int(pid)) in "SR"
        run.send_signal(signal.SIGKILL)
        run.wait(PATIENCE)
        until(lambda: state(int(pid)) in "XZ", "the server is dead")
        assert Path(folder).parent == tmp_path


def test_a_server_ends_with_an_interpreter_that_leaves_it(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {ROOT!r})
from tests.servers.test_processes import Script
server = Script("echo $$ >ready; exec sleep 1000")
server.start()
print(server.pid)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, env=environment)
    assert state(int(told.stdout)) in "XZ"
    assert list(tmp_path.iterdir()) == []


def test_a_server_is_not_started_from_a_thread_that_it_would_die_with() -> None:
    server = Script("echo $$ >ready; exec sleep 1000")
    caught: list[BaseException] = []

    def start() -> None:
        try:
            server.start()
        except AssertionError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    server.close()
    assert "main thread" in str(caught[0])


def test_a_reserved_port_refuses_and_is_nobody_elses_but_can_be_served() -> None:
    with reserve_port() as holder:
        address = (HOST, port_of(holder))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, 1)
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(address)
        for _ in range(2):
            # The second time, connections of the first still linger.
            with socket.create_server(address) as server, socket.create_connection(address, 1) as client:
                accepted, _ = server.accept()
                accepted.close()
                assert client.recv(1) == b""

"""A real MariaDB server for tests.

Nothing is tuned for the tests' sake, except that what a power failure would lose is not waited for, and that it is
small.
"""

from __future__ import annotations

import functools
import getpass
import os
import shutil
import socket
import subprocess

from tests.servers import processes
from tests.servers.processes import HOST, PATIENCE, Server

PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin"
"""Where its programs are; a user's PATH often leaves the server's folder out."""


@functools.cache
def missing() -> str | None:
    """Why no MariaDB server can be started on this host, or None."""
    if reason := processes.missing():
        return reason
    for program in ("mariadbd", "mariadb-install-db"):
        if shutil.which(program, path=PATH) is None:
            return f"{program} is not installed (Debian: mariadb-server)"
    return None


class MariaDBServer(Server):
    """One MariaDB server, made anew. Its superuser is `root`, without a password.

    Attributes:
        port: on 127.0.0.1; its Unix socket is in `folder`.
        url: `mysql://root@127.0.0.1:PORT/`, to which a database's name is added.
    """

    def __init__(self) -> None:
        super().__init__("mariadb")
        self.port = self.new_port()
        self.url = f"mysql://root@{HOST}:{self.port}/"
        self._data = os.path.join(self.folder, "data")
        done = subprocess.run(
            [
                self._program("mariadb-install-db"),
                "--no-defaults",
                f"--user={getpass.getuser()}",
                f"--datadir={self._data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            self.close()
            raise processes.ServerFailed(f"mariadb-install-db failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")

    def command(self) -> list[str]:
        return [
            self._program("mariadbd"),
            "--no-defaults",
            f"--user={getpass.getuser()}",
            f"--datadir={self._data}",
            f"--bind-address={HOST}",
            f"--port={self.port}",
            f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=16M",
        ]

    def is_ready(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=PATIENCE) as sock:
            # A length of three bytes, a number, and the version of the protocol: it greets.
            return sock.recv(5)[4:5] == b"\x0a"

    def _program(self, name: str) -> str:
        return shutil.which(name, path=PATH) or name

"""TLS as a URL asks for it.

Promises: with `ca`, that file says alone whom to trust, and a file that was replaced counts for the next connection.
The context is made once for many connections: reading the system's certificates takes 30 ms of processor time.
"""

from __future__ import annotations

import os
import ssl
import stat
from functools import lru_cache
from typing import TYPE_CHECKING

from tenure.errors import UnsafeSetup

if TYPE_CHECKING:
    from tenure.engines.address import Tls


def context(tls: Tls, protocol: str = "") -> ssl.SSLContext:
    """How connections are guarded.

    Args:
        tls: what the URL says.
        protocol: the one that is spoken over it, for servers that want to know (ALPN).

    Raises:
        UnsafeSetup: a file cannot be read, or is none of the kind.
    """
    stamps: list[tuple[int, int, int]] = []
    for option, path in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)):
        if path is None:
            continue
        try:
            # Without waiting: a FIFO would wait for whoever writes to it.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                found = os.fstat(file.fileno())
        except OSError as error:
            raise UnsafeSetup(f"url: what option {option} names cannot be read: {error}") from error
        if not stat.S_ISREG(found.st_mode):
            raise UnsafeSetup(f"url: what option {option} names is no file: {path}")
        stamps.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return _context(tls, protocol, tuple(stamps))


@lru_cache(maxsize=16)
def _context(tls: Tls, protocol: str, _: tuple[tuple[int, int, int], ...]) -> ssl.SSLContext:
    option = "ca"
    try:
        made = ssl.create_default_context(cafile=tls.ca)
        if tls.cert is not None:
            option = "cert"
            made.load_cert_chain(tls.cert, tls.key, password="")  # rather than ask for one at the terminal
    except OSError as error:  # ssl.SSLError is one
        raise UnsafeSetup(f"url: what option {option} names cannot be used: {error}") from error
    if not tls.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if protocol:
        made.set_alpn_protocols([protocol])
    return made

"""Logging in by SASL: what the library pure-sasl says, passed through to the server.

Promises: ends in a login or in an error, and shows no password. Does not promise which mechanisms there are: DIGEST-MD5
needs pure-sasl alone, GSSAPI a Kerberos library and a ticket besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tenure.engines.zookeeper import jute
from tenure.errors import UnsafeSetup, UsageError

try:
    from puresasl import SASLError, SASLProtocolException  # type: ignore[import-untyped]
    from puresasl.client import SASLClient  # type: ignore[import-untyped]
except ImportError as missing:
    raise UsageError("url: option sasl needs pure-sasl: pip install 'tenure[zookeeper]'") from missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenure.engines.address import Address
    from tenure.engines.zookeeper.url import ZooKeeperUrl

SERVICE: Final = "zookeeper"
REALM: Final = "zk-sasl-md5"
"""What servers call themselves for DIGEST-MD5, whatever their host."""


def handshake(url: ZooKeeperUrl, address: Address, ask: Callable[[int, jute.Request], tuple[Any, int]]) -> int:
    """Log in; the last zxid that the server named.

    Raises:
        UnsafeSetup: the server refuses this login.
        OSError: the connection broke.
    """
    options: dict[str, Any] = {"mechanism": url.sasl, "service": SERVICE}
    if url.login is not None:
        options |= {"username": url.login.username, "password": url.login.password}
    client = SASLClient(REALM if url.sasl == "DIGEST-MD5" else address.host, **options)
    challenge: bytes | None = None
    xid = seen = 0
    try:
        while not client.complete:
            token = client.process(challenge)
            if client.complete and not token:
                break
            xid += 1
            answer, last = ask(xid, jute.sasl(token or b""))
            seen = max(seen, last)
            if isinstance(answer, jute.Refusal):
                raise UnsafeSetup(f"{address} refuses this login (SASL, error {answer.code})")
            challenge = answer
    except (SASLError, SASLProtocolException) as error:
        raise UnsafeSetup(f"{address} and this login do not come together (SASL): {error}") from error
    finally:
        client.dispose()
    return seen

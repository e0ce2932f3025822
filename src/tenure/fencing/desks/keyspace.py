"""The fences in one Redis or Valkey, for operators."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import redis
from redis.exceptions import ConnectionError, RedisClusterException, ResponseError, TimeoutError

from tenure.errors import SetupError, StoreUnavailable, UsageError
from tenure.fencing.doors import open as open_fence
from tenure.fencing.keyspace.section import fence_key
from tenure.fencing.rule import Fence

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S: Final = 10

_MOVE: Final = """
local found = redis.call('HMGET', KEYS[1], 'token', 'seq', 'authority')
for at = 1, 3 do
  if (found[at] or '') ~= ARGV[at] then return 0 end
end
redis.call('HSET', KEYS[1], 'token', ARGV[4], 'seq', ARGV[5], 'authority', ARGV[6])
return 1
"""


class KeyspaceDesk:
    """As `Desk`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def look(self, resource: str) -> Fence | None:
        """As `Desk.look`."""
        with _reaching():
            found = self._client.hmget(fence_key(resource), "token", "seq", "authority")
        if found == [None, None, None]:
            return None
        token, seq, authority = ((value or b"").decode("utf-8", "replace") for value in found)
        return Fence(int(token or 0), 0, int(seq or 0), authority)

    def enter(self, resource: str, lease: Any) -> None:
        """As `Desk.enter`."""
        with _reaching():
            open_fence(self._client, lease, resource=resource)

    def move(self, resource: str, found: Fence | None, to: Fence) -> bool:
        """As `Desk.move`."""
        before = ("", "", "") if found is None else (found.token, found.seq, found.authority)
        with _reaching():
            done = self._client.eval(_MOVE, 1, fence_key(resource), *before, to.token, to.seq, to.authority)
        return bool(done)

    def close(self) -> None:
        """As `Desk.close`."""
        self._client.close()


def reach(url: str) -> KeyspaceDesk:
    """Connect.

    Raises:
        UsageError: the URL is wrong.
        StoreUnavailable, SetupError: it cannot be reached, or refuses this user.
    """
    scheme, _, rest = url.partition("://")
    options: dict[str, Any] = {"socket_timeout": PATIENCE_S, "socket_connect_timeout": PATIENCE_S}
    with _reaching():
        try:
            if scheme.endswith("+cluster"):
                # One node tells of the others.
                login, at, hosts = rest.rpartition("@")
                first, slash, path = hosts.partition("/")
                one = f"{scheme.removesuffix('+cluster')}://{login}{at}{first.split(',')[0]}{slash}{path}"
                return KeyspaceDesk(redis.RedisCluster.from_url(one, **options))
            return KeyspaceDesk(redis.Redis.from_url(url.replace("redis+unix:", "unix:", 1), **options))
        except ValueError as error:
            raise UsageError("the place of the fence: that is no URL of Redis") from error


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except ResponseError as error:
        raise SetupError(f"Redis refuses: {error}") from error
    except (ConnectionError, TimeoutError, RedisClusterException, OSError) as error:
        raise StoreUnavailable(f"Redis cannot be reached: {error}") from error

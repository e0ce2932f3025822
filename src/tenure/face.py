"""What both faces share: how a client is described, and what a lock or a client says of itself.

Promises: no I/O and no thread. Does not promise anything of locks: those are the faces'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure import config
from tenure.core import Core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tenure.config import RedisClient, Settings
    from tenure.model import Mode, Seconds
    from tenure.observe.events import Event
    from tenure.protocols.claim import Ask


class BaseDescription:
    """What to lock, how, and how long to wait for it by default."""

    def __init__(self, client: BaseClient, wait: Seconds | None) -> None:
        self._core = client._core
        self._wait = wait


class BaseLock(BaseDescription):
    """A description of one name."""

    _ask: Ask

    @property
    def name(self) -> str:
        """What is locked."""
        return self._core.bare(self._ask.name)

    @property
    def mode(self) -> Mode:
        """Exclusive, shared, or permits of a limit."""
        return self._ask.mode

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self._ask.mode.kind.value}>"


class BaseLocks(BaseDescription):
    """A description of several names."""

    _asks: list[Ask]

    @property
    def names(self) -> tuple[str, ...]:
        """What is locked, each name once."""
        return tuple(self._core.bare(ask.name) for ask in self._asks)

    @property
    def mode(self) -> Mode:
        """Exclusive or shared, all of them."""
        return self._asks[0].mode

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(map(repr, self.names))} {self.mode.kind.value}>"


class BaseClient:
    """One engine, its session and its leases."""

    def __init__(
        self,
        url: str | RedisClient | None = None,
        *,
        ttl: Seconds | None = None,
        namespace: str | None = None,
        max_hold: Seconds | None = None,
        require: Iterable[str] = (),
        skew: Seconds = 0.0,
        client: str | None = None,
        on_event: Callable[[Event], None] | None = None,
        options: Mapping[str, str | int] | None = None,
    ) -> None:
        """Describe a client; nothing is connected and no thread started yet.

        Args:
            url: which engine; TENURE_URL by default. `sqlite://` is this user on this host alone. Or a client of
                redis-py or valkey-py that you have: its settings are copied, its connections never used.
            ttl: seconds (0.1 to 86,400; 30) after which an engine that hears nothing ends the session.
            namespace: keeps the names of applications on one engine apart; "tenure" by default.
            max_hold: seconds after which any lease of this client is lost, however alive its holder; None: never.
            require: capabilities without which to refuse, such as "multi_host". What depends on how a server is set
                up ("durable_tokens" on Redis) is asked of it at opening.
            skew: seconds taken off each deadline where replicas' clocks differ.
            client: this client's name for itself, shown to those who wait; up to 128 bytes.
            on_event: called with each event, in the thread that saw it; must be quick.
            options: of a client object, what a URL would say behind its `?`, such as {"acknowledge": 1}.

        Raises:
            UsageError: an argument is wrong, or there is no URL.
            UnsafeSetup: the engine lacks what is required.
        """
        settings = config.settings(
            url,
            ttl=ttl,
            namespace=namespace,
            max_hold=max_hold,
            require=require,
            skew=skew,
            client=client,
            options=options,
        )
        self._core = self._new_core(settings, on_event)

    def _new_core(self, settings: Settings, on_event: Callable[[Event], None] | None) -> Core:
        return Core(settings, on_event)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {config.shown(self._core.settings.url)!r}>"

    @property
    def ttl(self) -> Seconds:
        """Seconds after which an engine that hears nothing ends this client's session; what was asked for."""
        return self._core.settings.ttl

    @property
    def capabilities(self) -> frozenset[str]:
        """What the engine offers; what depends on how a server is set up only once it was required and found."""
        return self._core.engine.capabilities

    @property
    def scope(self) -> str:
        """Whom the locks of this client keep apart, in words."""
        return self._core.engine.scope

    def _asked(self, name: str, mode: Mode, max_hold: Seconds | None, lock_delay: Seconds, info: str | None) -> Ask:
        """A checked request for a name."""
        longest = self._core.settings.max_hold if max_hold is None else max_hold
        ask = config.ask(name, mode, max_hold=longest, lock_delay=lock_delay, info=info)
        return ask._replace(name=self._core.key(ask.name))

    def _all_asked(
        self, names: Iterable[str], mode: Mode, max_hold: Seconds | None, lock_delay: Seconds, info: str | None
    ) -> list[Ask]:
        """A checked request for each of several names, once."""
        return [self._asked(name, mode, max_hold, lock_delay, info) for name in config.names(names)]

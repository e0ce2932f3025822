"""The port to a user's database: what guards want of a connection, whatever its driver.

As with the engines' ports, `async` means "may wait": a blocking driver's methods block and return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tenure.sql.dialects import Dialect
    from tenure.sql.statements import Statement

Values = dict[str, Any]
"""The values of a statement's placeholders."""


class Database(Protocol):
    """One connection of the user's, and at most one transaction on it that is ours.

    The driver's errors pass through, except that a missing table is `MissingTable`.
    """

    @property
    def dialect(self) -> Dialect:
        """Which SQL it speaks."""
        ...

    @property
    def is_async(self) -> bool:
        """Whether its methods must be awaited under asyncio; otherwise they block."""
        ...

    def has_begun(self) -> bool:
        """Whether a transaction is open that is not ours.

        Raises:
            UsageError: the connection is set up so that no transaction of ours could protect anything.
        """
        ...

    async def begin(self, *, raising: bool) -> None:
        """Begin a transaction of ours: to raise a fence (READ COMMITTED, alone), or for the user's work."""
        ...

    async def end(self, error: BaseException | None) -> bool:
        """Commit ours, or roll it back if there is an error. True if the driver takes the error for its own signal."""
        ...

    async def fetch(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The first row, or None."""
        ...

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> None:
        """Run a statement that returns no rows."""
        ...

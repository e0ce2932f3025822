"""The library's log, made when there is something to say: importing `logging` costs a tenth of importing `Client`.

Promises: the logger is "tenure", and has no handler of ours unless `silence` was called.
Does not promise that anybody listens: what matters is also an event or an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging

_silenced: Final[list[bool]] = []


def logger() -> logging.Logger:
    """The library's logger."""
    import logging

    log = logging.getLogger("tenure")
    if _silenced and not log.handlers:
        log.addHandler(logging.NullHandler())
    return log


def silence() -> None:
    """Say nothing where nobody has set up logging; without this, logging's last resort prints warnings."""
    _silenced.append(True)

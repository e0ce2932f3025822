"""Checks of arguments that more than one part of the package takes.

Promises: a wrong value is a `UsageError` that names the argument and its bounds; a right one comes back as it was.
"""

from __future__ import annotations

import re
from typing import Any, Final

from tenure.errors import UsageError

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

QUOTED_MOST: Final = 60
"""How much of a wrong value an error repeats."""


def quoted(value: Any) -> str:
    """A wrong value as an error shows it: its beginning, or only its type if it cannot be shown."""
    try:
        said = repr(value)
    except Exception:  # noqa: BLE001 - a repr of somebody else's; also a number of more digits than Python prints
        return f"that {type(value).__name__}"
    return said if len(said) <= QUOTED_MOST else f"{said[:QUOTED_MOST]}..."


def text(argument: str, value: Any, most: int, least: int = 0) -> str:
    """A string within bounds: valid Unicode, no control characters."""
    if not isinstance(value, str):
        raise UsageError(f"{argument}: a string of {least} to {most} bytes is needed, not {type(value).__name__}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{argument}: a lone surrogate is not Unicode text") from None
    if not least <= size <= most:
        raise UsageError(f"{argument}: {size} bytes of UTF-8 are outside {least} to {most}")
    if not value.isascii() or not value.isprintable():
        found = _CONTROL.search(value)
        if found is not None:
            raise UsageError(f"{argument}: the control character {found.group()!r} is not allowed")
    return value


def count(argument: str, value: Any, most: int) -> int:
    """A whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UsageError(f"{argument}: a whole number from 1 to {most} is needed, not {quoted(value)}")
    return value

"""A message as text, as it lies in a mailbox of any engine.

Promises: what is not understood, or was cut off, is never taken for a grant.
"""

from __future__ import annotations

from typing import Final

from tenure.model import maker
from tenure.ports import Message

PAYLOAD_MAX: Final = 200
"""Bytes of a message. Senders keep to it; a longer one is not understood."""

_WIRE: Final = b"1"
_message = maker(Message)


def encode(message: Message) -> bytes:
    """Write a message as text: version, session, claim, number, floor. Fields may be added at the end."""
    return b"%b %b %d %d %d" % (_WIRE, message.session.encode(), message.claim, message.number, message.floor)


def decode(payload: bytes) -> Message | None:
    """Read a message; None if it is not one of this version, which still is a hint to look."""
    parts = payload.split(b" ")
    if len(payload) > PAYLOAD_MAX or len(parts) < 5 or parts[0] != _WIRE:
        return None
    try:
        session = parts[1].decode("ascii")
    except UnicodeDecodeError:
        return None
    claim, number, floor = parts[2:5]
    if not (session and claim.isdigit() and number.isdigit() and floor.isdigit()):
        return None
    return _message((session, int(claim), int(number), int(floor)))

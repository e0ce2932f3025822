"""What several engines judge alike: measured figures, as findings of `doctor` or as a reason not to open.

Promises: pure functions; the same figures mean the same on every engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenure.errors import UnsafeSetup
from tenure.findings import Finding, Grade

if TYPE_CHECKING:
    from tenure.model import Seconds

OFFSET_MOST: Final = 0.5
"""Seconds by which two clocks that are kept by NTP never differ."""

TRIPS_LEAST: Final = 20
"""Round trips that fit into the patience of a renewal, or a busy network makes it fail."""

DAY_US: Final = 86_400_000_000
"""Microseconds by which numbers that are ahead of a client's clock are taken for wrong (B7)."""


def round_trip(median: Seconds, worst: Seconds, samples: int, ttl: Seconds) -> Finding:
    """Whether a renewal has time for what networks do.

    Args:
        median: of so many round trips, of which none took longer than `worst`.
        worst: see there.
        samples: see there.
        ttl: of a session, as granted.
    """
    found = f"median {median * 1e3:.2f} ms, worst {worst * 1e3:.2f} ms of {samples}; ttl {ttl:g} s"
    patience = ttl / 6
    if median * TRIPS_LEAST <= patience:
        return Finding("round_trip", Grade.OK, found)
    hopeless = median >= patience
    return Finding(
        "round_trip",
        Grade.DANGER if hopeless else Grade.WARNING,
        found,
        f"A renewal waits {patience:.3g} s (ttl/6) for its answer, which is "
        + ("less than one round trip: each fails." if hopeless else f"{patience / median:.0f} round trips."),
        f"A ttl of {median * TRIPS_LEAST * 6:.2g} s or more.",
    )


def clock_offset(offset: Seconds, error: Seconds, ttl: Seconds) -> Finding:
    """How far a server's clock, by which sessions end, is from this host's.

    Args:
        offset: the server's less this host's.
        error: by how much that may be wrong either way.
        ttl: of a session.
    """
    found = f"the server's clock is {offset:+.4f} s from this host's (± {error:.4f} s)"
    # What is certain: the round trip may have been slow in one direction only.
    certain = max(0.0, abs(offset) - error)
    if certain <= min(OFFSET_MOST, ttl / 10):
        return Finding("clock_offset", Grade.OK, found)
    return Finding(
        "clock_offset",
        Grade.DANGER if certain > ttl / 10 else Grade.WARNING,
        found,
        "One of the two is wrong. Sessions end by the server's clock: when it is set, or after a fail-over to a server "
        "with another one, leases end early or late by so much; and tokens that follow a clock which is ahead fall if "
        "the store is then lost.",
        "Let NTP or chrony keep the clocks of all hosts.",
    )


def numbers(largest_us: int, here_us: int, offset: Seconds, *, apart: str, advice: str) -> Finding:
    """How far hybrid numbers are ahead of the clock (B7).

    Args:
        largest_us: the largest number given.
        here_us: this host's clock, in microseconds since 1970.
        offset: the server's clock less this host's, as far as it is known.
        apart: what keeps names apart there, such as "namespace".
        advice: what to do while they are ahead.
    """
    ahead_us = largest_us - here_us - int(offset * 1e6)
    if max(ahead_us, largest_us - here_us) > DAY_US:
        return Finding(
            "numbers",
            Grade.DANGER,
            f"the largest token is {(largest_us - here_us) / DAY_US:.1f} days ahead of this host's clock",
            "Clients refuse to open: one of the clocks was, or is, wrong.",
            f"Set the clock, or use another {apart} if the numbers came from a wrong one.",
        )
    if ahead_us <= 0:
        return Finding("numbers", Grade.OK, "the largest token is not ahead of the server's clock")
    return Finding(
        "numbers",
        Grade.WARNING,
        f"the largest token is {ahead_us / 1e6:.3f} s ahead of the server's clock",
        "Tokens keep rising while the server keeps its data; if it loses them before its clock has caught up, they "
        "fall.",
        advice,
    )


def refuse_future(largest_us: int, here_us: int, remedy: str, *, offset: Seconds | None = None) -> None:
    """Refuse a store whose hybrid numbers are far in the future (B7).

    Args:
        largest_us: the largest number given.
        here_us: this host's clock, in microseconds since 1970.
        remedy: what to do if the numbers are wrong and not the clock.
        offset: the server's clock less this host's; None if there is no other clock.

    Raises:
        UnsafeSetup: they are more than a day ahead.
    """
    ahead_us = largest_us - here_us
    if ahead_us > DAY_US:
        theirs = "" if offset is None else f" (the server's is {offset:+.1f} s from it)"
        raise UnsafeSetup(
            f"the largest token given is {ahead_us / DAY_US:.1f} days ahead of this host's clock{theirs}: one of them "
            f"is wrong. Set the clock, or {remedy} if its numbers came from a wrong one"
        )

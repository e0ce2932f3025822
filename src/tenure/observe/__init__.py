"""What happens to claims and leases, as values: hooks without dependencies."""

from tenure.observe.events import (
    Abandoned,
    Claimed,
    Event,
    Granted,
    LimitsDiffer,
    Lost,
    Released,
    Renewed,
    Stalled,
    Stolen,
    Suspect,
)

__all__ = [
    "Abandoned",
    "Claimed",
    "Event",
    "Granted",
    "LimitsDiffer",
    "Lost",
    "Released",
    "Renewed",
    "Stalled",
    "Stolen",
    "Suspect",
]

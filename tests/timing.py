"""What tests say of real time: at most so long, on a machine that has other things to do.

An upper bound of real time is a claim about the code and about the machine at once. One attempt that keeps it proves
the claim of the code; one that does not may have met a machine that stood still. So a bound that is not kept raises
`Late`, and `scripts/test` runs a test that was late again, twice at most, and says so. A defect is late every time.
"""

from __future__ import annotations

from typing import Final


class Late(AssertionError):
    """Something took longer than it may."""


class Bound(float):
    """Seconds that something real takes less of: `assert native.now() - begun < PERIOD + SLACK`.

    A comparison that finds more raises `Late`; what is added to a bound moves it.
    """

    __slots__ = ()

    def __add__(self, other: float) -> Bound:
        return Bound(float(self) + other)

    __radd__ = __add__

    def __gt__(self, took: float) -> bool:
        # Python asks the subclass first, so this is also what `took < bound` asks.
        if not float(self) > took:
            raise Late(f"{took:.3f} s is not less than {float(self):.3f} s")
        return True


def in_time(is_so: bool, what: str) -> bool:
    """True, or `Late`: of what is so unless a machine stood still, such as a lease with a ttl of 0.3 s that is held."""
    if not is_so:
        raise Late(what)
    return True


SLACK: Final = Bound(0.6)
"""What a busy machine may take for what takes none."""

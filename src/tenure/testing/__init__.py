"""For those who test programs that hold leases, or tenure itself.

`VirtualClock` makes clients whose time the test moves; `lose_lease` and `pause` take a lease away between two lines;
`drill` steps a write path of yours through every moment at which its holder can be overtaken. With pytest, the fixtures
`fence_drill` and `virtual_clock` are there without an import.

The rest tests tenure: a simulated world, its faults, and checkers of histories. `world` has virtual time, processes and
tasks; `runtime` and `network` the ports over it; `tables` the simulated engine's storage; `clients` the programs;
`faults` what befalls them; `history` what a run leaves behind; `checkers` what must be true of it; `simulate` the
command line.

Nothing here is imported by the rest of the package.
"""

from __future__ import annotations

# As in `tenure` itself: names are loaded on first use, for pytest loads this package in every run of every user.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from tenure.testing.clock import VirtualClock
    from tenure.testing.drilling import Drilled, DrillFailed, drill
    from tenure.testing.losing import lose_lease, pause
    from tenure.testing.stepping import point, watch

_HOME = {
    "DrillFailed": "drilling",
    "Drilled": "drilling",
    "VirtualClock": "clock",
    "drill": "drilling",
    "lose_lease": "losing",
    "pause": "losing",
    "point": "stepping",
    "watch": "stepping",
}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'tenure.testing' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"tenure.testing.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = ["DrillFailed", "Drilled", "VirtualClock", "drill", "lose_lease", "pause", "point", "watch"]

"""What all tests share: examples that repeat, and an environment that says nothing of tenure.

The order of the tests is random; pytest prints its seed, and `--randomly-seed=N` repeats it. Hypothesis draws the same
examples in every run, so that a failure repeats; HYPOTHESIS_PROFILE=explore draws new ones.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

# A deadline per example would measure the machine, not the code.
settings.register_profile("repeat", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


# A shell ignores the keyboard's signals for what it starts in the background, and every program that tests start would
# inherit that.
for _signal, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _handler)


# Python reads the host's file of public authorities for each TLS connection that a client library makes, which takes
# longer than the handshake. No test trusts any of them: each makes its own authority. There is none at an empty path;
# a path that is there and has none is an error to httpx.
os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = ""


@pytest.fixture(autouse=True)
def no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests set what they need; a TENURE_URL of the developer's shell must not reach them."""
    for name in [name for name in os.environ if name.startswith("TENURE_")]:
        monkeypatch.delenv(name)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Say who runs what, unless the caller has (`--dist`)."""
    if config.getoption("dist") != "load":
        return None
    from tests.workers import TogetherScheduling

    # It would begin with the most tests, which are not the longest.
    config.option.loadscopereorder = False
    return TogetherScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a worker, begin with the mutants."""
    if hasattr(config, "workerinput"):
        from tests.workers import is_mutant

        items.sort(key=lambda item: not is_mutant(item.nodeid))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Show the tables that tests have recorded, line by line; a heading that several have is shown once."""
    lines = [
        str(line)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, line in report.user_properties
        if name == "table"
    ]
    if lines:
        terminalreporter.section("tables")
        for line in dict.fromkeys(lines):
            terminalreporter.write_line(line)

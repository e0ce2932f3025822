"""`--rewrite`: write the transcripts and recorded stores of the formats in force instead of comparing them."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write the recorded wire formats anew")


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    # Not known where this folder is only a part of the run.
    return bool(request.config.getoption("--rewrite", default=False))


@pytest.fixture
def on_record(rewrite: bool) -> None:
    """For a test that rests on the records, and does not write them."""
    if rewrite:
        pytest.skip("the records are just being written")

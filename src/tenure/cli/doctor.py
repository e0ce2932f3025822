"""`tenure doctor`: how an engine is set up, what that means for a lock, and what to change."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from tenure.cli.connect import connect
from tenure.cli.text import BOLD, CYAN, DIM, GREEN, RED, YELLOW, clean, paint
from tenure.errors import SetupError, UsageError
from tenure.findings import Grade

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from tenure.findings import Finding, Report

STATUS = {Grade.OK: 0, Grade.INFO: 0, Grade.WARNING: 1, Grade.DANGER: 2}
"""The exit status of the worst finding."""

_STYLES = {Grade.OK: GREEN, Grade.INFO: CYAN, Grade.WARNING: YELLOW, Grade.DANGER: RED}
_WIDTH_LEAST = 60


def doctor(options: argparse.Namespace) -> int:
    """Examine the engine and print what was found."""
    client, _ = connect(options, locks=False)
    try:
        report = client.doctor()
    except UsageError as error:
        # An engine whose library is not installed, or a group that does not exist: what the URL names, not the usage.
        raise SetupError(str(error)) from error
    finally:
        client.close()
    if options.json:
        print(json.dumps(fields(report)))
    else:
        _show(report, quiet=options.quiet)
    return STATUS[report.worst]


def fields(report: Report) -> dict[str, object]:
    """A report as JSON has it."""
    return {
        "url": report.url,
        "engine": report.engine,
        "scope": report.scope,
        "ttl": report.ttl,
        "capabilities": sorted(report.capabilities),
        "worst": str(report.worst),
        "findings": [{**finding._asdict(), "grade": str(finding.grade)} for finding in report.findings],
    }


def _show(report: Report, *, quiet: bool) -> None:
    if not quiet:
        print(f"{paint(clean(report.url), BOLD, sys.stdout)}: locks reach {clean(report.scope)}")
        print(f"offers {', '.join(sorted(report.capabilities))}; judged for a ttl of {report.ttl:g} s")
    least = Grade.WARNING if quiet else Grade.OK
    # A pipe gets whole sentences on a line each; a terminal, what fits it.
    width = max(_WIDTH_LEAST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else sys.maxsize
    indent = 4 + max((len(finding.name) for finding in report.findings), default=0)
    for grade in sorted(Grade, reverse=True):
        group = [finding for finding in report.findings if finding.grade is grade]
        if group and grade >= least:
            print()
            print(paint(str(grade).upper(), _STYLES[grade], sys.stdout))
            _group(group, indent, width)


def _group(findings: Sequence[Finding], indent: int, width: int) -> None:
    for finding in findings:
        print(_wrapped(finding.found, f"  {finding.name}".ljust(indent), indent, width))
        if finding.means:
            print(_wrapped(finding.means, " " * indent, indent, width))
        if finding.change:
            # What is to be typed must come out of the terminal as it went in, so it is painted as a whole.
            print(paint(_wrapped(f"change: {finding.change}", " " * indent, indent, width), DIM, sys.stdout))


def _wrapped(text: str, first: str, indent: int, width: int) -> str:
    return textwrap.fill(
        clean(text),
        width,
        initial_indent=first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )

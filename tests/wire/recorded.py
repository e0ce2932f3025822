"""What lies in the tree: the transcripts, and the stores that a format left behind."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "recorded"

ADVICE: Final = """
The wire of {engine} is not what format {format} is on record with (below: - the record, + this tree).
If that was not meant, mend it: releases of both kinds will share one store while a fleet is rolled out.
If it was meant, and a release speaks format {format}: raise FORMAT in {module}, keep speaking {format}, and run
    scripts/test tests/wire --rewrite
which writes the record of the new format beside the old one. Only the record of a format that no release has spoken may
be written anew by the same command.
"""


class WireChangedError(AssertionError):
    """Something that two releases must agree on has changed, and the number of the format has not."""


def path(engine: str, format: int, ending: str) -> Path:
    """Where it lies."""
    return FOLDER / f"{engine}-{format}{ending}"


def write(engine: str, format: int, ending: str, text: str) -> None:
    """Put it on record."""
    path(engine, format, ending).write_text(text, "utf-8")


def compare(engine: str, format: int, module: str, text: str) -> None:
    """Hold a transcript to the one on record.

    Raises:
        WireChangedError: they differ, or there is none.
    """
    on_record = path(engine, format, ".txt")
    old = on_record.read_text("utf-8") if on_record.exists() else ""
    if text != old:
        changes = difflib.unified_diff(old.splitlines(), text.splitlines(), on_record.name, "this tree", "", "", 2, "")
        raise WireChangedError(ADVICE.format(engine=engine, format=format, module=module) + "\n".join(changes))

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

PRIVATE_ADVICE: Final = """
What this tree says to scripts of its own on {engine} is not what is on record (below: - the record, + this tree).
No other release hears it, and neither the store nor a message has changed: format {format} it stays. Look at the
difference, and put it on record:
    scripts/test tests/wire --rewrite
"""


class WireChangedError(AssertionError):
    """Something that two releases must agree on has changed, and the number of the format has not."""


def path(engine: str, format: int, ending: str) -> Path:
    """Where it lies."""
    return FOLDER / f"{engine}-{format}{ending}"


def write(engine: str, format: int, ending: str, text: str) -> None:
    """Put it on record."""
    path(engine, format, ending).write_text(text, "utf-8")


def compare(engine: str, format: int, module: str, text: str, private: str = "") -> None:
    """Hold a transcript to the one on record.

    Args:
        engine: whose.
        format: the number of the format in force.
        module: where that number is.
        text: the transcript.
        private: the marks of lines that no other release hears.

    Raises:
        WireChangedError: they differ, or there is none.
    """
    on_record = path(engine, format, ".txt")
    old = on_record.read_text("utf-8") if on_record.exists() else ""
    if text != old:
        before, after = old.splitlines(), text.splitlines()
        changes = difflib.unified_diff(before, after, on_record.name, "this tree", "", "", 2, "")
        is_private = [x for x in before if x[:1] not in private] == [x for x in after if x[:1] not in private]
        advice = PRIVATE_ADVICE if old and private and is_private else ADVICE
        raise WireChangedError(advice.format(engine=engine, format=format, module=module) + "\n".join(changes))

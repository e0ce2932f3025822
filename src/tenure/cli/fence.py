"""`tenure fence`: what the guards of a resource need from whoever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.fencing import schema

if TYPE_CHECKING:
    import argparse


def fence(options: argparse.Namespace) -> int:
    """Print the definition of the tables of fences."""
    print(schema(options.dialect), end="")
    return 0

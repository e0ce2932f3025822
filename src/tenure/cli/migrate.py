"""`tenure migrate`: make an engine's tables, or bring them to this release."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tenure.cli.connect import connect
from tenure.errors import SetupError, UsageError

if TYPE_CHECKING:
    import argparse


def migrate(options: argparse.Namespace) -> int:
    """Do it and print what was done."""
    client, _ = connect(options, locks=False)
    try:
        done = client.migrate()
    except UsageError as error:
        # An engine whose library is not installed: what the URL names, not the usage.
        raise SetupError(str(error)) from error
    finally:
        client.close()
    if options.json:
        print(json.dumps({"done": done}))
    elif not options.quiet:
        print("\n".join(done) or "nothing to do")
    return 0

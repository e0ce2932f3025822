"""The command line: `tenure run NAME -- COMMAND` is flock(1) for a fleet; the other commands look after it.

Promises: every error is one line on stderr that begins with "tenure:" and an exit status of `exits.py`; never a
traceback (unless TENURE_DEBUG is set). Nothing heavy is imported before it is needed: `tenure run` forks its command
first and loads the library afterwards.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from typing import TYPE_CHECKING

from tenure.cli import exits
from tenure.cli.text import complain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: without the program's name. None: those of the process, which is then ended here and now.
    """
    if arguments is not None:
        return _main(arguments)
    # A command that lasts a second should not spend a tenth of it on this: 20 of 110 ms went into collecting garbage
    # while importing and into taking the interpreter apart at the end. Clients are closed by then.
    gc.disable()
    _mend_streams()
    status = _main(sys.argv[1:])
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status)


def _mend_streams() -> None:
    """Put /dev/null where a standard stream is closed (`2>&-`): a database must not be opened as stderr.

    The command does not inherit these, so it finds its streams as they were.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is taken, which is this one.
            os.open(os.devnull, os.O_RDWR)
    # Python has None for them, and print(file=None) means stdout.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives


def _main(arguments: Sequence[str]) -> int:
    from tenure.cli.parser import parse

    try:
        status = _dispatch(parse(arguments))
        sys.stdout.flush()
    except SystemExit as ending:
        # argparse ends --help, --version and usage errors this way.
        sys.stdout.flush()
        return ending.code if isinstance(ending.code, int) else exits.USAGE
    except KeyboardInterrupt:
        return exits.SIGNAL_BASE + 2
    except BrokenPipeError:
        # The reader of `tenure ls | head` has gone. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.SIGNAL_BASE + 13
    except Exception as error:  # noqa: BLE001 - the outermost frame: a user gets a sentence and a status, no traceback
        return _explain(error)
    return status


def _dispatch(options: argparse.Namespace) -> int:
    if options.action == "run":
        if not hasattr(os, "fork"):
            complain("`tenure run` needs process groups and signals, which this system does not have")
            return exits.CONFIG
        from tenure.cli.run import run

        return run(options)
    if options.action == "completion":
        from tenure.cli.completion import completion

        return completion(options)
    if options.action == "fence":
        from tenure.cli.fence import fence

        return fence(options)
    if options.action == "migrate":
        from tenure.cli.migrate import migrate

        return migrate(options)
    if options.action == "doctor":
        from tenure.cli.doctor import doctor

        return doctor(options)
    from tenure.cli import show

    actions = {"ls": show.ls, "inspect": show.inspect, "steal": show.steal}
    return actions[options.action](options)


def _explain(error: Exception) -> int:
    if os.environ.get("TENURE_DEBUG"):
        import traceback

        traceback.print_exc()
    status = exits.status_of(error)
    if status == exits.INTERNAL and not isinstance(error, OSError):
        complain(f"internal error: {type(error).__name__}: {error} (TENURE_DEBUG=1 shows where)")
    else:
        complain(str(error) or type(error).__name__)
    return status

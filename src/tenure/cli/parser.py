"""The arguments of the command line, and the help that teaches them by example."""

from __future__ import annotations

import argparse
import math
import os
import re
from typing import TYPE_CHECKING, Any, NoReturn

from tenure.cli import exits
from tenure.cli.text import complain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TOP = """\
examples:
  tenure run backup/db1 -- pg_dump -f /backup/db1.sql db1
  tenure run reports/daily --wait 0 --busy-ok -- ./report.sh     # cron: skip if one runs
  tenure ls
  tenure inspect reports/daily
  tenure help run

Which engine: --url, else the environment variable TENURE_URL, else this user's locks on this host.
"""

_RUN = """\
examples:
  tenure run reports/daily -- ./report.sh --date today
  tenure run reports/daily --wait 0 --busy-ok -- ./report.sh     # cron: skip if one runs
  tenure run deploy --wait 600 --info "$USER: release 4.2" -- ./deploy.sh
  tenure run media/encode --limit 3 -- ffmpeg -i in.mov out.mp4   # at most three of the fleet
  TENURE_URL=sqlite:///var/lock/app.db tenure run cron/cleanup --ttl 15 -- ./cleanup.sh

the command gets TENURE_NAME, TENURE_TOKEN, TENURE_FLOOR and TENURE_AUTHORITY in its environment. Give the token to
whatever it writes to: a store that refuses smaller tokens is safe even if this lock fails.

exit status: the command's own; 128+N if signal N killed it; 126 cannot be executed; 127 not found; 75 busy;
79 the lease was lost and the command stopped; 69 the engine cannot be reached; 64 usage; 78 configuration.

the command runs in a process group of its own, and the name is released only when nothing of the group is left. On
kill -9 of this process the group is killed. While this process alone is stopped (SIGSTOP), the command runs on past
its lease: that is what the token is for.

events of --json, one object a line on stderr, all with "event", "time" (seconds since 1970, UTC) and "name":
  scope     scope: whom the lock keeps out, where neither --url nor TENURE_URL names an engine
  waiting   token, wait (seconds; null: for ever), pid: others are in front; absent if granted at once
  acquired  token, floor, authority, waited
  busy      waited, holders and waiters (as in `inspect --json`; null if unknown)
  started   pid
  suspect   remaining (seconds), cause: a renewal failed
  stopping  token, reason: the group is being ended
  exited    status, signal (0: none)
  lost      token, reason
  released  token
  error     message, status
"""

_LS = """\
examples:
  tenure ls
  tenure ls reports/
  tenure ls --json | jq -r 'select(.waiters | length > 5) | .name'
"""

_INSPECT = """\
examples:
  tenure inspect reports/daily
  tenure inspect reports/daily --json | jq '.holders[].token'
  tenure inspect deploy --url sqlite:///var/lock/app.db
"""

_STEAL = """\
examples:
  tenure inspect deploy                       # read the token of the claim to remove
  tenure steal deploy 1795372291532495
  tenure steal deploy 1795372291532495 && tenure run deploy -- ./deploy.sh

removes the claim with exactly that token, held or waiting, and asks nothing. The one it is taken from is told at its
next heartbeat, and its writes are refused wherever tokens are checked.
exit status: 0 removed; 1 no such claim, nothing was changed.
"""

_DOCTOR = """\
examples:
  tenure doctor
  tenure doctor redis://cache.example:6379 --ttl 10
  tenure doctor --quiet || echo "see to the locks' server"       # for monitoring
  TENURE_URL=redis://:$PASSWORD@cache tenure doctor --json | jq -r '.findings[] | select(.grade == "danger") | .name'

looks at how the engine is set up, says what that means for a lock and what to change, and changes nothing itself (the
file of a sqlite: URL is made if it is not there). An argument is seen by every user of this host (ps): a URL with a
password belongs into TENURE_URL.

exit status, by the worst finding: 0 ok or info; 1 warning; 2 danger. 69 the engine cannot be reached; 64 usage;
78 configuration: a wrong URL or password.

--json prints one object: url (without secrets), engine, scope, ttl, capabilities, worst, and findings, the worst first,
each with name, grade ("ok", "info", "warning", "danger"), found, means and change. Names and grades are stable.
"""

_FENCE = """\
examples:
  tenure fence schema postgresql | psql "$DATABASE_URL"
  tenure run reports/daily -- sh -c 'make-report | tenure fence write --file report.csv'
  tenure run deploy -- sh -c 'tenure fence check deploy --at redis://cache && ./deploy.sh'
  tenure fence show orders --at postgresql://db/shop --json
  tenure fence adopt orders --at postgresql://db/shop --authority etcd/shop --audit /var/log/fences.log

schema [DIALECT]          print the tables that the guards of `tenure.fencing` need, as SQL for your own migrations
check [RESOURCE]          raise the fence, committed, before anything is read; exit with 79 if a later holder was there.
                          RESOURCE is TENURE_NAME by default
write --file PATH         replace PATH with the standard input, as a whole and under its fence; 79, and nothing changed,
                          if a later holder was there
show RESOURCE             print the fence; 1 if there is none
advance RESOURCE          after a FenceRegression: enter the name anew, until its new token is larger, and raise the
                          fence with that; 75 if that would last too long. Refused if the fence is a day ahead
adopt RESOURCE            give the fence to the tokens of another authority, after its name has moved to another engine

RESOURCE is in the database or Redis of --at URL: postgresql://, mysql://, sqlite:///path, redis://, redis+cluster://;
or it is the object of --at s3://bucket/key[?endpoint_url=URL], or the file of --file PATH, and then not said. An
argument is seen by every user of this host (ps): a URL with a password belongs into TENURE_FENCE_URL. The login of a
bucket is boto3's own: AWS_ACCESS_KEY_ID, AWS_PROFILE and so on.

check and write read TENURE_NAME, TENURE_TOKEN, TENURE_FLOOR and TENURE_AUTHORITY, which `tenure run` sets. `write`
cannot know whether what feeds it has failed half-way: if it can, write to a file first, and let `write` have that with
`<`. A report that is made of its own last version must call `check` before it reads that.

advance and adopt ask on a terminal, and want --yes elsewhere. Before anything is changed, a line of JSON (event, time,
at, resource, from, to, user, host, pid) goes to stderr and the end of the file of --audit.
"""

_MIGRATE = """\
examples:
  tenure migrate postgresql://owner@db.example/app
  tenure migrate "postgresql://owner@db.example/app?schema=locks"
  TENURE_URL=postgresql://owner:$PASSWORD@db.example/app tenure migrate && psql -c 'GRANT USAGE ON SCHEMA tenure TO app'

makes the tables and functions of PostgreSQL, or brings them to this release, in one transaction; run again it does
nothing. Whoever the URL names owns them; clients need USAGE on the schema and nothing else. Other engines need no
tables, and there it does nothing. An argument is seen by every user of this host (ps): a URL with a password belongs
into TENURE_URL.

exit status: 0 done, or nothing to do; 69 the engine cannot be reached; 64 usage; 78 configuration: a right is missing,
or a newer release made the tables.
"""

_COMPLETION = """\
examples:
  eval "$(tenure completion bash)"                                        # in ~/.bashrc
  tenure completion zsh > ~/.zfunc/_tenure                                # a folder of $fpath
  tenure completion fish > ~/.config/fish/completions/tenure.fish
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are tenure's, and which can tell what it takes (for completion scripts)."""

    def __init__(
        self,
        prog: str | None = None,
        usage: str | None = None,
        description: str | None = None,
        epilog: str | None = None,
    ) -> None:
        self.actions: list[argparse.Action] = []
        self.children: dict[str, Parser] = {}
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, usage, description, epilog, formatter_class=formatter, allow_abbrev=False)

    def add_argument(self, *args: Any, **named: Any) -> argparse.Action:
        """Add an argument, and remember it."""
        action = super().add_argument(*args, **named)
        self.actions.append(action)
        return action

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and leave with 64."""
        # It may repeat an argument, and that may be a URL in the wrong place.
        message = re.sub(r"://\S*@", "://***@", message)
        complain(f"{message} (try `{self.prog} --help`)")
        raise SystemExit(exits.USAGE)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; everything after the first `--` is the command of `run`."""
    parser = build()
    words = list(arguments)
    command: list[str] | None = None
    if "--" in words:
        # Split by hand: argparse would take options out of the command.
        cut = words.index("--")
        words, command = words[:cut], words[cut + 1 :]
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    options, unknown = parser.parse_known_args(words)
    if unknown and options.action == "run" and command is None and not unknown[0].startswith("-"):
        parser.children["run"].error("the command comes after --: write `tenure run NAME -- COMMAND`")
    if unknown:
        parser.children.get(options.action, parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.action is None:
        parser.error(f"what shall be done? One of {', '.join(f'`{name}`' for name in parser.children)}")
    if options.action == "fence":
        _check_fence(parser.children["fence"], options)
    if options.action == "run":
        options.command = command
        _check_run(parser.children["run"], options)
    elif options.action in ("doctor", "migrate") and options.target is not None:
        if options.url is not None:
            parser.children[options.action].error("the URL is given twice")
        options.url = options.target
    if options.action != "run" and command is not None:
        parser.error(f"`{options.action}` takes no command after --")
    return options


def build() -> Parser:
    """Make the parser of all commands."""
    parser = Parser(prog="tenure", description="Locks for a fleet, with fencing tokens.", epilog=_TOP)
    parser.add_argument("--version", action="version", version=f"tenure {_version()}")
    commands = parser.add_subparsers(dest="action", metavar="COMMAND", parser_class=Parser)

    def add(name: str, summary: str, epilog: str, usage: str | None = None) -> Parser:
        child: Parser = commands.add_parser(name, help=summary, description=summary, epilog=epilog, usage=usage)
        parser.children[name] = child
        return child

    usage = "tenure run NAME [options] -- COMMAND [ARGUMENT...]"
    _fill_run(add("run", "run a command while a name is held: flock(1) for a fleet", _RUN, usage=usage))
    child = add("ls", "list the names that are held or waited for", _LS)
    child.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only names that begin with this")
    _fill_common(child)
    child = add("inspect", "show who holds a name and who waits for it", _INSPECT)
    child.add_argument("name", type=_name, metavar="NAME", help="the name")
    _fill_common(child)
    child = add("steal", "end one claim, for an operator", _STEAL)
    child.add_argument("name", type=_name, metavar="NAME", help="the name")
    child.add_argument("token", type=_whole, metavar="TOKEN", help="the token of the claim, from `tenure inspect`")
    _fill_common(child)
    child = add("doctor", "examine how an engine is set up: findings with grades, and what to change", _DOCTOR)
    child.add_argument("target", nargs="?", metavar="URL", help="the engine; as --url")
    _fill_common(child, quiet="show warnings and dangers only")
    child.add_argument("--ttl", type=_above_zero, metavar="SECONDS", help="what times are judged against (default: 30)")
    _fill_fence(add("fence", "look after fences, and write under them from shell scripts", _FENCE))
    child = add("migrate", "make an engine's tables, or bring them to this release", _MIGRATE)
    child.add_argument("target", nargs="?", metavar="URL", help="the engine; as --url")
    _fill_common(child)
    child = add("completion", "print a completion script for a shell", _COMPLETION)
    child.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    return parser


def _fill_common(parser: Parser, quiet: str = "say nothing but errors") -> None:
    parser.add_argument("--url", metavar="URL", help="the engine; otherwise TENURE_URL, otherwise sqlite://")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object a line")
    parser.add_argument("-q", "--quiet", action="store_true", help=quiet)


def _fill_run(parser: Parser) -> None:
    add = parser.add_argument
    add("name", type=_name, metavar="NAME", help="what to lock: up to 512 bytes, `/` by custom between its parts")
    _fill_common(parser)
    add("--wait", type=_at_least_zero, metavar="SECONDS", help="give up after this long; 0 only tries (default: never)")
    add("--shared", action="store_true", help="share the name with other --shared holders")
    add("--limit", type=_whole, metavar="N", help="a semaphore: the holders' permits add up to at most N")
    add("--permits", type=_whole, metavar="N", help="how many permits of --limit to take (default: 1)")
    add("--info", metavar="TEXT", help="shown to whoever inspects the name")
    add(
        "-E", "--busy-status", type=_status, default=exits.BUSY, metavar="N", help="exit status when busy (default: 75)"
    )
    add("--busy-ok", action="store_true", help="being busy is no error: exit with 0 and, off a terminal, say nothing")
    add("--ttl", type=_above_zero, metavar="SECONDS", help="how long the name stays held without renewal (default: 30)")
    add("--max-hold", type=_above_zero, metavar="SECONDS", help="stop the command when it held the name this long")
    add("--lock-delay", type=_at_least_zero, default=0.0, metavar="SECONDS",
        help="after an unclean end keep the name closed this much longer")  # fmt: skip
    add("--stop-margin", type=_above_zero, metavar="SECONDS",
        help="stop the command this long before the lease ends (default: ttl/4)")  # fmt: skip
    add("--grace", type=_at_least_zero, metavar="SECONDS", help="from SIGTERM to SIGKILL (default: ttl/6)")


def _check_run(parser: Parser, options: argparse.Namespace) -> None:
    if not options.command:
        parser.error("no command: write `tenure run NAME -- COMMAND`")
    if options.shared and options.limit is not None:
        parser.error("--shared and --limit exclude each other")
    if options.permits is not None and options.limit is None:
        parser.error("--permits needs --limit")
    if options.limit is not None and (options.permits or 1) > options.limit:
        parser.error("--permits is larger than --limit")


def _fill_fence(parser: Parser) -> None:
    add = parser.add_argument
    add("what", choices=("schema", "check", "write", "show", "advance", "adopt"), help="what to do; see below")
    add("subject", nargs="?", metavar="RESOURCE", help="what the fence protects; of `schema`: for which database")
    add("--at", metavar="URL", help="where the fence is kept; otherwise TENURE_FENCE_URL")
    add("--file", metavar="PATH", help="the file that is fenced")
    _fill_common(parser)
    add("--name", type=_name, metavar="NAME", help="`advance`: the name to enter (default: RESOURCE)")
    add("--wait", type=_at_least_zero, metavar="SECONDS",
        help="`advance`: for the name (default: for ever), and for the engine's clock (default: 60)")  # fmt: skip
    add("--authority", metavar="KIND/NAMESPACE", help="`adopt`: whose tokens come from now on, such as etcd/app")
    add("--token", type=_whole, default=0, metavar="N", help="`adopt`: refuse smaller ones of theirs (default: none)")
    add("--yes", action="store_true", help="`advance`, `adopt`: do not ask")
    add("--audit", metavar="FILE", help="where to add the audit line; otherwise TENURE_AUDIT, if that is set")


def _check_fence(parser: Parser, options: argparse.Namespace) -> None:
    what = options.what
    if what == "schema":
        if options.subject not in (None, "postgresql", "sqlite", "mysql"):
            parser.error(f"there is no schema for {options.subject!r}; there are postgresql, sqlite and mysql")
        return
    if options.at is not None and options.file is not None:
        parser.error("--at and --file exclude each other")
    if options.file is not None and options.subject is not None:
        parser.error("the file is what its own fence protects; leave out RESOURCE")
    if what == "write" and options.file is None:
        parser.error("--file PATH is needed")
    if options.file is None:
        options.at = options.at or os.environ.get("TENURE_FENCE_URL")
        if not options.at:
            parser.error("which fence? --at URL, TENURE_FENCE_URL or --file PATH is needed")
        if options.at.partition(":")[0].lower() == "s3":
            if options.subject is not None:
                parser.error("the object is what its own fence protects; leave out RESOURCE")
        elif options.subject is None and what != "check":
            parser.error(f"`fence {what}` needs the RESOURCE")
    if what == "adopt" and not options.authority:
        parser.error("--authority KIND/NAMESPACE is needed")


def _version() -> str:
    from tenure._version import __version__

    return __version__


def _name(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("a name must be UTF-8") from None
    if not 1 <= size <= 512:
        raise argparse.ArgumentTypeError(f"a name has 1 to 512 bytes, this one {size}")
    return text


def _number(accepts: Callable[[float], bool], wanted: str) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        # nan and inf compare in ways that would fail open somewhere below.
        if not (math.isfinite(value) and accepts(value)):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return convert


_above_zero = _number(lambda value: value > 0, "a number of seconds above 0")
_at_least_zero = _number(lambda value: value >= 0, "a number of seconds, 0 or more")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**53):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _status(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 255):
        raise argparse.ArgumentTypeError(f"{text!r} is not an exit status of 0 to 255")
    return int(text)

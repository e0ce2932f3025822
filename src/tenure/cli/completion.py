"""`tenure completion`: scripts for bash, zsh and fish, made from the same parser that reads the arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure.cli.parser import build

if TYPE_CHECKING:
    import argparse

    from tenure.cli.parser import Parser

_NAMES = 'tenure ls --quiet --json 2>/dev/null | sed -n \'s/^{"name": "\\([^"\\\\]*\\)".*/\\1/p\''
"""Lists names, one a line, with what every system has; names that need escaping in JSON are left out."""

_NAMED = ("run", "inspect", "steal")
"""Commands whose first argument is a name."""


def completion(options: argparse.Namespace) -> int:
    """Print the script."""
    writers = {"bash": bash, "zsh": zsh, "fish": fish}
    print(writers[options.shell](build()), end="")
    return 0


def bash(parser: Parser) -> str:
    """A script for bash 4 and later."""
    cases = "".join(
        f"        {name}) words={_quote(' '.join(_flags(child) + _choices(child)))} ;;\n"
        for name, child in parser.children.items()
    )
    valued = "|".join(flag for child in parser.children.values() for flag in _valued(child))
    return f"""\
# bash completion for tenure; made by `tenure completion bash`
_tenure_names() {{
    {_NAMES}
}}
_tenure() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} words='' index
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        if [[ ${{COMP_WORDS[index]}} == -- ]]; then
            # After --, it is the command's own completion.
            if declare -F _command_offset >/dev/null; then _command_offset $((index + 1)); fi
            return
        fi
    done
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W {_quote(" ".join([*parser.children, *_flags(parser)]))} -- "$current")
        return
    fi
    case $previous in
        {valued}) return ;;
    esac
    case ${{COMP_WORDS[1]}} in
{cases}    esac
    if [[ $current != -* && ${{COMP_WORDS[1]}} == @({"|".join(_NAMED)}) ]] && ((COMP_CWORD == 2)); then
        words=$(_tenure_names)
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -o default -F _tenure tenure
"""


def zsh(parser: Parser) -> str:
    """A script for zsh; works as a file of $fpath and with eval."""
    commands = " ".join(_quote(f"{name}:{_summary(child)}") for name, child in parser.children.items())
    cases = ""
    for name, child in parser.children.items():
        specs = [spec for action in child.actions for spec in _zsh_options(action)]
        if name in _NAMED:
            specs.append("1:name:_tenure_names")
        if _choices(child):
            specs.append(f"1:argument:({' '.join(_choices(child))})")
        if name == "run":
            specs.append("*::command:_normal")
        lines = " \\\n                ".join(_quote(spec) for spec in specs)
        cases += f"        {name})\n            _arguments -s \\\n                {lines} ;;\n"
    return f"""\
#compdef tenure
# zsh completion for tenure; made by `tenure completion zsh`
_tenure_names() {{
    local -a names
    names=("${{(@f)$({_NAMES})}}")
    compadd -a names
}}
_tenure() {{
    local -a commands
    commands=({commands})
    if ((CURRENT == 2)); then
        _describe command commands
        return
    fi
    local action=$words[2]
    shift words
    ((CURRENT--))
    case $action in
{cases}    esac
}}
if [[ $funcstack[1] == _tenure ]]; then _tenure "$@"; else compdef _tenure tenure; fi
"""


def fish(parser: Parser) -> str:
    """A script for fish."""
    lines = ["# fish completion for tenure; made by `tenure completion fish`"]
    lines += ["function __tenure_names", f"    {_NAMES}", "end", "complete -c tenure -f"]
    for name, child in parser.children.items():
        start = "complete -c tenure -n __fish_use_subcommand"
        lines.append(f"{start} -a {name} -d {_quote(_summary(child))}")
        here = f"complete -c tenure -n '__fish_seen_subcommand_from {name}'"
        if name in _NAMED:
            lines.append(f"{here} -a '(__tenure_names)'")
        if _choices(child):
            lines.append(f"{here} -a {_quote(' '.join(_choices(child)))}")
        for action in child.actions:
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                             for flag in action.option_strings)  # fmt: skip
            if flags:
                needs = " -x" if action.nargs != 0 else ""
                lines.append(f"{here} {flags}{needs} -d {_quote(action.help or '')}")
    return "\n".join(lines) + "\n"


def _flags(parser: Parser) -> list[str]:
    return [flag for action in parser.actions for flag in action.option_strings]


def _valued(parser: Parser) -> list[str]:
    return [flag for action in parser.actions if action.nargs != 0 for flag in action.option_strings]


def _choices(parser: Parser) -> list[str]:
    """The words that a command's own argument may be, such as the shells."""
    return [str(choice) for action in parser.actions if not action.option_strings for choice in action.choices or ()]


def _summary(parser: Parser) -> str:
    return parser.description or ""


def _zsh_options(action: argparse.Action) -> list[str]:
    # Brackets and colons end a description in zsh's own notation.
    text = (action.help or "").replace("[", "(").replace("]", ")").replace(":", ",")
    value = "" if action.nargs == 0 else f":{action.metavar or action.dest}:"
    others = " ".join(action.option_strings)
    once = f"({others})" if len(action.option_strings) > 1 else ""
    return [f"{once}{flag}[{text}]{value}" for flag in action.option_strings]


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"

"""The Lua with one protection removed, each by a change of its text; every one of them must be found out."""

# ruff: noqa: E501 - the text to change is quoted as it stands

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of one script."""

    name: str
    rule: str
    file: str
    old: str
    new: str

    def applied(self, name: str, text: bytes) -> bytes:
        """A script's text with the change, if it is the script to change."""
        if name != self.file:
            return text
        assert text.count(self.old.encode()) == 1, f"{self.name}: the line to change is not there, or not unique"
        return text.replace(self.old.encode(), self.new.encode())


MUTANTS = [
    Mutant(
        "latest limit",
        "B5",
        "queue",
        "limit = math.min(limit, row.limit)\n        used = used + row.permits\n        if used > limit then return prefix",
        "limit = row.limit\n        used = used + row.permits\n        if used > limit then return prefix",
    ),
    Mutant("kinds mix", "B5", "queue", "elseif row.kind ~= kind then", "elseif row.kind == 'e' then"),
    Mutant("holders not told", "B3", "queue", "      push(row, row.number, row.floor)\n", ""),
    Mutant(
        "told is not marked",
        "B3",
        "queue",
        "      row.floor = prefix[1].number\n      rewrite(row)\n",
        "      row.floor = prefix[1].number\n",
    ),
    Mutant(
        "floor is the token", "B8", "queue", "      row.floor = prefix[1].number\n", "      row.floor = row.number\n"
    ),
    Mutant(
        "the dead hold",
        "A3",
        "queue",
        "      if ends(row) <= NOW then gone[#gone + 1] = row end\n    end\n    if #gone == 0 then break end\n    if removed",
        "    end\n    if #gone == 0 then break end\n    if removed",
    ),
    Mutant(
        "the dead block",
        "B6",
        "queue",
        "      if ends(row) <= NOW then gone[#gone + 1] = row end\n    end\n    if #gone == 0 then break end\n    for _, row in ipairs(gone) do\n      latch_owner(row)\n      leave",
        "    end\n    if #gone == 0 then break end\n    for _, row in ipairs(gone) do\n      latch_owner(row)\n      leave",
    ),
    Mutant(
        "one neighbour watched",
        "B6",
        "queue",
        "        if used > limit then return needed end",
        "        return needed",
    ),
    Mutant(
        "nobody behind is hinted", "B3", "queue", "    if behind and behind.floor == '0' then hint(behind) end\n", ""
    ),
    Mutant(
        "first waiter is not hinted",
        "B6",
        "queue",
        "    if first then hint(first) end\n  end\n  return prefix",
        "  end\n  return prefix",
    ),
    Mutant("death ends the delay", "B10", "queue", "return row.until_ + row.delay end", "return row.until_ end"),
    Mutant("waiters have a delay too", "B10", "queue", "row.delay > 0 and row.floor ~= '0' and", "row.delay > 0 and"),
    Mutant("an end lets go at once", "B10", "close", "  row.freed = NOW + row.delay\n", "  row.freed = NOW\n"),
    Mutant("an unclean close is clean", "B10", "close", "if clean == '1' or", "if true or"),
    Mutant("no tombstone", "B1", "close", "    bury(session, id)\n", ""),
    Mutant(
        "tombstones are not looked at",
        "B1",
        "enter",
        "if record[4] and string.find(record[4], ' ' .. id .. ' ', 1, true) then return {'gone'} end",
        "",
    ),
    Mutant(
        "a tombstone needs a session",
        "B1",
        "close",
        "if call('EXISTS', TAG .. 's:' .. session) == 0 then",
        "if false then",
    ),
    Mutant(
        "an ended session enters",
        "A3",
        "enter",
        "if record[2] ~= '0' or tonumber(record[1]) <= NOW then return {'gone'} end",
        "",
    ),
    Mutant(
        "an ended session beats", "A3", "heartbeat", "or record[2] ~= '0' or tonumber(record[1]) <= NOW then", "then"
    ),
    Mutant("anything opens a session", "A3", "enter", "if ARGV[4] ~= '1' then return {'gone'} end\n", ""),
    Mutant(
        "entering never extends",
        "A1",
        "enter",
        "if ARGV[4] == '1' or ARGV[5] == '1' then\n    extend(session, tonumber(ARGV[6]))",
        "if ARGV[4] == '1' or ARGV[5] == '1' then",
    ),
    Mutant("a heartbeat does not extend", "A3", "heartbeat", "extend(session, tonumber(ARGV[4]))\n", ""),
    Mutant("nothing is swept", "B3", "heartbeat", "sweep(SWEEP)\n", ""),
    Mutant(
        "a repeat enters again",
        "B1",
        "enter",
        "local row = known and find(session, id, name, '0')",
        "local row = false",
    ),
    Mutant("tries are queued", "B2", "enter", "if rows[1] and ARGV[13] == '1' then", "if false then"),
    Mutant("a steal is not counted", "B9", "steal", "  call('HINCRBY', TAG .. 's:' .. row.session, 'stolen', 1)\n", ""),
    Mutant("a stolen claim may come back", "B1", "steal", "  bury(row.session, row.id)\n", ""),
    Mutant("a steal lets nobody in", "B3", "steal", "settle(row.name, tonumber(row.number))\n", ""),
    Mutant("a release lets nobody in", "B3", "close", "    settle(name, tonumber(row.number))\n", ""),
    Mutant("a steal does not hint", "B9", "steal", "hint(row)\n", ""),
    Mutant(
        "an evicted queue stands",
        "A2",
        "standing",
        "row and row.freed == 0 and row.id == ARGV[i + 1] and '1' or '0'",
        "'1'",
    ),
    Mutant("grants are not listed", "B4", "heartbeat", "if ARGV[5] == '1' then", "if false then"),
]

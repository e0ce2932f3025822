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
    seed: int = 0
    """One that was seen to find it, and is tried before the others."""

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
        seed=15,
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
        "floor is the token",
        "B8",
        "queue",
        "      row.floor = prefix[1].number\n",
        "      row.floor = row.number\n",
        seed=7,
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
        seed=57,
    ),
    Mutant(
        "one neighbour watched",
        "B6",
        "queue",
        "        if used > limit then return needed end",
        "        return needed",
        seed=13,
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
    Mutant("death ends the delay", "B10", "queue", "return till + row.delay end", "return till end"),
    Mutant("waiters have a delay too", "B10", "queue", "row.delay > 0 and row.floor ~= '0' and", "row.delay > 0 and"),
    Mutant("an end lets go at once", "B10", "close", "  row.freed = NOW + row.delay\n", "  row.freed = NOW\n"),
    Mutant("an unclean close is clean", "B10", "close", "if string.sub(flags, 2, 2) == '1' or", "if true or"),
    Mutant("no tombstone", "B1", "close", "    bury(session, id)\n", ""),
    Mutant(
        "tombstones are not looked at",
        "B1",
        "enter",
        "if record[3] and string.find(record[3], ' ' .. id .. ' ', 1, true) then return {'gone'} end",
        "",
    ),
    Mutant(
        "a tombstone needs a session",
        "B1",
        "close",
        "if call('EXISTS', TAG .. 's:' .. session) == 0 then",
        "if false then",
        seed=7,
    ),
    Mutant(
        "an ended session enters",
        "A3",
        "enter",
        "if tonumber(record[1]) <= NOW then return {'gone'} end",
        "",
    ),
    Mutant("an ended session beats", "A3", "heartbeat", "or tonumber(record[1]) <= NOW then", "then"),
    Mutant("anything opens a session", "A3", "enter", "if opening ~= '1' then return {'gone'} end\n", ""),
    Mutant(
        "entering never extends",
        "A1",
        "enter",
        "if opening == '1' or extending == '1' then\n    extend(session, ttl)",
        "if opening == '1' or extending == '1' then",
    ),
    Mutant("a heartbeat does not extend", "A3", "heartbeat", "extend(session, tonumber(ARGV[4]))\n", ""),
    Mutant("nothing is swept", "B3", "heartbeat", "sweep(SWEEP)\n", "", seed=49),
    Mutant(
        "a repeat enters again",
        "B1",
        "enter",
        "local row = known and find(session, id, name, '0')",
        "local row = false",
    ),
    Mutant("tries are queued", "B2", "enter", "if rows[1] and once == '1' then", "if false then"),
    Mutant("a steal is not counted", "B9", "steal", "  call('HINCRBY', TAG .. 's:' .. row.session, 'stolen', 1)\n", ""),
    Mutant("a stolen claim may come back", "B1", "steal", "  bury(row.session, row.id)\n", ""),
    Mutant("a steal lets nobody in", "B3", "steal", "settle(row.name, tonumber(row.number))\n", ""),
    Mutant(
        "a release lets nobody in",
        "B3",
        "close",
        "    settle(name, tonumber(row.number))\n    return lost and",
        "    return lost and",
    ),
    Mutant("a steal does not hint", "B9", "steal", "hint(row)\n", ""),
    Mutant(
        "an evicted queue stands",
        "A2",
        "standing",
        "row and row.freed == 0 and row.id == ARGV[i + 1] and '1' or '0'",
        "'1'",
    ),
    Mutant("grants are not listed", "B4", "heartbeat", "if ARGV[5] == '1' then", "if false then"),
    Mutant(
        "usually an ended session enters", "A3", "enter_usual", " and tonumber(record[1]) > now and", " and", seed=73
    ),
    Mutant("usually no tombstone is looked at", "B1", "enter_usual", " and not record[2] and", " and", seed=6),
    Mutant(
        "usually the dead hold",
        "A3",
        "enter_usual",
        "if left > 0 and (holder == nearest or",
        "if left > 0 and (true or",
        seed=54,
    ),
    Mutant("usually the dead block", "B6", "enter_usual", "if left > 0 and", "if", seed=97),
    Mutant(
        "usually one holder is looked at",
        "A3",
        "enter_usual",
        "%d+ e %d+ %d+ 0 (%d+) 0 ')",
        "%d+ . %d+ %d+ 0 (%d+) 0 ')",
        seed=13,
    ),
    Mutant(
        "usually a delay ends with the session",
        "B10",
        "enter_usual",
        "%d+ e %d+ %d+ 0 (%d+) 0 ')",
        "%d+ e %d+ %d+ %d+ (%d+) 0 ')",
    ),
    Mutant(
        "usually a repeat enters again",
        "B1",
        "enter_usual",
        "ARGV[6] .. ' ' .. name) == 1 then",
        "ARGV[6] .. ' ' .. name) then",
        seed=23,
    ),
    Mutant(
        "usually tries are queued",
        "B2",
        "enter_usual",
        "ARGV[5] == '0000'",
        "string.sub(ARGV[5], 1, 2) == '00'",
        seed=6,
    ),
    Mutant(
        "usually nothing is extended",
        "A1",
        "enter_usual",
        "ARGV[5] == '0000'",
        "string.find(ARGV[5], '^0.00$')",
        seed=17,
    ),
    Mutant(
        "usually all are exclusive", "B5", "enter_usual", " and string.sub(ARGV[8], 1, 1) == 'e' then", " then", seed=97
    ),
    Mutant("usually the last number is not kept", "B7", "enter_usual", "call('HSET', KEYS[1], 'last', number)\n", ""),
    Mutant("usually a number is the clock", "B7", "enter_usual", "last < now and now or last + 1", "now"),
    Mutant("usually the heir is not told", "B3", "close_usual", "        call('RPUSH', ", "        call('EXISTS', "),
    Mutant(
        "usually told is not marked",
        "B3",
        "close_usual",
        "head .. ' ' .. number .. ' 0 ' .. info",
        "head .. ' 0 0 ' .. info",
    ),
    Mutant(
        "usually the dead inherit",
        "A3",
        "close_usual",
        "if tonumber(of[1] or '0') > clock[1] * 1000000 + clock[2] and of[2]",
        "if of[2]",
        seed=97,
    ),
    Mutant(
        "usually all heirs are exclusive",
        "B5",
        "close_usual",
        "(%S+) (%d+) e %d+ %d+ %d+) 0 0",
        "(%S+) (%d+) . %d+ %d+ %d+) 0 0",
        seed=97,
    ),
    Mutant("usually all holders are exclusive", "B5", "close_usual", "ARGV[4] .. ' e '\n", "ARGV[4] .. ' '\n"),
    Mutant("usually no tombstone", "B1", "close_usual", "ARGV[7] == '01'", "string.sub(ARGV[7], 2) == '1'"),
    Mutant("usually every close is clean", "B10", "close_usual", "ARGV[7] == '01'", "string.sub(ARGV[7], 1, 1) == '0'"),
    Mutant("usually what is closed closes again", "B10", "close_usual", "[1-9]%d* 0 '", "[1-9]%d* %d+ '"),
    Mutant(
        "usually the own list keeps it",
        "B2",
        "close_usual",
        "      call('ZREM', TAG .. 'o:' .. session, mine)\n      return {'closed', '1'}\n    end\n    local",
        "      return {'closed', '1'}\n    end\n    local",
    ),
    Mutant(
        "usually the own list keeps what is inherited",
        "B2",
        "close_usual",
        "        call('ZREM', TAG .. 'o:' .. session, mine)\n",
        "",
    ),
]

PLAIN_MUTANTS = [
    Mutant(
        "the key is not taken",
        "",
        "plain",
        "  return call('SET', key_of(name), VALUE .. whole(NOW), 'NX', 'PXAT', at(till))\n",
        "  return not call('MGET', key_of(name))[1]\n",
    ),
    Mutant("another's key is no matter", "", "plain", "'NX', 'PXAT', at(till))\n", "'NX', 'PXAT', at(till)) or true\n"),
    Mutant("the key stays", "", "plain", "  if ours(name) then call('DEL', key_of(name)) end\n", ""),
    Mutant("the key is not kept for the next", "", "plain", "    call('PEXPIREAT', key_of(name), at(till))\n", ""),
    Mutant(
        "a heartbeat does not keep the key",
        "A1",
        "plain",
        "till - NOW then call('PEXPIREAT', key_of(name), at(till)) end",
        "till - NOW then return end",
    ),
    Mutant(
        "a heartbeat does not keep it for the delay",
        "B10",
        "plain",
        "keep(names[i], till + row.delay)",
        "keep(names[i], till)",
    ),
    Mutant(
        "delays are not noted",
        "B10",
        "enter",
        "    if plain and delay ~= '0' then call('HSET', key, 'delays', '1') end\n",
        "",
    ),
    Mutant(
        "what is let go of is kept",
        "B10",
        "plain",
        "if row and row.floor ~= '0' and row.freed == 0 then\n          if since",
        "if row and row.floor ~= '0' then\n          if since",
    ),
    Mutant(
        "one of many cuts the key short",
        "",
        "plain",
        "  if call('PTTL', key_of(name)) * 1000 < till - NOW then",
        "  if true then",
    ),
    Mutant("a heartbeat keeps what is lost", "A2", "plain", " else settle(names[i], 0) end", " end"),
    Mutant("who joins hides a loss", "A2", "plain", "      if not taken then forfeit(prefix) end\n", ""),
    Mutant("one loses for all", "A2", "plain", "row.session, 'lost', 1)\n", "row.session, 'lost', 1)\n      break\n"),
    Mutant(
        "a loss is not counted", "A2", "plain", "      call('HINCRBY', TAG .. 's:' .. row.session, 'lost', 1)\n", ""
    ),
    Mutant("a lost claim may come back", "B1", "plain", "      bury(row.session, row.id)\n", ""),
    Mutant("a lost name is free at once", "", "plain", "      row.freed = ends(row)\n", "      row.freed = NOW\n"),
    Mutant(
        "a lost key is anybody's",
        "",
        "plain",
        "  if take(name, latest(prefix)) then return",
        "  if prefix[1].freed > 0 or take(name, latest(prefix)) then return",
    ),
    Mutant("the first is not hinted", "B3", "plain", "    if gone and row.floor == '0' then hint(row) end\n", ""),
    Mutant(
        "a stranger is waited for to his end",
        "B6",
        "plain",
        "(left < 0 and POLL or math.min(left * 1000, POLL))",
        "(left < 0 and POLL or left * 1000)",
    ),
    Mutant("an endless stranger is waited for", "B6", "plain", "(left < 0 and POLL or", "(left < 0 and 1e12 or"),
    Mutant(
        "a newcomer does not ask",
        "",
        "enter",
        "if plain and not rows[1] then rows = plain.bars(name, session, tonumber(delay)) end\n",
        "",
    ),
    Mutant(
        "who looks is not barred", "", "queue", "  if plain and not rows[1] then return plain.bars_still(row) end\n", ""
    ),
    Mutant(
        "who is next is told anyhow", "", "queue", "if row.floor == '0' and admitted then", "if row.floor == '0' then"
    ),
    Mutant("what is lost is let go of in peace", "", "close", "return lost and '0' or '1'", "return '1'"),
    Mutant("what is lost blocks to its end", "", "close", "    if row.delay == 0 then\n", "    if false then\n"),
    Mutant(
        "a delay does not keep the key", "B10", "close", "  if plain then plain.admits(name, prefix, false) end\n", ""
    ),
]
"""Of what is done beside the queues, where the store has plain keys."""

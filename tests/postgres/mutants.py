"""The PL/pgSQL with one protection removed, each by a change of its text; every one of them must be found out."""

# ruff: noqa: E501 - the text to change is quoted as it stands

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of one function."""

    name: str
    rule: str
    function: str
    old: str
    new: str

    def applied(self, text: str) -> str:
        """The steps with the change."""
        begin = text.index(f"CREATE OR REPLACE FUNCTION {self.function}(")
        end = text.index("\n$$;", begin)
        body = text[begin:end]
        assert body.count(self.old) == 1, f"{self.name}: the line to change is not there, or not unique"
        return text[:begin] + body.replace(self.old, self.new) + text[end:]


MUTANTS = [
    Mutant(
        "latest limit", "B5", "holders", 'least_limit := least(least_limit, c."limit");', 'least_limit := c."limit";'
    ),
    Mutant("kinds mix", "B5", "holders", "EXIT WHEN c.kind <> first.kind;", "EXIT WHEN c.kind = 0;"),
    Mutant(
        "holders not told", "B3", "settle", "            PERFORM tell(c, c.number, (prefix[1]).number, asking);\n", ""
    ),
    Mutant(
        "told is not marked",
        "B3",
        "settle",
        "            UPDATE claims SET floor = (prefix[1]).number WHERE name = p_name AND number = c.number;\n",
        "",
    ),
    Mutant("floor is the token", "B8", "settle", "SET floor = (prefix[1]).number WHERE", "SET floor = c.number WHERE"),
    Mutant("the dead hold", "A3", "settle", "IF is_over(c, at) THEN", "IF false THEN"),
    Mutant("the dead block", "B6", "blocked", "IF is_over(c, at) THEN", "IF false THEN"),
    Mutant(
        "one neighbour watched",
        "B6",
        "blockers",
        "IF used > least_limit THEN\n                RETURN needed;\n            END IF;",
        "RETURN needed;",
    ),
    Mutant(
        "nobody behind is hinted",
        "B3",
        "leave",
        "            PERFORM tell(behind, 0, 0, asking);\n",
        "            NULL;\n",
    ),
    Mutant(
        "first waiter is not hinted",
        "B6",
        "settle",
        "        IF FOUND THEN\n            PERFORM tell(c, 0, 0, asking);\n        END IF;\n    END IF;\n    RETURN prefix;",
        "    END IF;\n    RETURN prefix;",
    ),
    Mutant("the asker is told too", "B4", "tell", "OR c.session || ' ' || c.claim = asking", ""),
    Mutant("death ends the delay", "B10", "ends_us", "c.until_us + c.delay_us", "c.until_us"),
    Mutant("waiters have a delay too", "B10", "ends_us", "c.delay_us > 0 AND c.floor > 0 AND", "c.delay_us > 0 AND"),
    Mutant(
        "death is judged without the delay",
        "B10",
        "is_over",
        "    IF ends_us(c) > at THEN\n        RETURN false;\n    END IF;\n",
        "",
    ),
    Mutant("an end lets go at once", "B10", "close_claims", "SET freed_us = at + c.delay_us", "SET freed_us = at"),
    Mutant("an unclean close is clean", "B10", "close_claims", "NOT x.clean AND", "false AND"),
    Mutant(
        "an unclean close hints nobody",
        "B10",
        "close_claims",
        "                    PERFORM tell(c, 0, 0, '');\n",
        "                    NULL;\n",
    ),
    Mutant("no tombstone", "B1", "close_claims", "DO UPDATE SET tombstones = s.tombstones || x.claim", "DO NOTHING"),
    Mutant("tombstones are not looked at", "B1", "enter", " OR p_claim = ANY (s.tombstones)", ""),
    Mutant(
        "a tombstone needs a session",
        "B1",
        "close_claims",
        "         WHERE tombstone ORDER BY 1",
        "         WHERE tombstone AND EXISTS (SELECT FROM sessions known WHERE known.id = session) ORDER BY 1",
    ),
    Mutant("an ended session enters", "A3", "enter", "s.ended OR s.until_us <= at OR", ""),
    Mutant("an ended session beats", "A3", "heartbeat", "s.id IS NULL OR s.ended OR s.until_us <= at", "s.id IS NULL"),
    Mutant("an ended session stands", "A3", "stands", " OR c.ended OR c.until_us <= at", ""),
    Mutant(
        "anything opens a session",
        "A3",
        "enter",
        "        IF NOT p_opening THEN\n            RETURN json_build_array('gone', 0, 0, NULL, NULL, 0, '[]'::json);\n        END IF;\n",
        "",
    ),
    Mutant(
        "entering never extends",
        "A1",
        "enter",
        "                UPDATE sessions SET until_us = at + p_ttl_us WHERE id = p_session;\n",
        "",
    ),
    Mutant(
        "a heartbeat does not extend",
        "A3",
        "heartbeat",
        "    UPDATE sessions SET until_us = at + p_ttl_us WHERE id = p_session;\n",
        "",
    ),
    Mutant("nothing is swept", "B3", "sweep", "    PERFORM sweep_some(now_us(), 100);\n", ""),
    Mutant("a sweep leaves the claims", "B3", "clear", "                PERFORM leave(c, '');\n", ""),
    Mutant(
        "a repeat enters again",
        "B1",
        "enter",
        "        RETURN stands(p_session, p_claim, p_name, 0, at, steals, which);\n",
        "        NULL;\n",
    ),
    Mutant("tries are queued", "B2", "enter", "AND p_at_once THEN", "AND false THEN"),
    Mutant("a steal is not counted", "B9", "steal", "SET stolen = stolen + 1, ", "SET "),
    Mutant("a stolen claim may come back", "B1", "steal", ", tombstones = tombstones || c.claim", ""),
    Mutant("a steal lets nobody in", "B3", "steal", "    PERFORM settle(p_name, at, p_number, '');\n", ""),
    Mutant("a steal does not hint", "B9", "steal", "    PERFORM tell(c, 0, 0, '');\n", ""),
    Mutant(
        "a release lets nobody in",
        "B3",
        "close_claims",
        "                    PERFORM settle(x.name, at, x.number, '');\n",
        "                    NULL;\n",
    ),
    Mutant(
        "a close lets nobody in",
        "B3",
        "close_claims",
        "                PERFORM settle(c.name, at, c.number, '');\n",
        "",
    ),
    Mutant("a closed queue stands", "A2", "standing", " AND c.freed_us = 0", ""),
    Mutant(
        "grants are not listed",
        "B4",
        "heartbeat",
        "CASE WHEN p_waiting THEN grants(p_session) ELSE '[]' END",
        "'[]'::json",
    ),
    Mutant("usually, tombstones are not looked at", "B1", "join_queue", " AND p_claim <> ALL (s.tombstones)", ""),
    Mutant("usually, an ended session enters", "A3", "join_queue", " AND NOT s.ended AND s.until_us > at", ""),
    Mutant("usually, everybody holds", "B5", "join_queue", "IF NOT is_queued AND", "IF is_queued IS NOT NULL AND"),
    Mutant(
        "usually, shared claims wait too", "B5", "join_queue", "IF is_queued AND p_kind = 0 THEN", "IF is_queued THEN"
    ),
    Mutant("usually, the dead in front stay", "A3", "join_queue", " AND NOT ended AND until_us > at INTO", " INTO"),
    Mutant(
        "usually, a holder in front is not told",
        "B3",
        "join_queue",
        "kind = 0 AND floor > 0 AND freed_us = 0",
        "kind = 0 AND freed_us = 0",
    ),
    Mutant(
        "usually, the dead block",
        "B6",
        "join_queue",
        "AND NOT ended THEN until_us - at END",
        "THEN greatest(until_us - at, 1) END",
    ),
    Mutant("usually, tries are queued", "B2", "join_queue", "IF p_at_once THEN", "IF false THEN"),
    Mutant(
        "usually, a repeat waits twice",
        "B1",
        "join_queue",
        "            IF FOUND THEN\n                _ :=",
        "            IF true THEN\n                _ :=",
    ),
    Mutant("usually, a release lets nobody in", "B3", "release", "IF is_followed THEN", "IF false THEN"),
    Mutant("usually, a release lets in all kinds as one", "B5", "release", "c.kind = 0 AND ", ""),
    Mutant("usually, a release lets in the dead", "A3", "release", " AND NOT s.ended AND s.until_us > at", ""),
    Mutant("usually, a grant is not marked", "B3", "release", "SET floor = c.number", "SET floor = 0"),
    Mutant(
        "unusually, a release lets nobody in",
        "B3",
        "release",
        "            PERFORM settle(p_name, at, p_number, '');\n",
        "",
    ),
]

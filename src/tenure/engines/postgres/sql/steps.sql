-- Format 1 of the PostgreSQL engine: the steps, as `tenure.engines.queue.Steps` has them in Python.
--
-- Promises: one call is one step, in one transaction of its own, with one row lock per name. The holders are the longest
-- compatible prefix of the queue (model.holders). What is drawn or judged by the clock is so after every wait (rule C2).
-- Does not promise delivery: a notification reaches whoever listens at the commit, and nobody else.
--
-- The functions that clients call run with the rights of their owner (SECURITY DEFINER): a client needs USAGE on the
-- schema and no right on any table. Each sets how its queries are planned, and so do those that it calls: statistics of
-- a queue are always wrong, and a plan that scans or is compiled (jit) would cost more than the step.

-- -- clocks and words ------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION now_us() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (date_part('epoch', clock_timestamp()) * 1000000)::bigint
$$;

-- Which life of the store this is: another server, history or start may lack what the last one had (rule A2).
CREATE OR REPLACE FUNCTION life() RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    system text := '';
BEGIN
    IF has_function_privilege('pg_catalog.pg_control_system()', 'execute') THEN
        SELECT system_identifier INTO system FROM pg_control_system();
    END IF;
    RETURN system || ':' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) || ':'
        || extract(epoch FROM pg_postmaster_start_time());
END
$$;

-- When a claim stops counting. A holder's lock_delay outlasts its session; a waiter's does not (B10).
CREATE OR REPLACE FUNCTION ends_us(c placed) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN c.freed_us > 0 THEN c.freed_us
        WHEN c.delay_us > 0 AND c.floor > 0 AND c.until_us > 0 THEN c.until_us + c.delay_us
        -- A session that is gone, or ended and latched, is dead whatever a clock that was set back says (A3).
        WHEN c.ended THEN 0
        ELSE c.until_us
    END
$$;

-- Whether a claim is over. A session is dead only for whoever latched that in its row (A3, C2): judged by a plain read, a
-- heartbeat in mid-commit would be taken for dead and answered all the same. A row that somebody else has locked is not
-- waited for: a heartbeat may have it, and locks that are waited for in any order end in deadlock. It is looked at again.
CREATE OR REPLACE FUNCTION is_over(c placed, at bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF ends_us(c) > at THEN
        RETURN false;
    END IF;
    -- A claim whose lock_delay is over was closed by a session that may well live on.
    IF c.freed_us > 0 OR c.ended THEN
        RETURN true;
    END IF;
    PERFORM FROM sessions s
      WHERE s.id = c.session AND s.until_us + CASE WHEN c.floor > 0 THEN c.delay_us ELSE 0 END <= at
        FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE sessions SET ended = true WHERE id = c.session;
    RETURN true;
END
$$;

-- -- before a step ---------------------------------------------------------------------------------------------------

-- Compare the genesis record, and say how this transaction waits and commits. The first thing that every step does.
--
-- format, store   what the caller speaks and knows; else nothing is touched (rule B12)
-- commits         synchronous_commit of this transaction; '' leaves it as it is
-- patience_ms     how long to wait for a lock: less than the caller waits for the answer
CREATE OR REPLACE FUNCTION begin_step(p_format integer, p_store text, p_commits text, p_patience_ms integer)
RETURNS genesis LANGUAGE plpgsql AS $$
DECLARE
    g genesis;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        -- One snapshot for the whole step would be from before the wait for the name's row.
        RAISE 'tenure needs READ COMMITTED' USING ERRCODE = 'TN002';
    END IF;
    SELECT * INTO g FROM genesis;
    IF g.format IS DISTINCT FROM p_format OR g.id IS DISTINCT FROM p_store THEN
        RAISE 'another store' USING ERRCODE = 'TN001';
    END IF;
    PERFORM set_config('lock_timeout', p_patience_ms::text, true);
    IF p_commits <> '' THEN
        PERFORM set_config('synchronous_commit', p_commits, true);
    END IF;
    RETURN g;
END
$$;

-- Lock a name's row, making it if it is not there; its last number. A row that is made begins above every number that
-- was collected, which is read after the insertion has waited for whoever collects (rule B7).
CREATE OR REPLACE FUNCTION lock_name(p_name text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    counter bigint;
BEGIN
    LOOP
        SELECT last INTO counter FROM names WHERE name = p_name FOR UPDATE;
        IF FOUND THEN
            RETURN counter;
        END IF;
        INSERT INTO names VALUES (p_name, 0) ON CONFLICT DO NOTHING;
        IF FOUND THEN
            UPDATE names SET last = (SELECT retired FROM genesis) WHERE name = p_name RETURNING last INTO counter;
            RETURN counter;
        END IF;
    END LOOP;
END
$$;

-- Let the commit of this step not wait for the disk, if it grants nothing to anybody. What a crash then takes along is a
-- place in the queue, whose client asks again, or a release, which its client repeats when it sees another life of the
-- store (A2). Every grant is synced, and what was committed before it with it. Never after a session was extended:
-- its client counts on that.
CREATE OR REPLACE FUNCTION relax() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('tenure.told', true) IS DISTINCT FROM 'yes' THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
END
$$;

-- -- mail ------------------------------------------------------------------------------------------------------------

-- Tell a claim that it holds, or with number 0 to look again. It goes with the commit, so never before what it tells.
--
-- asking   "SESSION CLAIM" of whoever is being answered: it learns it from the reply
CREATE OR REPLACE FUNCTION tell(c placed, p_number bigint, p_floor bigint, asking text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    message text := concat_ws(' ', '1', c.session, c.claim, p_number, p_floor);
BEGIN
    IF p_number > 0 THEN
        PERFORM set_config('tenure.told', 'yes', true);
    END IF;
    IF c.address = '' OR c.session || ' ' || c.claim = asking THEN
        RETURN;
    END IF;
    IF starts_with(c.address, 'poll_') THEN
        INSERT INTO mail VALUES (c.address, message);
    ELSE
        PERFORM pg_notify(c.address, message);
    END IF;
END
$$;

-- -- the rules -------------------------------------------------------------------------------------------------------

-- The longest compatible prefix of a queue. Reads no further than the first claim that does not fit.
CREATE OR REPLACE FUNCTION holders(p_name text) RETURNS placed[] LANGUAGE plpgsql AS $$
DECLARE
    prefix placed[];
    first placed;
    c placed;
    used bigint := 0;
    least_limit bigint;
BEGIN
    -- A loop fetches ten rows at once, and most queues are held by one.
    SELECT * INTO first FROM placed WHERE name = p_name ORDER BY number LIMIT 1;
    IF NOT FOUND THEN
        RETURN '{}';
    END IF;
    IF first.kind = 0 THEN
        RETURN ARRAY[first];
    END IF;
    least_limit := first."limit";
    FOR c IN SELECT * FROM placed WHERE name = p_name ORDER BY number LOOP
        EXIT WHEN c.kind <> first.kind;
        IF c.kind = 2 THEN
            -- The smallest limit among the holders (B5).
            least_limit := least(least_limit, c."limit");
            used := used + c.permits;
            EXIT WHEN used > least_limit;
        END IF;
        prefix := prefix || c;
    END LOOP;
    RETURN coalesce(prefix, '{}');
END
$$;

-- The nearest claims below a number that together prove a place blocked (B6); empty if nothing does.
CREATE OR REPLACE FUNCTION blockers(p_name text, p_kind smallint, p_permits bigint, p_limit bigint, below bigint)
RETURNS placed[] LANGUAGE plpgsql AS $$
DECLARE
    needed placed[];
    c placed;
    used bigint := p_permits;
    least_limit bigint := p_limit;
BEGIN
    IF p_kind = 0 THEN
        SELECT * INTO c FROM placed WHERE name = p_name AND number < below ORDER BY number DESC LIMIT 1;
        RETURN CASE WHEN FOUND THEN ARRAY[c] ELSE '{}' END;
    END IF;
    FOR c IN SELECT * FROM placed WHERE name = p_name AND number < below ORDER BY number DESC LOOP
        IF c.kind <> p_kind THEN
            RETURN ARRAY[c];
        END IF;
        IF p_kind = 2 THEN
            needed := needed || c;
            used := used + c.permits;
            least_limit := least(least_limit, c."limit");
            IF used > least_limit THEN
                RETURN needed;
            END IF;
        END IF;
    END LOOP;
    RETURN '{}';
END
$$;

-- Remove a claim, and hint the waiter behind one that waited: it watches a claim that is gone (B3, B6).
CREATE OR REPLACE FUNCTION leave(c placed, asking text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    behind placed;
BEGIN
    DELETE FROM claims WHERE name = c.name AND number = c.number;
    IF c.floor = 0 THEN
        SELECT * INTO behind FROM placed WHERE name = c.name AND number > c.number ORDER BY number LIMIT 1;
        IF FOUND AND behind.floor = 0 THEN
            PERFORM tell(behind, 0, 0, asking);
        END IF;
    END IF;
END
$$;

-- Pass over the dead at the head and tell the holders not yet told; returns the holders.
--
-- last_gone   the largest number that this step has removed before; 0 if none
CREATE OR REPLACE FUNCTION settle(p_name text, at bigint, last_gone bigint, asking text) RETURNS placed[]
LANGUAGE plpgsql AS $$
DECLARE
    prefix placed[];
    gone placed[];
    c placed;
    last placed;
    removed integer := 0;
    is_free boolean;
BEGIN
    LOOP
        prefix := holders(p_name);
        IF cardinality(prefix) = 0 THEN
            RETURN prefix;
        END IF;
        gone := '{}';
        FOREACH c IN ARRAY prefix LOOP
            IF is_over(c, at) THEN
                gone := gone || c;
            END IF;
        END LOOP;
        EXIT WHEN cardinality(gone) = 0;
        IF removed >= 100 THEN
            -- Stopped short: the next live claim goes on (B3).
            last := prefix[cardinality(prefix)];
            FOR c IN SELECT * FROM placed WHERE name = p_name AND number > last.number ORDER BY number LOOP
                IF ends_us(c) > at THEN
                    PERFORM tell(c, 0, 0, asking);
                    EXIT;
                END IF;
            END LOOP;
            RETURN prefix;
        END IF;
        FOREACH c IN ARRAY gone LOOP
            DELETE FROM claims WHERE name = p_name AND number = c.number;
            removed := removed + 1;
            last_gone := greatest(last_gone, c.number);
        END LOOP;
    END LOOP;
    FOREACH c IN ARRAY prefix LOOP
        IF c.floor = 0 THEN
            is_free := coalesce(is_free, is_open(p_name));
            IF NOT is_free THEN
                -- A transaction of somebody's own holds the name, and tells nobody when it ends: look again, and again.
                PERFORM tell(c, 0, 0, asking);
                CONTINUE;
            END IF;
            UPDATE claims SET floor = (prefix[1]).number WHERE name = p_name AND number = c.number;
            PERFORM tell(c, c.number, (prefix[1]).number, asking);
        END IF;
    END LOOP;
    last := prefix[cardinality(prefix)];
    IF last_gone > 0 AND (last.kind = 2 OR (last.kind = 1 AND last_gone > last.number)) THEN
        -- What left may be what the first waiter watches, without letting it in: it looks again (B6).
        SELECT * INTO c FROM placed WHERE name = p_name AND number > last.number ORDER BY number LIMIT 1;
        IF FOUND THEN
            PERFORM tell(c, 0, 0, asking);
        END IF;
    END IF;
    RETURN prefix;
END
$$;

-- The claims that block a place, after removing the dead among them.
CREATE OR REPLACE FUNCTION blocked(
    p_name text, p_kind smallint, p_permits bigint, p_limit bigint, below bigint, at bigint, asking text
) RETURNS placed[] LANGUAGE plpgsql AS $$
DECLARE
    needed placed[];
    gone placed[];
    c placed;
BEGIN
    FOR _ IN 1..100 LOOP
        needed := blockers(p_name, p_kind, p_permits, p_limit, below);
        gone := '{}';
        FOREACH c IN ARRAY needed LOOP
            IF is_over(c, at) THEN
                gone := gone || c;
            END IF;
        END LOOP;
        EXIT WHEN cardinality(gone) = 0;
        FOREACH c IN ARRAY gone LOOP
            PERFORM leave(c, asking);
        END LOOP;
        PERFORM settle(p_name, at, (gone[1]).number, asking);
    END LOOP;
    RETURN needed;
END
$$;

-- Session, address and microseconds left of each. One that is over by the clock, in a row that somebody else has locked,
-- is worth another look soon, and not at once for ever. Where no claim blocks, a transaction does, which tells nobody when
-- it ends: the next look is later, the longer the claim has waited.
--
-- since   when the claim entered
CREATE OR REPLACE FUNCTION peers(needed placed[], at bigint, since bigint) RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    c placed;
    found json[] := '{}';
BEGIN
    IF cardinality(needed) = 0 THEN
        RETURN json_build_array(json_build_array('', '', greatest(20000, least(250000, (at - since) / 8))));
    END IF;
    FOREACH c IN ARRAY needed LOOP
        found := found || json_build_array(c.session, c.address,
            CASE WHEN ends_us(c) > at THEN ends_us(c) - at ELSE 20000 END);
    END LOOP;
    RETURN to_json(found);
END
$$;

-- Remove what is over of an ended session's claims, and the session with the last of them. Whatever is locked by somebody
-- else is left for another time.
CREATE OR REPLACE FUNCTION clear(p_session text, at bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c placed;
    locked text;
    is_left boolean := false;
BEGIN
    FOR locked IN
        SELECT n.name FROM names n
         WHERE n.name IN (SELECT own.name FROM claims own WHERE own.session = p_session ORDER BY own.claim LIMIT 100)
         ORDER BY n.name FOR UPDATE SKIP LOCKED
    LOOP
        -- A later statement than the one that locked: it sees what the last owner of the lock has committed.
        FOR c IN SELECT * FROM placed WHERE session = p_session AND name = locked ORDER BY claim LOOP
            IF ends_us(c) <= at THEN
                PERFORM leave(c, '');
                PERFORM settle(locked, at, c.number, '');
            END IF;
        END LOOP;
    END LOOP;
    PERFORM FROM claims WHERE session = p_session LIMIT 1;
    IF NOT FOUND THEN
        -- The tombstones go with it: ids are used once and only an opening request creates a session.
        DELETE FROM sessions WHERE id = p_session;
    END IF;
END
$$;

-- Remove claims of sessions past their end, so that names which nobody asks for again are cleaned (B3).
CREATE OR REPLACE FUNCTION sweep_some(at bigint, how_many integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    session text;
    mailbox text;
BEGIN
    FOR session, mailbox IN
        SELECT id, address FROM sessions WHERE until_us <= at LIMIT how_many FOR UPDATE SKIP LOCKED
    LOOP
        UPDATE sessions SET ended = true WHERE id = session AND NOT ended;
        PERFORM clear(session, at);
        IF starts_with(mailbox, 'poll_') THEN
            PERFORM FROM sessions WHERE address = mailbox;
            IF NOT FOUND THEN
                DELETE FROM mail WHERE address = mailbox;
            END IF;
        END IF;
    END LOOP;
END
$$;

-- Where a claim stands, for `look` and for a repeated `enter`; the name is locked. Replies as `enter`.
CREATE OR REPLACE FUNCTION stands(
    p_session text, p_claim bigint, p_name text, p_number bigint, at bigint, p_stolen bigint, p_life text
) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    c placed;
    prefix placed[];
    needed placed[];
    told bigint;
    asking text;
BEGIN
    IF p_number > 0 THEN
        SELECT * INTO c FROM placed WHERE name = p_name AND number = p_number AND session = p_session;
    ELSE
        SELECT * INTO c FROM placed WHERE session = p_session AND claim = p_claim AND name = p_name;
    END IF;
    IF NOT FOUND OR c.freed_us > 0 OR c.ended OR c.until_us <= at THEN
        RETURN json_build_array('gone', 0, 0, p_stolen, p_life, 0, '[]'::json);
    END IF;
    asking := c.session || ' ' || c.claim;
    prefix := settle(p_name, at, 0, asking);
    needed := blocked(p_name, c.kind, c.permits, c."limit", c.number, at, asking);
    IF cardinality(needed) > 0 THEN
        IF p_stolen IS NULL THEN
            PERFORM relax();
        END IF;
        RETURN json_build_array('waits', c.number, 0, p_stolen, p_life, 0, peers(needed, at, c.number));
    END IF;
    -- Settling, or what `blocked` removed, may have told it just now.
    SELECT floor INTO told FROM claims WHERE name = p_name AND number = c.number;
    IF told = 0 AND NOT is_open(p_name) THEN
        IF p_stolen IS NULL THEN
            PERFORM relax();
        END IF;
        RETURN json_build_array('waits', c.number, 0, p_stolen, p_life, 0, peers(needed, at, c.number));
    END IF;
    RETURN json_build_array('holds', c.number,
        CASE WHEN told > 0 THEN told ELSE (prefix[1]).number END, p_stolen, p_life, 0, '[]'::json);
END
$$;

-- -- the steps: what clients call ------------------------------------------------------------------------------------
--
-- All begin with the arguments of `begin_step`, but for those that only ask. Replies are JSON arrays.

-- Put a claim into its queue. A repeat finds the first; a tombstone refuses it.
--
-- Replies [standing, number, floor, stolen or null, life or null, a differing limit,
--          for each claim that blocks: [session, address, microseconds left]],
-- ["exhausted"], or ["ceiling", number]: sync a ceiling above that number first, then repeat.
CREATE OR REPLACE FUNCTION enter(
    p_format integer, p_store text, p_commits text, p_patience_ms integer,
    p_session text, p_opening boolean, p_extend boolean, p_ttl_us bigint, p_claim bigint, p_name text, p_kind smallint,
    p_permits bigint, p_limit bigint, p_delay_us bigint, p_at_once boolean, p_info text,
    p_address text, p_client text, p_host text, p_pid bigint
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    g genesis := begin_step(p_format, p_store, p_commits, p_patience_ms);
    last_number bigint;
    is_extended boolean := false;
    is_blocked boolean;
    s sessions;
    at bigint;
    new_number bigint;
    new_floor bigint;
    steals bigint;
    which text;
    other bigint := 0;
    prefix placed[] := '{}';
    needed placed[] := '{}';
BEGIN
    last_number := lock_name(p_name);
    LOOP
        IF p_opening OR p_extend THEN
            SELECT * INTO s FROM sessions WHERE id = p_session FOR UPDATE;
        ELSE
            -- Not locked: should it end meanwhile, this claim ends with it, and its client's own deadline is earlier.
            SELECT * INTO s FROM sessions WHERE id = p_session;
        END IF;
        at := now_us();
        IF FOUND THEN
            IF s.ended OR s.until_us <= at OR p_claim = ANY (s.tombstones) THEN
                RETURN json_build_array('gone', 0, 0, NULL, NULL, 0, '[]'::json);
            END IF;
            IF p_opening OR p_extend THEN
                UPDATE sessions SET until_us = at + p_ttl_us WHERE id = p_session;
                steals := s.stolen;
                is_extended := true;
            END IF;
            EXIT;
        END IF;
        IF NOT p_opening THEN
            RETURN json_build_array('gone', 0, 0, NULL, NULL, 0, '[]'::json);
        END IF;
        PERFORM sweep_some(at, 2);
        -- The count of steals begins at the clock, not at 0: should a late opening request make an ended session anew,
        -- its heartbeats differ from those of the first, and its client reconciles (A2, A3).
        INSERT INTO sessions VALUES (p_session, at + p_ttl_us, false, at, p_address, p_client, p_host, p_pid, '{}')
            ON CONFLICT DO NOTHING;
        IF FOUND THEN
            steals := at;
            EXIT;
        END IF;
        -- Another claim of this client has opened it meanwhile.
    END LOOP;
    IF steals IS NOT NULL THEN
        which := life();
    END IF;
    -- Most names are free, and this look costs a quarter of settling nothing.
    PERFORM FROM claims WHERE name = p_name LIMIT 1;
    IF FOUND THEN
        prefix := settle(p_name, at, 0, '');
    END IF;
    IF cardinality(prefix) > 0 THEN
        needed := blocked(p_name, p_kind, p_permits, p_limit, 9007199254740992, at, '');
        IF p_kind = 2 THEN
            SELECT c."limit" INTO other FROM unnest(prefix) c WHERE c.kind = 2 AND c."limit" <> p_limit LIMIT 1;
            other := coalesce(other, 0);
        END IF;
    END IF;
    is_blocked := cardinality(needed) > 0 OR NOT is_open(p_name);
    IF is_blocked AND p_at_once THEN
        IF NOT is_extended THEN
            PERFORM relax();
        END IF;
        RETURN json_build_array('busy', 0, 0, steals, which, other, peers(needed, at, at));
    END IF;
    -- Never drawn before the wait for the row: a late drawer would overtake a rightful holder (B7).
    new_number := greatest(last_number + 1, at, g.base + 1, (SELECT last_value FROM given) + 1);
    IF new_number > 9007199254740991 THEN
        RETURN json_build_array('exhausted');
    END IF;
    IF g.ceiling > 0 AND g.started IS DISTINCT FROM pg_postmaster_start_time()
        OR new_number > g.ceiling AND current_setting('synchronous_commit') = 'off' THEN
        RETURN json_build_array('ceiling', new_number);
    END IF;
    new_floor := CASE
        WHEN is_blocked THEN 0
        WHEN cardinality(prefix) > 0 THEN (prefix[1]).number
        ELSE new_number
    END;
    INSERT INTO claims
        VALUES (p_name, new_number, p_session, p_claim, p_kind, p_permits, p_limit, p_delay_us, new_floor, 0, p_info)
        ON CONFLICT (session, claim) DO NOTHING;
    IF NOT FOUND THEN
        RETURN stands(p_session, p_claim, p_name, 0, at, steals, which);
    END IF;
    UPDATE names SET last = new_number WHERE name = p_name;
    IF new_floor = 0 THEN
        IF NOT is_extended THEN
            PERFORM relax();
        END IF;
        RETURN json_build_array('waits', new_number, 0, steals, which, other, peers(needed, at, at));
    END IF;
    RETURN json_build_array('holds', new_number, new_floor, steals, which, other, '[]'::json);
END
$$;

-- Say where a claim stands, after passing over the dead in front of it. Replies as `enter`.
CREATE OR REPLACE FUNCTION look(
    p_format integer, p_store text, p_commits text, p_patience_ms integer,
    p_session text, p_claim bigint, p_name text, p_number bigint
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
    PERFORM FROM names WHERE name = p_name FOR UPDATE;
    RETURN stands(p_session, p_claim, p_name, p_number, now_us(), NULL, NULL);
END
$$;

-- Remove claims, each telling its successors.
--
-- p_closings   [{session, claim, name, number, tombstone, clean, held, ttl_us}, ...]
-- Replies for each whether it was there.
CREATE OR REPLACE FUNCTION close_claims(
    p_format integer, p_store text, p_commits text, p_patience_ms integer, p_closings json
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    x record;
    c placed;
    prefix placed[];
    at bigint;
    were boolean[] := '{}';
    was boolean;
    is_plain boolean := true;
BEGIN
    PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
    FOR x IN
        SELECT name COLLATE "C" AS name, bool_or(tombstone) AS tombstone
          FROM json_to_recordset(p_closings) AS x (name text, tombstone boolean)
         GROUP BY 1 ORDER BY 1
    LOOP
        IF x.tombstone THEN
            -- The late enqueue may be making the row at this moment: without it, neither would wait for the other.
            PERFORM lock_name(x.name);
        ELSE
            PERFORM FROM names WHERE name = x.name FOR UPDATE;
        END IF;
    END LOOP;
    at := now_us();
    FOR x IN
        SELECT session COLLATE "C" AS session, claim, ttl_us
          FROM json_to_recordset(p_closings) AS x (session text, claim bigint, tombstone boolean, ttl_us bigint)
         WHERE tombstone ORDER BY 1
    LOOP
        -- The opening request itself may still arrive: an ended record refuses it as long as it could live (B1).
        INSERT INTO sessions AS s VALUES (x.session, at + x.ttl_us, true, 0, '', '', '', 0, ARRAY[x.claim])
            ON CONFLICT (id) DO UPDATE SET tombstones = s.tombstones || x.claim;
        is_plain := false;
    END LOOP;
    FOR x IN
        SELECT * FROM json_to_recordset(p_closings)
            AS x (session text, claim bigint, name text, number bigint, clean boolean, held boolean)
    LOOP
        IF x.held AND x.number > 0 THEN
            -- A holder's release: nothing about the claim can matter any more, so it is not even read.
            DELETE FROM claims WHERE name = x.name AND number = x.number AND session = x.session;
            was := FOUND;
            IF was THEN
                PERFORM FROM claims WHERE name = x.name LIMIT 1;
                IF FOUND THEN
                    PERFORM settle(x.name, at, x.number, '');
                END IF;
            END IF;
        ELSE
            is_plain := false;
            IF x.number > 0 THEN
                SELECT * INTO c FROM placed WHERE name = x.name AND number = x.number AND session = x.session;
            ELSE
                SELECT * INTO c FROM placed WHERE session = x.session AND claim = x.claim AND name = x.name;
            END IF;
            was := FOUND AND c.freed_us = 0;
            IF was AND NOT x.clean AND c.delay_us > 0 AND c.floor > 0 THEN
                -- Unclean: it blocks until its lock_delay is over (B10). The first waiter counts on another time.
                UPDATE claims SET freed_us = at + c.delay_us WHERE name = c.name AND number = c.number;
                SELECT * INTO c FROM placed WHERE name = x.name AND floor = 0 ORDER BY number LIMIT 1;
                IF FOUND THEN
                    PERFORM tell(c, 0, 0, '');
                END IF;
            ELSIF was THEN
                PERFORM leave(c, '');
                PERFORM settle(c.name, at, c.number, '');
            END IF;
        END IF;
        were := were || was;
    END LOOP;
    IF is_plain THEN
        PERFORM relax();
    END IF;
    RETURN to_json(were);
END
$$;

-- Extend a session, unless it is over (A3). Locks nothing else.
--
-- Replies ["over", life] or ["lives", life, stolen, whether a sweep is due,
--          if asked for, the grants told and perhaps not yet taken: [claim, number, floor]].
CREATE OR REPLACE FUNCTION heartbeat(
    p_format integer, p_store text, p_commits text, p_patience_ms integer,
    p_session text, p_ttl_us bigint, p_waiting boolean
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    s sessions;
    at bigint;
BEGIN
    PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
    SELECT * INTO s FROM sessions WHERE id = p_session FOR UPDATE;
    at := now_us();
    IF s.id IS NULL OR s.ended OR s.until_us <= at THEN
        RETURN json_build_array('over', life());
    END IF;
    UPDATE sessions SET until_us = at + p_ttl_us WHERE id = p_session;
    RETURN json_build_array('lives', life(), s.stolen, EXISTS (SELECT FROM sessions WHERE until_us <= at),
        CASE WHEN p_waiting THEN grants(p_session) ELSE '[]' END);
END
$$;

-- The grants of a session that were told and perhaps not yet taken (B4), the newest first: what waits was asked for last.
CREATE OR REPLACE FUNCTION grants(p_session text) RETURNS json LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT coalesce(json_agg(json_build_array(claim, number, floor)), '[]')
      FROM (SELECT claim, number, floor, freed_us FROM claims WHERE session = p_session
             ORDER BY claim DESC LIMIT 100) own
     WHERE floor > 0 AND freed_us = 0
$$;

-- Remove up to 100 sessions that are over, with their claims. Waits for nobody.
CREATE OR REPLACE FUNCTION sweep(p_format integer, p_store text, p_commits text, p_patience_ms integer)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
    PERFORM sweep_some(now_us(), 100);
    RETURN '[]'::json;
END
$$;

-- Remove the rows of names that were idle for so long, and fold their numbers into the retired maximum (B7).
-- Replies [how many].
CREATE OR REPLACE FUNCTION collect(
    p_format integer, p_store text, p_commits text, p_patience_ms integer, p_idle_us bigint
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    largest bigint;
    how_many bigint;
BEGIN
    PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
    -- One collector at a time, and the row that all of them write first, so that no two wait for each other.
    PERFORM FROM genesis FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN json_build_array(0);
    END IF;
    WITH idle AS (
        SELECT n.name FROM names n
         WHERE n.last <= now_us() - p_idle_us AND NOT EXISTS (SELECT FROM claims c WHERE c.name = n.name)
         LIMIT 1000 FOR UPDATE SKIP LOCKED
    ), gone AS (
        -- Looked at once more: whoever had the row locked until just now has raised `last`.
        DELETE FROM names n USING idle WHERE n.name = idle.name RETURNING n.last
    )
    SELECT max(last), count(*) INTO largest, how_many FROM gone;
    UPDATE genesis SET retired = greatest(retired, largest) WHERE largest IS NOT NULL;
    RETURN json_build_array(how_many);
END
$$;

-- For each claim, whether it stands in its queue (A2). p_refs as in close_claims.
CREATE OR REPLACE FUNCTION standing(
    p_format integer, p_store text, p_commits text, p_patience_ms integer, p_refs json
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
    -- One that the store lost and a late repeat entered anew has another number: it is not the one asked for.
    RETURN (
        SELECT coalesce(json_agg(EXISTS (
            SELECT FROM claims c WHERE c.name = x.name AND c.number = x.number AND c.session = x.session
                                   AND c.claim = x.claim AND c.freed_us = 0)), '[]')
          FROM json_to_recordset(p_refs) AS x (session text, claim bigint, name text, number bigint)
    );
END
$$;

-- Up to a hundred claims of a session. Replies [[claim, number, name], ...].
CREATE OR REPLACE FUNCTION claims_of(
    p_format integer, p_store text, p_commits text, p_patience_ms integer, p_session text
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
    RETURN (
        SELECT coalesce(json_agg(json_build_array(claim, number, name)), '[]')
          FROM (SELECT claim, number, name FROM claims WHERE session = p_session ORDER BY claim LIMIT 100) own
    );
END
$$;

-- End a session and remove what is left of its claims, uncleanly; those with a lock_delay go when it is over.
CREATE OR REPLACE FUNCTION end_session(
    p_format integer, p_store text, p_commits text, p_patience_ms integer, p_session text
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    at bigint;
BEGIN
    PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
    PERFORM FROM names n
      WHERE n.name IN (SELECT own.name FROM claims own WHERE own.session = p_session ORDER BY own.claim LIMIT 100)
      ORDER BY n.name FOR UPDATE;
    PERFORM FROM sessions WHERE id = p_session FOR UPDATE;
    at := now_us();
    UPDATE sessions SET ended = true, until_us = least(until_us, at) WHERE id = p_session;
    IF FOUND THEN
        PERFORM clear(p_session, at);
    END IF;
    RETURN '[]'::json;
END
$$;

-- Remove the claim with this number, if it stands there (B9): by name alone a repeat would rob the successor.
-- Replies [whether it did].
CREATE OR REPLACE FUNCTION steal(
    p_format integer, p_store text, p_commits text, p_patience_ms integer, p_name text, p_number bigint
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    c placed;
    at bigint;
BEGIN
    PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
    PERFORM FROM names WHERE name = p_name FOR UPDATE;
    SELECT * INTO c FROM placed WHERE name = p_name AND number = p_number;
    IF NOT FOUND THEN
        RETURN json_build_array(false);
    END IF;
    -- A repeat of its enqueue must not bring it back: claim ids are used once (B1).
    UPDATE sessions SET stolen = stolen + 1, tombstones = tombstones || c.claim WHERE id = c.session;
    at := now_us();
    -- The robbed session's waiters look again; its keeper learns it from the counter in the next heartbeat.
    PERFORM tell(c, 0, 0, '');
    -- At once, also past a lock_delay: an operator who steals has decided that nobody is at work.
    PERFORM leave(c, '');
    PERFORM settle(p_name, at, p_number, '');
    RETURN json_build_array(true);
END
$$;

-- The queue of a name, in order; reads only, so the dead not yet passed over are still shown.
-- Replies [[number, kind, permits, limit, client, host, pid, info], ...]; in front, without a number and with its start
-- at the end, a transaction that holds it.
CREATE OR REPLACE FUNCTION inspect(
    p_format integer, p_store text, p_commits text, p_patience_ms integer, p_name text
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
    RETURN queue_of(p_name);
END
$$;

-- The names that begin with a prefix and have a queue.
CREATE OR REPLACE FUNCTION names_like(
    p_format integer, p_store text, p_commits text, p_patience_ms integer, p_prefix text
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
    RETURN (
        SELECT coalesce(json_agg(n.name), '[]') FROM names n
         WHERE starts_with(n.name, p_prefix) AND EXISTS (SELECT FROM claims c WHERE c.name = n.name)
    );
END
$$;

-- Take the messages of a mailbox that cannot listen. Replies [message, ...].
CREATE OR REPLACE FUNCTION take_mail(p_address text) RETURNS json LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
    WITH taken AS (DELETE FROM mail WHERE address = p_address RETURNING message)
    SELECT coalesce(json_agg(message), '[]') FROM taken
$$;

-- Make a minute of numbers durable before any of them is given by a commit that is not synced. At the first call after
-- a start of the server, numbers begin above what the last one may have given and forgotten (B7).
CREATE OR REPLACE FUNCTION raise_ceiling(
    p_format integer, p_store text, p_commits text, p_patience_ms integer, p_number bigint
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM begin_step(p_format, p_store, 'on', p_patience_ms);
    PERFORM FROM genesis FOR UPDATE;
    UPDATE genesis SET
        base = CASE WHEN started IS DISTINCT FROM pg_postmaster_start_time() THEN greatest(base, ceiling) ELSE base END,
        ceiling = greatest(ceiling, p_number) + 60000000,
        started = pg_postmaster_start_time();
    RETURN '[]'::json;
END
$$;

-- Whose store this is; asked before anything is known. Replies [format, id, steps, the largest number known, clock].
CREATE OR REPLACE FUNCTION genesis_of() RETURNS json LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT json_build_array(format, id, steps,
               greatest(retired, (SELECT coalesce(max(last), 0) FROM names), (SELECT last_value FROM given)), now_us())
      FROM genesis
$$;

-- How every step is planned. Set here once, by name, so that none is forgotten.
DO $$
DECLARE
    step regprocedure;
BEGIN
    FOR step IN SELECT oid FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND prosecdef LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path FROM CURRENT', step);
        EXECUTE format('ALTER FUNCTION %s SET plan_cache_mode = force_generic_plan', step);
        EXECUTE format('ALTER FUNCTION %s SET enable_seqscan = off', step);
        EXECUTE format('ALTER FUNCTION %s SET enable_bitmapscan = off', step);
        EXECUTE format('ALTER FUNCTION %s SET jit = off', step);
    END LOOP;
END
$$;

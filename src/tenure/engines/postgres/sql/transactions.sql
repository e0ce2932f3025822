-- Format 1 of the PostgreSQL engine: names that a transaction of the caller's own holds, on the caller's connection.
--
-- Such a transaction holds no row of ours: it would make every step on that name wait for it, and the death of a session
-- that it has latched would be nobody else's to see until it ends. It holds the advisory lock of the name, exclusively
-- and until it ends. Whatever grants the name to a claim takes the same lock shared, without waiting, until its commit:
-- so either the transaction sees the grant, or the step sees the transaction, and lets its claim wait.
--
-- Promises: its number is larger than every earlier one of the name and smaller than every later one, and is not given
-- again, also if the transaction is rolled back. Does not promise a place in the queue: claims go first.

-- The largest number given to a transaction. A sequence, for what it was set to no rollback takes back, and everybody
-- sees it at once; the name's row could not be written without being locked for as long as the transaction lasts.
CREATE SEQUENCE IF NOT EXISTS given;

-- The advisory lock of a name. Two that share one, or a stranger's with the same number, only wait for each other.
CREATE OR REPLACE FUNCTION name_lock(p_name text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT hashtextextended(current_schema() || '.' || p_name, 0)
$$;

-- Whether no transaction holds a name, and none comes to until this step is committed. Every grant asks.
CREATE OR REPLACE FUNCTION is_open(p_name text) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT pg_try_advisory_xact_lock_shared(name_lock(p_name))
$$;

-- The number for a transaction that has the advisory lock of a name; NULL if claims stand in its queue.
--
-- What is locked here is let go at the end of the inner block, which is always undone; the sequence keeps its value. A
-- session is found over under its row's lock, so not in mid-heartbeat, but that is not latched: whoever passes over the
-- claim later does so. Only a clock set forward and back between two heartbeats could bring it back to life.
CREATE OR REPLACE FUNCTION draw(p_name text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    g genesis;
    c placed;
    at bigint;
    counter bigint;
    drawn bigint;
    is_free boolean := true;
BEGIN
    BEGIN
        -- An enqueue that has drawn its number and not committed yet is waited for: its claim is in front of us.
        counter := lock_name(p_name);
        at := now_us();
        FOR c IN SELECT * FROM placed WHERE name = p_name ORDER BY number LOOP
            is_free := is_over(c, at);
            EXIT WHEN NOT is_free;
        END LOOP;
        IF is_free THEN
            -- One transaction at a time sets the sequence, or a smaller number could be set after a larger one.
            SELECT * INTO g FROM genesis FOR UPDATE;
            IF g.started IS DISTINCT FROM pg_postmaster_start_time() THEN
                g.base := greatest(g.base, g.ceiling);
            END IF;
            drawn := greatest(counter + 1, now_us(), g.base + 1, (SELECT last_value FROM given) + 1);
            PERFORM setval('given', drawn);
        END IF;
        RAISE SQLSTATE 'TN003';
    EXCEPTION WHEN SQLSTATE 'TN003' THEN
        RETURN drawn;
    END;
END
$$;

-- The transaction that holds a name, as `inspect` shows a claim: without a number, which only its commit tells, and with
-- the process of its backend. A user whose transactions the owner of the functions may not see is shown without more.
CREATE OR REPLACE FUNCTION held_by(p_name text) RETURNS SETOF json LANGUAGE sql STABLE AS $$
    SELECT json_build_array(0, 0, 1, 0, coalesce(a.application_name, ''), coalesce(host(a.client_addr), ''),
               coalesce(l.pid, 0), 'a transaction; the pid is of its backend',
               (extract(epoch FROM coalesce(a.xact_start, clock_timestamp())) * 1000000)::bigint)
      FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ExclusiveLock' AND l.granted
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (l.classid::bigint << 32) | l.objid::bigint = name_lock(p_name)
     LIMIT 1
$$;

-- The queue of a name, in order, as `inspect` replies it; also with the dead who are not yet passed over.
CREATE OR REPLACE FUNCTION queue_of(p_name text) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT coalesce(json_agg(shown ORDER BY place), '[]') FROM (
        SELECT 0 AS place, held_by(p_name) AS shown
         UNION ALL
        SELECT c.number, json_build_array(
                   c.number, c.kind, c.permits, c."limit",
                   coalesce(s.client, ''), coalesce(s.host, ''), coalesce(s.pid, 0), c.info)
          FROM claims c LEFT JOIN sessions s ON s.id = c.session
         WHERE c.name = p_name) queue
$$;

-- Hold a name until the caller's transaction ends, or is rolled back to a savepoint from before.
--
-- p_wait_us   how long to wait for claims and other transactions that hold it
-- Replies ["holds", number, store], ["busy", the queue], ["isolation", what it is], ["format", in force] or ["exhausted"], in text.
-- After all but the first nothing is held, and the caller's transaction is as it was.
CREATE OR REPLACE FUNCTION hold(p_format integer, p_name text, p_wait_us bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    g genesis;
    before text := current_setting('lock_timeout');
    until_us bigint := now_us() + p_wait_us;
    drawn bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        -- What the caller then reads would be from before the wait.
        RETURN json_build_array('isolation', current_setting('transaction_isolation'));
    END IF;
    SELECT * INTO g FROM genesis;
    IF g.format IS DISTINCT FROM p_format THEN
        RETURN json_build_array('format', g.format);
    END IF;
    LOOP
        -- A look that locks nothing: to take the lock in vain would keep a claim from its grant for a moment.
        PERFORM FROM placed c WHERE c.name = p_name AND ends_us(c) > now_us() LIMIT 1;
        IF NOT FOUND THEN
            BEGIN
                PERFORM set_config('lock_timeout', greatest(1, (until_us - now_us()) / 1000)::text, true);
                PERFORM pg_advisory_xact_lock(name_lock(p_name));
                drawn := draw(p_name);
                IF drawn IS NULL OR drawn > 9007199254740991 THEN
                    RAISE SQLSTATE 'TN004';
                END IF;
                PERFORM set_config('lock_timeout', before, true);
                RETURN json_build_array('holds', drawn, g.id);
            EXCEPTION WHEN lock_not_available OR SQLSTATE 'TN004' THEN
                -- The advisory lock is let go, and the setting is as it was.
                IF drawn > 9007199254740991 THEN
                    RETURN json_build_array('exhausted');
                END IF;
            END;
        END IF;
        IF now_us() >= until_us THEN
            RETURN json_build_array('busy', queue_of(p_name));
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
END
$$;

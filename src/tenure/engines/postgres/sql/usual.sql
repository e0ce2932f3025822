-- Format 1 of the PostgreSQL engine: the usual case of the two steps that make a cycle, in front of the general ones.
--
-- Promises: the rows, replies and messages of the general case. A statement in a function costs as much as many rows,
-- so these have as few as the rules allow: one waits for the name's row, and what is looked at later is from after the
-- wait (C2). What is not usual changes nothing but the number last drawn, and is left to the general case. As with
-- `relax`, what grants nothing does not wait for the disk.

-- Put a claim into its queue, under a session that is open and need not be extended. Usual is an empty queue, or one
-- with an exclusive holder in front who was told, and somebody alive at its end to wait for.
--
-- Replies as `enter`.
CREATE OR REPLACE FUNCTION join_queue(
    p_format integer, p_store text, p_commits text, p_patience_ms integer,
    p_session text, p_claim bigint, p_name text, p_kind smallint,
    p_permits bigint, p_limit bigint, p_delay_us bigint, p_at_once boolean, p_info text
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    drawn bigint;
    base bigint;
    ceiling bigint;
    started timestamptz;
    at bigint;
    is_queued boolean;
    is_settled boolean;
    peer text;
    mailbox text;
    left_us bigint;
    _ text;
BEGIN
    SELECT g.base, g.ceiling, g.started INTO base, ceiling, started FROM genesis g
     WHERE g.format = p_format AND g.id = p_store AND current_setting('transaction_isolation') = 'read committed';
    IF FOUND THEN
        _ := set_config('lock_timeout', p_patience_ms::text, true);
        IF p_commits <> '' THEN
            _ := set_config('synchronous_commit', p_commits, true);
        END IF;
        -- Locks the row and draws. After a wait for somebody who has written the row, this is done again on what was
        -- written. After any other wait the number is from before it, and above all but one that was given to a
        -- transaction meanwhile: that is looked for below (B7).
        UPDATE names SET last = greatest(last + 1, now_us())
         WHERE name = p_name AND greatest(last, now_us()) < 9007199254740991
        RETURNING last INTO drawn;
        at := now_us();
    END IF;
    -- The sequence is asked as the view pg_sequences does: a statement that reads it would cost thrice that.
    IF drawn > greatest(base, pg_sequence_last_value('given')) AND (ceiling = 0 OR started = pg_postmaster_start_time())
        AND (drawn <= ceiling OR current_setting('synchronous_commit') <> 'off')
    THEN
        -- Not locked: should it end meanwhile, this claim ends with it, and its client's own deadline is earlier.
        SELECT EXISTS (SELECT FROM claims WHERE name = p_name) INTO is_queued FROM sessions s
         WHERE s.id = p_session AND NOT s.ended AND s.until_us > at AND p_claim <> ALL (s.tombstones);
    END IF;
    IF NOT is_queued AND is_open(p_name) THEN
        INSERT INTO claims
            VALUES (p_name, drawn, p_session, p_claim, p_kind, p_permits, p_limit, p_delay_us, drawn, 0, p_info);
        RETURN json_build_array('holds', drawn, drawn, NULL, NULL, 0, '[]'::json);
    END IF;
    IF is_queued AND p_kind = 0 THEN
        SELECT kind = 0 AND floor > 0 AND freed_us = 0 AND NOT ended AND until_us > at INTO is_settled
          FROM placed WHERE name = p_name ORDER BY number LIMIT 1;
        SELECT session, address, CASE WHEN freed_us = 0 AND delay_us = 0 AND NOT ended THEN until_us - at END
          INTO peer, mailbox, left_us FROM placed WHERE name = p_name ORDER BY number DESC LIMIT 1;
        IF is_settled AND left_us > 0 THEN
            IF p_at_once THEN
                drawn := 0;
            ELSE
                INSERT INTO claims
                    VALUES (p_name, drawn, p_session, p_claim, p_kind, p_permits, p_limit, p_delay_us, 0, 0, p_info)
                    ON CONFLICT (session, claim) DO NOTHING;
            END IF;
            IF FOUND THEN
                _ := set_config('synchronous_commit', 'off', true);
                RETURN json_build_array(CASE WHEN p_at_once THEN 'busy' ELSE 'waits' END, drawn, 0, NULL, NULL, 0,
                    json_build_array(json_build_array(peer, mailbox, left_us)));
            END IF;
        END IF;
    END IF;
    RETURN enter(
        p_format, p_store, p_commits, p_patience_ms, p_session, false, false, 0, p_claim, p_name, p_kind,
        p_permits, p_limit, p_delay_us, p_at_once, p_info, '', '', '', 0);
END
$$;

-- Remove the claim of a holder, and let in who comes next. Usual is that nobody waits, or that the first who does is
-- exclusive, alive and listening.
--
-- Replies [whether it was there].
CREATE OR REPLACE FUNCTION release(
    p_format integer, p_store text, p_commits text, p_patience_ms integer,
    p_session text, p_name text, p_number bigint
) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    is_followed boolean;
    at bigint;
    _ text;
BEGIN
    IF current_setting('transaction_isolation') = 'read committed' THEN
        _ := set_config('lock_timeout', p_patience_ms::text, true);
        IF p_commits <> '' THEN
            _ := set_config('synchronous_commit', p_commits, true);
        END IF;
        PERFORM FROM genesis g, names n
          WHERE g.format = p_format AND g.id = p_store AND n.name = p_name FOR UPDATE OF n;
    END IF;
    IF NOT FOUND THEN
        PERFORM begin_step(p_format, p_store, p_commits, p_patience_ms);
        RETURN '[false]'::json;
    END IF;
    -- Nothing about the claim can matter any more, so it is not even read.
    DELETE FROM claims c WHERE c.name = p_name AND c.number = p_number AND c.session = p_session
        RETURNING EXISTS (SELECT FROM claims o WHERE o.name = p_name AND o.number <> p_number) INTO is_followed;
    IF is_followed THEN
        at := now_us();
        UPDATE claims c SET floor = c.number
          FROM sessions s
         WHERE c.name = p_name
           AND c.number = (SELECT o.number FROM claims o WHERE o.name = p_name ORDER BY o.number LIMIT 1)
           AND c.kind = 0 AND c.floor = 0 AND c.freed_us = 0
           AND s.id = c.session AND NOT s.ended AND s.until_us > at
           AND s.address <> '' AND NOT starts_with(s.address, 'poll_') AND is_open(p_name)
        RETURNING pg_notify(s.address, concat_ws(' ', '1', c.session, c.claim, c.number, c.floor)) INTO _;
        IF NOT FOUND THEN
            PERFORM settle(p_name, at, p_number, '');
            PERFORM relax();
        END IF;
    ELSE
        _ := set_config('synchronous_commit', 'off', true);
    END IF;
    RETURN json_build_array(is_followed IS NOT NULL);
END
$$;


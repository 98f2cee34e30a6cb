-- From 0.3.0 to 0.3.1: afterwards every object is as a fresh install makes it.
-- No table is read, and none is locked for longer than it takes to replace two views.

-- A CHECK runs as whoever writes the row, whom a DBA may have granted the table alone.
--
-- In an extension's script PostgreSQL takes all that a function's ACL has for the extension's own, and pg_dump would
-- leave out what the application has granted. So pg_init_privs is set to what it was before, and EXECUTE for PUBLIC.
DO $$
DECLARE
    function CONSTANT pg_catalog.regprocedure := 'magic_link.normalize_email(text)';
    privileges pg_catalog.aclitem[];
BEGIN
    SELECT i.initprivs OPERATOR(pg_catalog.||) pg_catalog.makeaclitem(0, p.proowner, 'EXECUTE', false)
      INTO STRICT privileges
      FROM pg_catalog.pg_init_privs AS i JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) i.objoid
     WHERE i.objoid OPERATOR(pg_catalog.=) function AND i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass;
    GRANT EXECUTE ON FUNCTION magic_link.normalize_email(text) TO PUBLIC;
    UPDATE pg_catalog.pg_init_privs AS i
       SET initprivs = privileges
     WHERE i.objoid OPERATOR(pg_catalog.=) function AND i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass;
    -- Since PostgreSQL 17 it also notes who is in there (deptype i), and would let none of them be dropped.
    DELETE FROM pg_catalog.pg_shdepend AS d
     WHERE d.dbid OPERATOR(pg_catalog.=) (
               SELECT b.oid FROM pg_catalog.pg_database AS b WHERE b.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
       AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
       AND d.objid OPERATOR(pg_catalog.=) function AND d.deptype OPERATOR(pg_catalog.=) 'i'
       AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(privileges) AS a
                        WHERE d.refobjid OPERATOR(pg_catalog.=) ANY (ARRAY[a.grantee, a.grantor]));
END
$$;

COMMENT ON FUNCTION magic_link.normalize_email(text) IS
'The address in the one form that is stored and compared, byte by byte: no surrounding blanks, the domain in lower-case ASCII (IDNA), ASCII letters of the local part in lower case and nothing else changed; at most 254 bytes. Constraints of users and organization_jit_email_domains call it as whoever writes there, so that anybody may execute it.
Errors: 22004 for NULL; 22023 for what is no address, or has a quoted local part.
Sources: RFC 5321 (4.5.3.1), RFC 6531, UTS 46.';

COMMENT ON FUNCTION magic_link.create_one_time_tokens(text[], integer, jsonb) IS
'Issues a token for each address, all or none, and answers the row of create_one_time_token for each, in order.
NULL: expires_in and context mean what they mean there.
Errors: as there, and 22004 for a NULL address; 53200 where magic_link.revoke_previous or magic_link.max_active_tokens asks for each address to be locked and PostgreSQL''s lock table has no place for so many; 22023 for an array that is empty, has more than one dimension or more than 50,000 addresses, and for an address that is there twice. What is wrong with one address names its place, such as emails[2], counted from 1.';

COMMENT ON FUNCTION magic_link.purge_one_time_tokens(interval, integer) IS
'Deletes the tokens that ended (were consumed or revoked, or expired) longer than retention ago, and answers how many they were. It goes through the ledger by its primary key, oldest first, batch_size rows at a time, as far as a token may be old enough, and through what was issued while the clock was ahead; a row that is locked is left for the next time.
Errors: 22004 for NULL; 22023 for a negative retention, or a batch_size below 1; 22008 for a retention that leads out of the calendar; 25006 in a read-only transaction.';

CREATE OR REPLACE VIEW magic_link.session_switch AS
WITH session (email, prompt, replayed_since) AS MATERIALIZED (
    SELECT CASE WHEN pg_catalog.btrim(setting.email, E' \t\n\f\r') OPERATOR(pg_catalog.<>) ''
                THEN magic_link.normalize_email(setting.email) END,
           NULLIF(setting.prompt, ''),
           -- In seconds: PostgreSQL shows 86,400 of them as 1d, and a day of the calendar can have an hour more or less.
           pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(
               secs => EXTRACT(epoch FROM setting.replay_window::pg_catalog.interval)::pg_catalog.float8)
      FROM (SELECT pg_catalog.current_setting('magic_link.session_email', true),
                   pg_catalog.current_setting('magic_link.prompt', true),
                   pg_catalog.current_setting('magic_link.replay_window', true)) AS setting (email, prompt, replay_window)
)
SELECT t.token_id, t.token_email, t.status, t.interaction_event, t.session_email, t.prompt, d.decision,
       CASE d.decision WHEN 'refuse' THEN t.outcome END AS reason
  FROM (SELECT s.id AS token_id, s.email AS token_email, s.status, s.interaction_event,
               session.email AS session_email, session.prompt,
               CASE
                   WHEN s.status OPERATOR(pg_catalog.=) 'consumed' AND s.memberships IS NOT NULL
                        AND s.consumed_at OPERATOR(pg_catalog.>) session.replayed_since
                        AND s.consumed_by OPERATOR(pg_catalog.=) u.id::pg_catalog.text
                       THEN 'ok'
                   WHEN s.status OPERATOR(pg_catalog.<>) 'active' THEN pg_catalog.concat('token_', s.status)
                   WHEN u.id IS NULL AND s.interaction_event OPERATOR(pg_catalog.=) ANY ('{SignIn,ForgotPassword}')
                       THEN 'user_not_found'
                   ELSE 'ok'
               END AS outcome
          FROM magic_link.one_time_token_status AS s
         CROSS JOIN session
          LEFT JOIN magic_link.users AS u ON u.email OPERATOR(pg_catalog.=) s.email) AS t
 CROSS JOIN LATERAL (
       SELECT CASE
                  WHEN t.status OPERATOR(pg_catalog.=) 'consumed'
                       AND t.session_email OPERATOR(pg_catalog.=) t.token_email THEN 'continue'
                  WHEN t.outcome OPERATOR(pg_catalog.<>) 'ok' THEN 'refuse'
                  WHEN t.session_email IS NULL THEN 'redeem'
                  WHEN t.session_email OPERATOR(pg_catalog.=) t.token_email THEN 'redeem'
                  WHEN 'login' OPERATOR(pg_catalog.=) ANY (pg_catalog.string_to_array(t.prompt, ' ')) THEN 'switch'
                  ELSE 'ask'
              END) AS d (decision);

CREATE OR REPLACE VIEW magic_link.one_time_token_activity AS
SELECT h.hour, t.issued, t.redeemed, t.refused_attempts, t.revoked, t.expired_unused, t.median_seconds
  FROM (SELECT s.hour,
               s.hour OPERATOR(pg_catalog.+) '1 hour'::pg_catalog.interval AS next_hour
          FROM pg_catalog.generate_series(
                   pg_catalog.date_trunc('hour', pg_catalog.now())
                       OPERATOR(pg_catalog.-) '47 hours'::pg_catalog.interval,
                   pg_catalog.now(),
                   '1 hour'::pg_catalog.interval) AS s (hour)) AS h
 CROSS JOIN LATERAL (
       SELECT pg_catalog.count(*) AS issued,
              pg_catalog.count(o.consumed_at) AS redeemed,
              COALESCE(pg_catalog.sum(o.failed_attempts), 0) AS refused_attempts,
              pg_catalog.count(o.revoked_at) AS revoked,
              pg_catalog.count(*) FILTER (
                  WHERE o.consumed_at IS NULL AND o.revoked_at IS NULL
                    AND o.expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()) AS expired_unused,
              EXTRACT(epoch FROM pg_catalog.percentile_cont(0.5) WITHIN GROUP (
                  ORDER BY o.consumed_at OPERATOR(pg_catalog.-) o.created_at)
                  FILTER (WHERE pg_catalog.isfinite(o.consumed_at) AND pg_catalog.isfinite(o.created_at))
              )::pg_catalog.float8 AS median_seconds
         FROM magic_link.one_time_tokens AS o
        WHERE o.id OPERATOR(pg_catalog.>=) pg_catalog.rpad(pg_catalog.lpad(pg_catalog.to_hex(
                  (EXTRACT(epoch FROM h.hour) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8), 12, '0'), 32, '0')::pg_catalog.uuid
          AND o.id OPERATOR(pg_catalog.<) pg_catalog.rpad(pg_catalog.lpad(pg_catalog.to_hex(
                  (EXTRACT(epoch FROM h.next_hour) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8), 12, '0'), 32, '0')::pg_catalog.uuid) AS t;

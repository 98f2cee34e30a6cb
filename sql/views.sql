-- A status is computed when it is read, and by the clock on the wall, so it is never stale.

CREATE VIEW magic_link.one_time_token_status AS
SELECT t.id, t.email, t.organization_ids, t.interaction_event, t.context,
       t.created_at, t.expires_at, t.consumed_at, t.consumed_by, t.revoked_at, t.revoked_by,
       CASE
           WHEN t.consumed_at IS NOT NULL THEN 'consumed'
           WHEN t.revoked_at IS NOT NULL THEN 'revoked'
           WHEN t.expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp() THEN 'expired'
           ELSE 'active'
       END AS status,
       t.failed_attempts, t.user_created, t.memberships
  FROM magic_link.one_time_tokens AS t;

COMMENT ON VIEW magic_link.one_time_token_status IS
'The ledger for people: every column but the hash, and the status.';
COMMENT ON COLUMN magic_link.one_time_token_status.id IS 'The token''s id.';
COMMENT ON COLUMN magic_link.one_time_token_status.email IS 'The address that the token was issued for.';
COMMENT ON COLUMN magic_link.one_time_token_status.organization_ids IS 'The organizations to join, in order of id.';
COMMENT ON COLUMN magic_link.one_time_token_status.interaction_event IS 'The event that a caller has to name, if any.';
COMMENT ON COLUMN magic_link.one_time_token_status.context IS 'What travels with the token, whole.';
COMMENT ON COLUMN magic_link.one_time_token_status.created_at IS 'When the token was issued.';
COMMENT ON COLUMN magic_link.one_time_token_status.expires_at IS 'The moment from which the token is refused.';
COMMENT ON COLUMN magic_link.one_time_token_status.consumed_at IS 'When the token was redeemed; NULL if it was not.';
COMMENT ON COLUMN magic_link.one_time_token_status.consumed_by IS 'The id of the user who redeemed the token.';
COMMENT ON COLUMN magic_link.one_time_token_status.revoked_at IS 'When the token was revoked; NULL if it was not.';
COMMENT ON COLUMN magic_link.one_time_token_status.revoked_by IS 'The role that revoked the token, or the setting that did: magic_link.revoke_previous or magic_link.max_failed_attempts.';
COMMENT ON COLUMN magic_link.one_time_token_status.status IS 'active, consumed, revoked or expired, at the moment of reading.';
COMMENT ON COLUMN magic_link.one_time_token_status.failed_attempts IS 'How often try_redeem_one_time_token was called with another address while the token was active.';
COMMENT ON COLUMN magic_link.one_time_token_status.user_created IS 'Whether redeeming the token created the user; kept for magic_link.replay_window, NULL without it.';
COMMENT ON COLUMN magic_link.one_time_token_status.memberships IS 'The memberships that redeeming the token answered; kept for magic_link.replay_window, NULL without it.';

-- The settings are read, and the address normalised, once for a query and not for each row. What
-- redeeming would answer again is redeemable, too.

CREATE VIEW magic_link.session_switch AS
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

COMMENT ON VIEW magic_link.session_switch IS
'One row for each token: what to do when its link is opened in a browser that is signed in as magic_link.session_email, with magic_link.prompt. redeem: nobody is signed in, or the token''s address is; continue: the token''s address is signed in and has redeemed the token, nothing is left to do; ask: another address is signed in, let the person choose before anything is redeemed; switch: the same, but prompt has the word login, so redeem and replace the session; refuse: see reason.
A session_email that is no address is an error (22023).';
COMMENT ON COLUMN magic_link.session_switch.token_id IS 'The token''s id, as magic_link.one_time_token_id answers it.';
COMMENT ON COLUMN magic_link.session_switch.token_email IS 'The address that the token was issued for.';
COMMENT ON COLUMN magic_link.session_switch.status IS 'active, consumed, revoked or expired, at the moment of reading.';
COMMENT ON COLUMN magic_link.session_switch.interaction_event IS 'The event that a caller has to name, if any.';
COMMENT ON COLUMN magic_link.session_switch.session_email IS 'The setting magic_link.session_email in normal form; NULL where nobody is signed in.';
COMMENT ON COLUMN magic_link.session_switch.prompt IS 'The setting magic_link.prompt; NULL where it is empty.';
COMMENT ON COLUMN magic_link.session_switch.decision IS 'redeem, continue, ask, switch or refuse.';
COMMENT ON COLUMN magic_link.session_switch.reason IS 'The outcome that stands against the token where the decision is refuse, NULL elsewhere.';

-- An hour's tokens lie side by side in the primary key, since an id begins with the milliseconds of
-- the issue: so an hour costs its own rows, and a condition on the hour is applied before any is read.

CREATE VIEW magic_link.one_time_token_activity AS
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

COMMENT ON VIEW magic_link.one_time_token_activity IS
'What became of the tokens that were issued in each of the last 48 hours, the one that runs included; an hour without tokens has a row too. Reading an hour costs the rows of that hour: ask for the hours you need.';
COMMENT ON COLUMN magic_link.one_time_token_activity.hour IS 'The beginning of the hour in which the tokens were issued.';
COMMENT ON COLUMN magic_link.one_time_token_activity.issued IS 'How many tokens were issued, without those deleted since.';
COMMENT ON COLUMN magic_link.one_time_token_activity.redeemed IS 'How many of them were redeemed.';
COMMENT ON COLUMN magic_link.one_time_token_activity.refused_attempts IS 'How often try_redeem_one_time_token was called for them with another address while they were active.';
COMMENT ON COLUMN magic_link.one_time_token_activity.revoked IS 'How many of them were revoked.';
COMMENT ON COLUMN magic_link.one_time_token_activity.expired_unused IS 'How many of them expired without having been redeemed or revoked.';
COMMENT ON COLUMN magic_link.one_time_token_activity.median_seconds IS 'The median of the seconds from issue to redemption; NULL where none was redeemed.';

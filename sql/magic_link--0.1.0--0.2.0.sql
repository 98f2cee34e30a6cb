-- From 0.1.0 to 0.2.0: afterwards every object is as a fresh install makes it.
-- The index is built under a lock that new tokens and redemptions wait for.

ALTER TABLE magic_link.one_time_tokens
    ADD COLUMN failed_attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN user_created boolean,
    ADD COLUMN memberships jsonb,
    ADD CONSTRAINT one_time_tokens_failed_attempts CHECK (failed_attempts OPERATOR(pg_catalog.>=) 0),
    ADD CONSTRAINT one_time_tokens_answer
        CHECK ((user_created IS NULL) OPERATOR(pg_catalog.=) (memberships IS NULL)
               AND (memberships IS NULL OR consumed_at IS NOT NULL));

CREATE INDEX one_time_tokens_email_expires_at_idx
    ON magic_link.one_time_tokens (email, expires_at);
COMMENT ON COLUMN magic_link.one_time_tokens.revoked_by IS 'The role that revoked the token, or the setting that did: magic_link.revoke_previous or magic_link.max_failed_attempts.';
COMMENT ON COLUMN magic_link.one_time_tokens.failed_attempts IS 'How often try_redeem_one_time_token was called with another address while the token was active.';
COMMENT ON COLUMN magic_link.one_time_tokens.user_created IS 'Whether redeeming the token created the user; kept for magic_link.replay_window, NULL without it.';
COMMENT ON COLUMN magic_link.one_time_tokens.memberships IS 'The memberships that redeeming the token answered; kept for magic_link.replay_window, NULL without it.';

CREATE TABLE magic_link.organization_jit_email_domains (
    organization_id text COLLATE pg_catalog."C",
    email_domain text COLLATE pg_catalog."C",
    CONSTRAINT organization_jit_email_domains_pkey PRIMARY KEY (organization_id, email_domain),
    CONSTRAINT organization_jit_email_domains_organization_id_fkey
        FOREIGN KEY (organization_id) REFERENCES magic_link.organizations (id) ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT organization_jit_email_domains_email_domain_normalized
        CHECK (pg_catalog.concat('a@', email_domain)
               OPERATOR(pg_catalog.=) magic_link.normalize_email(pg_catalog.concat('a@', email_domain)))
);

CREATE INDEX organization_jit_email_domains_email_domain_idx
    ON magic_link.organization_jit_email_domains (email_domain);

COMMENT ON TABLE magic_link.organization_jit_email_domains IS
'The e-mail domains of an organization: a user whom redeeming creates with such an address joins it, with its default roles.';
COMMENT ON COLUMN magic_link.organization_jit_email_domains.organization_id IS 'The organization.';
COMMENT ON COLUMN magic_link.organization_jit_email_domains.email_domain IS 'What follows the @, in lower-case ASCII (IDNA) and with no part left out: a subdomain is another domain.';

SELECT pg_catalog.pg_extension_config_dump('magic_link.organization_jit_email_domains', '');

CREATE OR REPLACE VIEW magic_link.one_time_token_status AS
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
COMMENT ON COLUMN magic_link.one_time_token_status.revoked_by IS 'The role that revoked the token, or the setting that did: magic_link.revoke_previous or magic_link.max_failed_attempts.';
COMMENT ON COLUMN magic_link.one_time_token_status.failed_attempts IS 'How often try_redeem_one_time_token was called with another address while the token was active.';
COMMENT ON COLUMN magic_link.one_time_token_status.user_created IS 'Whether redeeming the token created the user; kept for magic_link.replay_window, NULL without it.';
COMMENT ON COLUMN magic_link.one_time_token_status.memberships IS 'The memberships that redeeming the token answered; kept for magic_link.replay_window, NULL without it.';

CREATE OR REPLACE VIEW magic_link.session_switch AS
WITH session (email, prompt, replayed_since) AS MATERIALIZED (
    SELECT CASE WHEN pg_catalog.btrim(setting.email, E' \t\n\f\r') OPERATOR(pg_catalog.<>) ''
                THEN magic_link.normalize_email(setting.email) END,
           NULLIF(setting.prompt, ''),
           pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) setting.replay_window::pg_catalog.interval
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
                  ORDER BY o.consumed_at OPERATOR(pg_catalog.-) o.created_at))::pg_catalog.float8 AS median_seconds
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

COMMENT ON FUNCTION magic_link.create_one_time_token(text, integer, jsonb) IS
'Issues a token for an address, which need not be known, and answers one row. The token is shown here and never again; mail the link to the email of the row, not to what was typed. Call it in FROM: (f(…)).* would issue a token for each column.
expires_in: seconds, from 1 to magic_link.max_expires_in.
context: an object of at most 16 KiB, handed back on redemption; jitOrganizationIds (array of at most 100 organization ids to join), organizationRoleIds (object: organization id to array of role ids, in place of its default roles, for organizations of the first key) and interactionEvent (a word: only a caller that names it can redeem the token) are checked.
With magic_link.revoke_previous the active tokens of the same address and event are revoked.
NULL: expires_in means 600, or magic_link.max_expires_in where that is less; context means {}.
Errors: 22004 for a NULL email; 22023 for an invalid address, lifetime or context; 23503 for an unknown organization or role; 25006 in a read-only transaction; OT008 where the address has magic_link.max_active_tokens active tokens, with a HINT that says when to try again.';

CREATE FUNCTION magic_link.create_one_time_tokens(
    emails text[],
    expires_in integer DEFAULT 600,
    context jsonb DEFAULT '{}',
    OUT id uuid,
    OUT token text,
    OUT email text,
    OUT context jsonb,
    OUT status text,
    OUT created_at timestamptz,
    OUT expires_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path TO pg_catalog, pg_temp
SET work_mem TO '1GB'
AS 'MODULE_PATHNAME', 'magic_link_create_one_time_tokens';

COMMENT ON FUNCTION magic_link.create_one_time_tokens(text[], integer, jsonb) IS
'Issues a token for each address, all or none, and answers the row of create_one_time_token for each, in order.
NULL: expires_in and context mean what they mean there.
Errors: as there, and 22004 for a NULL address; 22023 for an array that is empty, has more than one dimension or more than 50,000 addresses, and for an address that is there twice. What is wrong with one address names its place, such as emails[2], counted from 1.';

CREATE OR REPLACE FUNCTION magic_link.redeem_one_time_token(
    token text,
    email text,
    interaction_event text DEFAULT NULL,
    OUT token_id uuid,
    OUT user_id text,
    OUT user_created boolean,
    OUT email text,
    OUT context jsonb,
    OUT memberships jsonb,
    OUT redeemed_at timestamptz,
    OUT replayed boolean)
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path TO pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'magic_link_redeem_one_time_token_0_2';

COMMENT ON FUNCTION magic_link.redeem_one_time_token(text, text, text) IS
'Verifies and consumes a token, finds or creates the user and joins the organizations named at issue, all or nothing, and answers one row: call it in FROM. A user whom it creates also joins the organizations of the address''s domain (organization_jit_email_domains). memberships is an array of {"organizationId", "status": "added" | "already_member" | "organization_missing", "roleIds": all roles that the member holds there now}.
For magic_link.replay_window seconds whoever could have redeemed the token gets the first answer again, with replayed true and nothing written, while the user is there.
interaction_event: the event that the token was created with; SignIn and ForgotPassword never create a user.
NULL: interaction_event means none.
Errors: OT001 not found, OT002 another address, OT003 consumed, OT004 revoked, OT005 expired, OT006 another interaction event, OT007 no such user; 22004 for another NULL; 22023 for an invalid address or event; 25006 in a read-only transaction. After an error the token is as it was, and an error of a trigger arrives as it was raised.';

CREATE OR REPLACE FUNCTION magic_link.try_redeem_one_time_token(
    token text,
    email text,
    interaction_event text DEFAULT NULL,
    OUT outcome text,
    OUT token_id uuid,
    OUT user_id text,
    OUT user_created boolean,
    OUT email text,
    OUT context jsonb,
    OUT memberships jsonb,
    OUT redeemed_at timestamptz,
    OUT replayed boolean)
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path TO pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'magic_link_try_redeem_one_time_token_0_2';

COMMENT ON FUNCTION magic_link.try_redeem_one_time_token(text, text, text) IS
'Like redeem_one_time_token (call it in FROM), but a refused token is a row and not an error, so that the transaction lives on: outcome is ok, token_not_found, email_mismatch, token_consumed, token_revoked, token_expired, interaction_event_mismatch or user_not_found, and all else is NULL unless it is ok. With another address an active token''s failed_attempts go up by one; at magic_link.max_failed_attempts it is revoked.
NULL: interaction_event means none.
Errors: 22004 for another NULL; 22023 for an invalid address or event; 25006 in a read-only transaction.';

CREATE OR REPLACE FUNCTION magic_link.check_one_time_token(
    token text,
    email text,
    interaction_event text DEFAULT NULL,
    OUT outcome text)
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path TO pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'magic_link_check_one_time_token_0_2';

COMMENT ON FUNCTION magic_link.check_one_time_token(text, text, text) IS
'What redeeming would say: ok, also where it would answer again (magic_link.replay_window), or the outcome of try_redeem_one_time_token. It writes nothing, in a read-only transaction and on a hot standby too: what a GET request may call, since mail scanners open links.
NULL: interaction_event means none.
Errors: 22004 for another NULL; 22023 for an invalid address or event.';

CREATE FUNCTION magic_link.revoke_one_time_token(id uuid)
RETURNS text
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path TO pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'magic_link_revoke_one_time_token';

COMMENT ON FUNCTION magic_link.revoke_one_time_token(uuid) IS
'Revokes a token if it is active, and answers its status afterwards: revoked, consumed or expired. Nothing makes a token active again. A redemption that is under way is waited for.
Errors: 22004 for NULL; 02000 for an unknown id; 25006 in a read-only transaction.';

CREATE FUNCTION magic_link.revoke_one_time_tokens(
    email text,
    interaction_event text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path TO pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'magic_link_revoke_one_time_tokens';

COMMENT ON FUNCTION magic_link.revoke_one_time_tokens(text, text) IS
'Revokes the active tokens of an address, and answers how many they were.
NULL: interaction_event means whatever event they are for, or none.
Errors: 22004 for a NULL email; 22023 for an invalid address or event; 25006 in a read-only transaction.';

CREATE FUNCTION magic_link.delete_one_time_token(id uuid)
RETURNS boolean
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path TO pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'magic_link_delete_one_time_token';

COMMENT ON FUNCTION magic_link.delete_one_time_token(uuid) IS
'Deletes a token''s row, whatever its status, and answers whether there was one.
Errors: 22004 for NULL; 25006 in a read-only transaction.';

CREATE FUNCTION magic_link.purge_one_time_tokens(
    retention interval DEFAULT '30 days',
    batch_size integer DEFAULT 10000)
RETURNS bigint
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path TO pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'magic_link_purge_one_time_tokens';

COMMENT ON FUNCTION magic_link.purge_one_time_tokens(interval, integer) IS
'Deletes the tokens that ended (were consumed or revoked, or expired) longer than retention ago, and answers how many they were. It goes through the ledger by its primary key, oldest first, batch_size rows at a time, as far as a token may be old enough; a row that is locked is left for the next time.
Errors: 22004 for NULL; 22023 for a negative retention, or a batch_size below 1; 22008 for a retention that leads out of the calendar; 25006 in a read-only transaction.';

CREATE FUNCTION magic_link.change_privileges(role regrole, kind text, command text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path TO pg_catalog, pg_temp
AS $$
DECLARE
    functions CONSTANT regprocedure[] := CASE kind
        WHEN 'backend' THEN ARRAY['magic_link.create_one_time_token(text, integer, jsonb)',
                                  'magic_link.create_one_time_tokens(text[], integer, jsonb)',
                                  'magic_link.redeem_one_time_token(text, text, text)',
                                  'magic_link.try_redeem_one_time_token(text, text, text)',
                                  'magic_link.check_one_time_token(text, text, text)',
                                  'magic_link.session_switch_decision(text, text, text, text)',
                                  'magic_link.compose_magic_link(text, text, text, jsonb, text, text)',
                                  'magic_link.normalize_email(text)',
                                  'magic_link.one_time_token_id(text)']
        WHEN 'admin'   THEN ARRAY['magic_link.revoke_one_time_token(uuid)',
                                  'magic_link.revoke_one_time_tokens(text, text)',
                                  'magic_link.delete_one_time_token(uuid)',
                                  'magic_link.purge_one_time_tokens(interval, integer)']
        END;
    views CONSTANT regclass[] := CASE kind
        WHEN 'backend' THEN ARRAY['magic_link.session_switch']
        WHEN 'admin'   THEN ARRAY['magic_link.one_time_token_status', 'magic_link.one_time_token_activity']
        END;
    held oid[];
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'role must not be null';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = role) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('role %s does not exist', role);
    END IF;
    -- As text these are quoted and qualified.
    EXECUTE format(command, 'EXECUTE ON FUNCTION ' || array_to_string(functions, ', '), role);
    EXECUTE format(command, 'SELECT ON ' || array_to_string(views, ', '), role);
    -- All on which the role has a right of its own, whoever gave it.
    held := ARRAY(
        SELECT p.oid FROM pg_proc AS p, aclexplode(p.proacl) AS a
         WHERE p.pronamespace = 'magic_link'::regnamespace AND a.grantee = role
        UNION ALL
        SELECT c.oid FROM pg_class AS c, aclexplode(c.relacl) AS a
         WHERE c.relnamespace = 'magic_link'::regnamespace AND a.grantee = role
        UNION ALL
        SELECT c.oid FROM pg_class AS c JOIN pg_attribute AS t ON t.attrelid = c.oid, aclexplode(t.attacl) AS a
         WHERE c.relnamespace = 'magic_link'::regnamespace AND a.grantee = role);
    -- The way into the schema is closed behind the last of them.
    IF command LIKE 'GRANT %' OR held = '{}' THEN
        EXECUTE format(command, 'USAGE ON SCHEMA magic_link', role);
    END IF;
    -- PostgreSQL only warns whoever may grant a part of it, or revoke none.
    IF command LIKE 'GRANT %' AND NOT (
        has_schema_privilege(role, 'magic_link', 'USAGE')
        AND (SELECT bool_and(has_function_privilege(role, f, 'EXECUTE')) FROM unnest(functions) AS f)
        AND (SELECT bool_and(has_table_privilege(role, v, 'SELECT')) FROM unnest(views) AS v))
    THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied to grant role %s all that it needs', role);
    END IF;
    IF command LIKE 'REVOKE %' AND (
        held && (functions::oid[] || views::oid[])
        OR held = '{}' AND EXISTS (SELECT FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
                                    WHERE n.nspname = 'magic_link' AND a.grantee = role))
    THEN
        RAISE WARNING USING ERRCODE = '01006',
            MESSAGE = format('role %s keeps privileges that another role has granted', role),
            HINT = 'See the access privileges in \df+ magic_link.*, \dp magic_link.* and \dn+ magic_link, and revoke them as that role.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION magic_link.grant_backend(role regrole)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path TO pg_catalog, pg_temp
AS $$ BEGIN PERFORM magic_link.change_privileges(role, 'backend', 'GRANT %s TO %s'); END $$;

CREATE FUNCTION magic_link.revoke_backend(role regrole)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path TO pg_catalog, pg_temp
AS $$ BEGIN PERFORM magic_link.change_privileges(role, 'backend', 'REVOKE %s FROM %s'); END $$;

CREATE FUNCTION magic_link.grant_admin(role regrole)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path TO pg_catalog, pg_temp
AS $$ BEGIN PERFORM magic_link.change_privileges(role, 'admin', 'GRANT %s TO %s'); END $$;

CREATE FUNCTION magic_link.revoke_admin(role regrole)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path TO pg_catalog, pg_temp
AS $$ BEGIN PERFORM magic_link.change_privileges(role, 'admin', 'REVOKE %s FROM %s'); END $$;

COMMENT ON FUNCTION magic_link.change_privileges(regrole, text, text) IS
'Not to be called: what grant_backend, revoke_backend, grant_admin and revoke_admin have in common. A role that may execute one of them needs EXECUTE on this, too.';

COMMENT ON FUNCTION magic_link.grant_backend(regrole) IS
'Grants a role what a backend needs and no more: USAGE on the schema, EXECUTE on the functions for a backend, SELECT on the view session_switch. It can be called again; after an update of the extension, call it for what is new.
Errors: 22004 for NULL; 42704 for a role that does not exist; 42501 for a caller who may not grant.';

COMMENT ON FUNCTION magic_link.revoke_backend(regrole) IS
'Takes back what grant_backend grants; USAGE on the schema goes with the last right that the role has there. It can be called again. What another role has granted stays, with a warning, 01006.
Errors: as grant_backend, and 2BP01 where the role has passed on what it was granted.';

COMMENT ON FUNCTION magic_link.grant_admin(regrole) IS
'Grants a role what a DBA needs who is no superuser, and no more: USAGE on the schema, EXECUTE on the functions that revoke, delete and purge, SELECT on the views one_time_token_status and one_time_token_activity. It can be called again; after an update of the extension, call it for what is new.
Errors: as grant_backend.';

COMMENT ON FUNCTION magic_link.revoke_admin(regrole) IS
'Takes back what grant_admin grants, as revoke_backend does.
Errors: as revoke_backend.';

-- As in a fresh install. What somebody granted to PUBLIC since, on what was there, stays.
REVOKE ALL ON FUNCTION
    magic_link.create_one_time_tokens(text[], integer, jsonb),
    magic_link.revoke_one_time_token(uuid), magic_link.revoke_one_time_tokens(text, text),
    magic_link.delete_one_time_token(uuid), magic_link.purge_one_time_tokens(interval, integer),
    magic_link.change_privileges(regrole, text, text), magic_link.revoke_backend(regrole),
    magic_link.grant_admin(regrole), magic_link.revoke_admin(regrole) FROM PUBLIC;
REVOKE ALL ON magic_link.organization_jit_email_domains, magic_link.one_time_token_activity FROM PUBLIC;

-- The functions for a backend, then those for a DBA. What writes or reads a table runs as its owner,
-- with the search_path pinned; NULL reaches each of them (none is STRICT), so that it is refused aloud.
-- Where a release needs tables that the one before had not, its C function has a name of its own: the
-- library serves the declarations of both until ALTER EXTENSION UPDATE.

CREATE FUNCTION magic_link.normalize_email(email text)
RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'magic_link_normalize_email';

COMMENT ON FUNCTION magic_link.normalize_email(text) IS
'The address in the one form that is stored and compared, byte by byte: no surrounding blanks, the domain in lower-case ASCII (IDNA), ASCII letters of the local part in lower case and nothing else changed; at most 254 bytes. Constraints of users and organization_jit_email_domains call it as whoever writes there, so that anybody may execute it.
Errors: 22004 for NULL; 22023 for what is no address, or has a quoted local part.
Sources: RFC 5321 (4.5.3.1), RFC 6531, UTS 46.';

CREATE FUNCTION magic_link.one_time_token_id(token text)
RETURNS uuid
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'magic_link_one_time_token_id';

COMMENT ON FUNCTION magic_link.one_time_token_id(text) IS
'The id of a token, whether or not it was ever issued: a UUIDv7 (RFC 9562) of the time it carries and the first bits of its SHA-256.
Errors: 22004 for NULL; 22023 for what has not a token''s shape.';

CREATE FUNCTION magic_link.compose_magic_link(
    base_url text,
    token text,
    email text,
    params jsonb DEFAULT '{}',
    token_param text DEFAULT 'token',
    email_param text DEFAULT 'email')
RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'magic_link_compose_magic_link';

COMMENT ON FUNCTION magic_link.compose_magic_link(text, text, text, jsonb, text, text) IS
'The URL to mail: base_url with its query and fragment kept, and params (an object of strings, numbers and booleans), the token and the normalised address added to the query, everything encoded. token_param and email_param name the last two.
NULL: params, token_param and email_param mean their defaults.
Errors: 22004 for another NULL; 22023 for what cannot be part of a URL, or a parameter that is there twice.
Source: URL Standard (application/x-www-form-urlencoded).';

CREATE FUNCTION magic_link.create_one_time_token(
    email text,
    expires_in integer DEFAULT 600,
    context jsonb DEFAULT '{}',
    OUT id uuid,
    OUT token text,
    OUT email text,
    OUT context jsonb,
    OUT status text,
    OUT created_at timestamptz,
    OUT expires_at timestamptz)
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path TO pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'magic_link_create_one_time_token';

COMMENT ON FUNCTION magic_link.create_one_time_token(text, integer, jsonb) IS
'Issues a token for an address, which need not be known, and answers one row. The token is shown here and never again; mail the link to the email of the row, not to what was typed. Call it in FROM: (f(…)).* would issue a token for each column.
expires_in: seconds, from 1 to magic_link.max_expires_in.
context: an object of at most 16 KiB, handed back on redemption; jitOrganizationIds (array of at most 100 organization ids to join), organizationRoleIds (object: organization id to array of role ids, in place of its default roles, for organizations of the first key) and interactionEvent (a word: only a caller that names it can redeem the token) are checked.
With magic_link.revoke_previous the active tokens of the same address and event are revoked.
NULL: expires_in means 600, or magic_link.max_expires_in where that is less; context means {}.
Errors: 22004 for a NULL email; 22023 for an invalid address, lifetime or context; 23503 for an unknown organization or role; 25006 in a read-only transaction; OT008 where the address has magic_link.max_active_tokens active tokens, with a HINT that says when to try again.';

-- A token is never written, nor by a large answer into a temporary file: 50,000 rows with the longest
-- context take less than this.
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
Errors: as there, and 22004 for a NULL address; 53200 where magic_link.revoke_previous or magic_link.max_active_tokens asks for each address to be locked and PostgreSQL''s lock table has no place for so many; 22023 for an array that is empty, has more than one dimension or more than 50,000 addresses, and for an address that is there twice. What is wrong with one address names its place, such as emails[2], counted from 1.';

CREATE FUNCTION magic_link.redeem_one_time_token(
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

CREATE FUNCTION magic_link.try_redeem_one_time_token(
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

CREATE FUNCTION magic_link.check_one_time_token(
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

CREATE FUNCTION magic_link.session_switch_decision(
    token text,
    email text,
    session_email text DEFAULT NULL,
    prompt text DEFAULT NULL,
    OUT decision text,
    OUT reason text)
LANGUAGE c VOLATILE SECURITY DEFINER
SET search_path TO pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'magic_link_session_switch_decision';

COMMENT ON FUNCTION magic_link.session_switch_decision(text, text, text, text) IS
'What to do when the link is opened in a browser that is signed in as session_email: redeem, continue, ask, switch or refuse, as the view session_switch says; reason is the outcome that stands against the token, and NULL unless decision is refuse. It writes nothing.
prompt: the list of words of an OpenID Connect authentication request (Core 1.0, 3.1.2.1); only the exact word login counts.
NULL: session_email and prompt mean the settings magic_link.session_email and magic_link.prompt; an empty text means nobody, and no prompt.
Errors: 22004 for another NULL; 22023 for an invalid address.';

-- The functions for a DBA.

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
'Deletes the tokens that ended (were consumed or revoked, or expired) longer than retention ago, and answers how many they were. It goes through the ledger by its primary key, oldest first, batch_size rows at a time, as far as a token may be old enough, and through what was issued while the clock was ahead; a row that is locked is left for the next time.
Errors: 22004 for NULL; 22023 for a negative retention, or a batch_size below 1; 22008 for a retention that leads out of the calendar; 25006 in a read-only transaction.';

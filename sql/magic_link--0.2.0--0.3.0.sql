-- From 0.2.0 to 0.3.0: afterwards every object is as a fresh install makes it.
-- The ledger is read once under a lock that everything else on it waits for.

CREATE FUNCTION magic_link.one_time_token_is_sound(one_time_token magic_link.one_time_tokens)
RETURNS boolean
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'magic_link_one_time_token_is_sound';

COMMENT ON FUNCTION magic_link.one_time_token_is_sound(magic_link.one_time_tokens) IS
'Whether a row of the ledger is as it can be; the constraint one_time_tokens_sound says what that is. It looks at nothing but the row. PostgreSQL calls it as whoever writes the ledger, so that anybody may execute it.
Errors: 22004 for NULL; 42P13 for a row that lacks a column.';

-- As in a fresh install, whatever default privileges say.
REVOKE ALL ON FUNCTION magic_link.one_time_token_is_sound(magic_link.one_time_tokens) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION magic_link.one_time_token_is_sound(magic_link.one_time_tokens) TO PUBLIC;

ALTER TABLE magic_link.one_time_tokens
    DROP CONSTRAINT one_time_tokens_token_hash_length,
    DROP CONSTRAINT one_time_tokens_lifetime,
    DROP CONSTRAINT one_time_tokens_consumed,
    DROP CONSTRAINT one_time_tokens_consumed_or_revoked,
    DROP CONSTRAINT one_time_tokens_failed_attempts,
    DROP CONSTRAINT one_time_tokens_answer,
    ADD CONSTRAINT one_time_tokens_sound CHECK (magic_link.one_time_token_is_sound(one_time_tokens));

COMMENT ON CONSTRAINT one_time_tokens_sound ON magic_link.one_time_tokens IS
'token_hash has 32 bytes. expires_at is later than created_at. consumed_at and consumed_by are both there or both NULL. consumed_at and revoked_at are not both there. failed_attempts is not negative. user_created and memberships are both there or both NULL, and NULL without consumed_at.';

-- Last, when everything exists. EXECUTE is PUBLIC's by PostgreSQL's default; the rest could be by
-- default privileges of the role that installs.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA magic_link FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA magic_link FROM PUBLIC;
REVOKE ALL ON SCHEMA magic_link FROM PUBLIC;

-- Runs as its caller: only who may grant can.
CREATE FUNCTION magic_link.grant_backend(role regrole)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path TO pg_catalog, pg_temp
AS $$
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'role must not be null';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = role) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('role %s does not exist', role);
    END IF;
    -- As text a regrole is a quoted identifier.
    EXECUTE format('GRANT USAGE ON SCHEMA magic_link TO %s', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION
        magic_link.create_one_time_token(text, integer, jsonb),
        magic_link.redeem_one_time_token(text, text, text),
        magic_link.try_redeem_one_time_token(text, text, text),
        magic_link.check_one_time_token(text, text, text),
        magic_link.session_switch_decision(text, text, text, text),
        magic_link.compose_magic_link(text, text, text, jsonb, text, text),
        magic_link.normalize_email(text),
        magic_link.one_time_token_id(text) TO %s', role);
    EXECUTE format('GRANT SELECT ON magic_link.session_switch TO %s', role);
END
$$;

REVOKE ALL ON FUNCTION magic_link.grant_backend(regrole) FROM PUBLIC;

COMMENT ON FUNCTION magic_link.grant_backend(regrole) IS
'Grants a role what a backend needs and no more: USAGE on the schema, EXECUTE on the functions for a backend, SELECT on the view session_switch. It can be called again.
Errors: 22004 for NULL; 42704 for a role that does not exist; 42501 for a caller who may not grant.';

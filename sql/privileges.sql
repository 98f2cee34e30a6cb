-- Last, when everything exists. EXECUTE is PUBLIC's by PostgreSQL's default; the rest could be by
-- default privileges of the role that installs.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA magic_link FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA magic_link FROM PUBLIC;
REVOKE ALL ON SCHEMA magic_link FROM PUBLIC;

-- A CHECK runs as whoever writes the row, whom a DBA may have granted the table alone. These functions read
-- nothing but their argument. Said aloud, since default privileges may have taken it from PUBLIC.
GRANT EXECUTE ON FUNCTION magic_link.one_time_token_is_sound(magic_link.one_time_tokens) TO PUBLIC;
GRANT EXECUTE ON FUNCTION magic_link.normalize_email(text) TO PUBLIC;

-- What each kind of role needs is written down here alone, for giving and for taking back. All of
-- these run as their caller: only who may grant can.
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

CREATE FUNCTION magic_link.grant_backend(role regrole)
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

REVOKE ALL ON FUNCTION
    magic_link.change_privileges(regrole, text, text),
    magic_link.grant_backend(regrole), magic_link.revoke_backend(regrole),
    magic_link.grant_admin(regrole), magic_link.revoke_admin(regrole) FROM PUBLIC;

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

-- What a careful DBA would write instead of the extension: the same guarded UPDATE, the same locks, the
-- same answers. Two things are left to the extension, in this contestant's favour: the id that a token
-- is looked up by, and the view that decides. An address is brought into a form by lower() alone.

CREATE SCHEMA contestant;

CREATE FUNCTION contestant.verdict(p_token text, p_email text, p_event text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp
AS $$
DECLARE
    t record;
BEGIN
    SELECT l.token_hash, l.email, l.consumed_at, l.revoked_at, l.expires_at, l.interaction_event INTO t
      FROM magic_link.one_time_tokens AS l WHERE l.id = magic_link.one_time_token_id(p_token);
    RETURN CASE
        WHEN t.token_hash IS NULL OR t.token_hash <> sha256(p_token::bytea) THEN 'token_not_found'
        WHEN t.email <> lower(btrim(p_email)) THEN 'email_mismatch'
        WHEN t.consumed_at IS NOT NULL THEN 'token_consumed'
        WHEN t.revoked_at IS NOT NULL THEN 'token_revoked'
        WHEN t.expires_at <= clock_timestamp() THEN 'token_expired'
        WHEN t.interaction_event IS NOT NULL AND t.interaction_event IS DISTINCT FROM p_event THEN 'interaction_event_mismatch'
        ELSE 'ok'
    END;
END
$$;

CREATE FUNCTION contestant.redeem(
    p_token text,
    p_email text,
    p_event text DEFAULT NULL,
    OUT outcome text,
    OUT token_id uuid,
    OUT user_id text,
    OUT user_created boolean,
    OUT email text,
    OUT context jsonb,
    OUT memberships jsonb,
    OUT redeemed_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp
AS $$
DECLARE
    v_email text := lower(btrim(p_email));
    v_user uuid;
    v_organization_ids text[];
    v_organization_id text;
    v_status text;
BEGIN
    SELECT u.id INTO v_user FROM magic_link.users AS u WHERE u.email = v_email;
    user_created := NOT FOUND;
    IF user_created THEN
        v_user := gen_random_uuid();
    END IF;
    UPDATE magic_link.one_time_tokens AS t
       SET consumed_at = clock_timestamp(), consumed_by = v_user
     WHERE t.id = magic_link.one_time_token_id(p_token) AND t.token_hash = sha256(p_token::bytea) AND t.email = v_email
       AND t.consumed_at IS NULL AND t.revoked_at IS NULL AND t.expires_at > clock_timestamp()
       AND (t.interaction_event IS NULL OR t.interaction_event = p_event)
 RETURNING t.id, t.context, t.organization_ids, t.consumed_at INTO token_id, context, v_organization_ids, redeemed_at;
    IF NOT FOUND THEN
        outcome := contestant.verdict(p_token, p_email, p_event);
        user_created := NULL;
        RETURN;
    END IF;
    IF user_created THEN
        INSERT INTO magic_link.users (id, email) VALUES (v_user, v_email) ON CONFLICT ON CONSTRAINT users_email_key DO NOTHING;
        IF NOT FOUND THEN
            user_created := false;
            SELECT u.id INTO v_user FROM magic_link.users AS u WHERE u.email = v_email;
            UPDATE magic_link.one_time_tokens AS t SET consumed_by = v_user WHERE t.id = redeem.token_id;
        END IF;
    END IF;
    memberships := '[]';
    FOREACH v_organization_id IN ARRAY v_organization_ids LOOP
        PERFORM FROM magic_link.organizations AS o WHERE o.id = v_organization_id FOR KEY SHARE;
        IF NOT FOUND THEN
            memberships := memberships || jsonb_build_object(
                'organizationId', v_organization_id, 'status', 'organization_missing', 'roleIds', '[]'::jsonb);
            CONTINUE;
        END IF;
        INSERT INTO magic_link.organization_memberships (organization_id, user_id) VALUES (v_organization_id, v_user)
            ON CONFLICT DO NOTHING;
        v_status := CASE WHEN FOUND THEN 'added' ELSE 'already_member' END;
        INSERT INTO magic_link.organization_membership_roles (organization_id, user_id, organization_role_id)
        SELECT d.organization_id, v_user, d.organization_role_id
          FROM magic_link.organization_jit_roles AS d WHERE d.organization_id = v_organization_id
            ON CONFLICT DO NOTHING;
        memberships := memberships || jsonb_build_object(
            'organizationId', v_organization_id, 'status', v_status,
            'roleIds', (SELECT coalesce(jsonb_agg(r.organization_role_id), '[]') FROM magic_link.organization_membership_roles AS r
                         WHERE r.organization_id = v_organization_id AND r.user_id = v_user));
    END LOOP;
    outcome := 'ok';
    user_id := v_user;
    email := v_email;
END
$$;

CREATE FUNCTION contestant.create_token(
    p_email text,
    p_expires_in integer,
    p_context jsonb,
    OUT id uuid,
    OUT token text,
    OUT email text,
    OUT context jsonb,
    OUT status text,
    OUT created_at timestamptz,
    OUT expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp
AS $$
DECLARE
    v_organization_ids text[] := '{}';
BEGIN
    email := lower(btrim(p_email));
    IF email !~ '^[^@[:space:]]+@[^@[:space:]]+$' OR octet_length(email) > 254 THEN
        RAISE EXCEPTION 'invalid e-mail address' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF p_expires_in NOT BETWEEN 1 AND 604800 OR jsonb_typeof(p_context) <> 'object' OR octet_length(p_context::text) > 16384 THEN
        RAISE EXCEPTION 'invalid lifetime or context' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF p_context ? 'jitOrganizationIds' THEN
        v_organization_ids := ARRAY(SELECT jsonb_array_elements_text(p_context -> 'jitOrganizationIds') ORDER BY 1);
        IF (SELECT count(*) FROM magic_link.organizations AS o WHERE o.id = ANY (v_organization_ids)) < cardinality(v_organization_ids) THEN
            RAISE EXCEPTION 'unknown organization' USING ERRCODE = 'foreign_key_violation';
        END IF;
    END IF;
    id := gen_random_uuid();
    token := replace(gen_random_uuid()::text, '-', '');
    context := p_context;
    status := 'active';
    created_at := clock_timestamp();
    expires_at := created_at + make_interval(secs => p_expires_in);
    INSERT INTO magic_link.one_time_tokens
           (id, token_hash, email, organization_ids, interaction_event, context, created_at, expires_at)
    VALUES (create_token.id, sha256(create_token.token::bytea), create_token.email, v_organization_ids,
            p_context ->> 'interactionEvent', p_context, create_token.created_at, create_token.expires_at);
END
$$;

CREATE FUNCTION contestant.decide(
    p_token text,
    p_email text,
    p_session_email text,
    p_prompt text,
    OUT decision text,
    OUT reason text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('magic_link.session_email', p_session_email, true), set_config('magic_link.prompt', p_prompt, true);
    SELECT s.decision, s.reason INTO decision, reason
      FROM magic_link.session_switch AS s
      JOIN magic_link.one_time_tokens AS t ON t.id = s.token_id
     WHERE s.token_id = magic_link.one_time_token_id(p_token)
       AND t.token_hash = sha256(p_token::bytea) AND t.email = lower(btrim(p_email));
    IF NOT FOUND THEN
        decision := 'refuse';
        reason := 'token_not_found';
    END IF;
END
$$;

-- Addresses and ids are compared as bytes: COLLATE "C" also keeps their indexes right when the
-- operating system changes its idea of an order.

-- The directory.

CREATE TABLE magic_link.users (
    id uuid DEFAULT pg_catalog.gen_random_uuid(),
    email text COLLATE pg_catalog."C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_email_key UNIQUE (email),
    CONSTRAINT users_email_normalized CHECK (email OPERATOR(pg_catalog.=) magic_link.normalize_email(email))
);

CREATE TABLE magic_link.organizations (
    id text COLLATE pg_catalog."C",
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT organizations_pkey PRIMARY KEY (id),
    CONSTRAINT organizations_id_not_empty CHECK (id OPERATOR(pg_catalog.<>) '')
);

CREATE TABLE magic_link.organization_roles (
    id text COLLATE pg_catalog."C",
    name text NOT NULL,
    CONSTRAINT organization_roles_pkey PRIMARY KEY (id),
    CONSTRAINT organization_roles_id_not_empty CHECK (id OPERATOR(pg_catalog.<>) '')
);

CREATE TABLE magic_link.organization_jit_roles (
    organization_id text COLLATE pg_catalog."C",
    organization_role_id text COLLATE pg_catalog."C",
    CONSTRAINT organization_jit_roles_pkey PRIMARY KEY (organization_id, organization_role_id),
    CONSTRAINT organization_jit_roles_organization_id_fkey
        FOREIGN KEY (organization_id) REFERENCES magic_link.organizations (id) ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT organization_jit_roles_organization_role_id_fkey
        FOREIGN KEY (organization_role_id) REFERENCES magic_link.organization_roles (id) ON UPDATE CASCADE ON DELETE CASCADE
);

CREATE INDEX organization_jit_roles_organization_role_id_idx
    ON magic_link.organization_jit_roles (organization_role_id);

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

CREATE TABLE magic_link.organization_memberships (
    organization_id text COLLATE pg_catalog."C",
    user_id uuid,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT organization_memberships_pkey PRIMARY KEY (organization_id, user_id),
    CONSTRAINT organization_memberships_organization_id_fkey
        FOREIGN KEY (organization_id) REFERENCES magic_link.organizations (id) ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT organization_memberships_user_id_fkey
        FOREIGN KEY (user_id) REFERENCES magic_link.users (id) ON UPDATE CASCADE ON DELETE CASCADE
);

CREATE INDEX organization_memberships_user_id_idx
    ON magic_link.organization_memberships (user_id);

CREATE TABLE magic_link.organization_membership_roles (
    organization_id text COLLATE pg_catalog."C",
    user_id uuid,
    organization_role_id text COLLATE pg_catalog."C",
    CONSTRAINT organization_membership_roles_pkey PRIMARY KEY (organization_id, user_id, organization_role_id),
    CONSTRAINT organization_membership_roles_membership_fkey
        FOREIGN KEY (organization_id, user_id)
        REFERENCES magic_link.organization_memberships (organization_id, user_id) ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT organization_membership_roles_organization_role_id_fkey
        FOREIGN KEY (organization_role_id) REFERENCES magic_link.organization_roles (id) ON UPDATE CASCADE ON DELETE CASCADE
);

CREATE INDEX organization_membership_roles_user_id_idx
    ON magic_link.organization_membership_roles (user_id);

CREATE INDEX organization_membership_roles_organization_role_id_idx
    ON magic_link.organization_membership_roles (organization_role_id);

COMMENT ON TABLE magic_link.users IS
'Who has redeemed a token, or was put here by the application: one user for one address.';
COMMENT ON COLUMN magic_link.users.id IS 'The user''s id; redeeming answers it as text.';
COMMENT ON COLUMN magic_link.users.email IS 'The address in normal form, as magic_link.normalize_email answers it.';
COMMENT ON COLUMN magic_link.users.created_at IS 'When the user was created.';

COMMENT ON TABLE magic_link.organizations IS
'What users are members of. The application fills it.';
COMMENT ON COLUMN magic_link.organizations.id IS 'The application''s own id.';
COMMENT ON COLUMN magic_link.organizations.name IS 'A name for people.';
COMMENT ON COLUMN magic_link.organizations.created_at IS 'When the organization was created.';

COMMENT ON TABLE magic_link.organization_roles IS
'The roles that members can hold in an organization. The application fills it.';
COMMENT ON COLUMN magic_link.organization_roles.id IS 'The application''s own id.';
COMMENT ON COLUMN magic_link.organization_roles.name IS 'A name for people.';

COMMENT ON TABLE magic_link.organization_jit_roles IS
'The default roles of an organization: what a token gives whoever joins by it, unless the token names roles itself (just-in-time provisioning).';
COMMENT ON COLUMN magic_link.organization_jit_roles.organization_id IS 'The organization.';
COMMENT ON COLUMN magic_link.organization_jit_roles.organization_role_id IS 'One of its default roles.';

COMMENT ON TABLE magic_link.organization_jit_email_domains IS
'The e-mail domains of an organization: a user whom redeeming creates with such an address joins it, with its default roles.';
COMMENT ON COLUMN magic_link.organization_jit_email_domains.organization_id IS 'The organization.';
COMMENT ON COLUMN magic_link.organization_jit_email_domains.email_domain IS 'What follows the @, in lower-case ASCII (IDNA) and with no part left out: a subdomain is another domain.';

COMMENT ON TABLE magic_link.organization_memberships IS
'Who is a member of which organization.';
COMMENT ON COLUMN magic_link.organization_memberships.organization_id IS 'The organization.';
COMMENT ON COLUMN magic_link.organization_memberships.user_id IS 'The member.';
COMMENT ON COLUMN magic_link.organization_memberships.created_at IS 'When the user joined.';

COMMENT ON TABLE magic_link.organization_membership_roles IS
'Which roles a member holds in an organization.';
COMMENT ON COLUMN magic_link.organization_membership_roles.organization_id IS 'The organization.';
COMMENT ON COLUMN magic_link.organization_membership_roles.user_id IS 'The member.';
COMMENT ON COLUMN magic_link.organization_membership_roles.organization_role_id IS 'A role that the member holds there.';

-- The ledger. A row is written once and as a rule updated once; with more than half of each page left
-- free at first, the newer version (longer by who consumed it) finds room in the same page, and no
-- index is touched. A second update, as with magic_link.replay_window, may have to leave the page.

CREATE TABLE magic_link.one_time_tokens (
    id uuid,
    token_hash bytea NOT NULL,
    email text COLLATE pg_catalog."C" NOT NULL,
    organization_ids text[] COLLATE pg_catalog."C" NOT NULL,
    interaction_event text COLLATE pg_catalog."C",
    context jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    consumed_at timestamptz,
    consumed_by text COLLATE pg_catalog."C",
    revoked_at timestamptz,
    revoked_by text COLLATE pg_catalog."C",
    failed_attempts integer NOT NULL DEFAULT 0,
    user_created boolean,
    memberships jsonb,
    CONSTRAINT one_time_tokens_pkey PRIMARY KEY (id)
) WITH (fillfactor = 45);

-- One constraint, and one call, for all that a row has to be: PostgreSQL parses the text of each CHECK anew
-- in every statement that writes. Six of them took 107,000 of the 390,000 instructions of a sign-in.
CREATE FUNCTION magic_link.one_time_token_is_sound(one_time_token magic_link.one_time_tokens)
RETURNS boolean
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'magic_link_one_time_token_is_sound';

COMMENT ON FUNCTION magic_link.one_time_token_is_sound(magic_link.one_time_tokens) IS
'Whether a row of the ledger is as it can be; the constraint one_time_tokens_sound says what that is. It looks at nothing but the row. PostgreSQL calls it as whoever writes the ledger, so that anybody may execute it.
Errors: 22004 for NULL; 42P13 for a row that lacks a column.';

ALTER TABLE magic_link.one_time_tokens
    ADD CONSTRAINT one_time_tokens_sound CHECK (magic_link.one_time_token_is_sound(one_time_tokens));

COMMENT ON CONSTRAINT one_time_tokens_sound ON magic_link.one_time_tokens IS
'token_hash has 32 bytes. expires_at is later than created_at. consumed_at and consumed_by are both there or both NULL. consumed_at and revoked_at are not both there. failed_attempts is not negative. user_created and memberships are both there or both NULL, and NULL without consumed_at.';

-- For what concerns one address: its limits, its revocations, and a DBA who looks for its tokens. No
-- column of it ever changes, so that an update touches no index.
CREATE INDEX one_time_tokens_email_expires_at_idx
    ON magic_link.one_time_tokens (email, expires_at);

COMMENT ON TABLE magic_link.one_time_tokens IS
'The ledger: a row for each token ever issued and not yet purged. The token itself is nowhere.';
COMMENT ON COLUMN magic_link.one_time_tokens.id IS 'A UUIDv7 of the time of issue and the first bits of the token''s hash.';
COMMENT ON COLUMN magic_link.one_time_tokens.token_hash IS 'The SHA-256 of the token.';
COMMENT ON COLUMN magic_link.one_time_tokens.email IS 'The address that the token was issued for, in normal form.';
COMMENT ON COLUMN magic_link.one_time_tokens.organization_ids IS 'The organizations to join, in order of id.';
COMMENT ON COLUMN magic_link.one_time_tokens.interaction_event IS 'The event that a caller has to name; NULL where any caller may redeem the token.';
COMMENT ON COLUMN magic_link.one_time_tokens.context IS 'What travels with the token, whole.';
COMMENT ON COLUMN magic_link.one_time_tokens.created_at IS 'When the token was issued.';
COMMENT ON COLUMN magic_link.one_time_tokens.expires_at IS 'The moment from which the token is refused.';
COMMENT ON COLUMN magic_link.one_time_tokens.consumed_at IS 'When the token was redeemed; NULL if it was not.';
COMMENT ON COLUMN magic_link.one_time_tokens.consumed_by IS 'The id of the user who redeemed the token.';
COMMENT ON COLUMN magic_link.one_time_tokens.revoked_at IS 'When the token was revoked; NULL if it was not.';
COMMENT ON COLUMN magic_link.one_time_tokens.revoked_by IS 'The role that revoked the token, or the setting that did: magic_link.revoke_previous or magic_link.max_failed_attempts.';
COMMENT ON COLUMN magic_link.one_time_tokens.failed_attempts IS 'How often try_redeem_one_time_token was called with another address while the token was active.';
COMMENT ON COLUMN magic_link.one_time_tokens.user_created IS 'Whether redeeming the token created the user; kept for magic_link.replay_window, NULL without it.';
COMMENT ON COLUMN magic_link.one_time_tokens.memberships IS 'The memberships that redeeming the token answered; kept for magic_link.replay_window, NULL without it.';

-- What is in the tables is the application's, so pg_dump takes it along.
SELECT pg_catalog.pg_extension_config_dump('magic_link.users', '');
SELECT pg_catalog.pg_extension_config_dump('magic_link.organizations', '');
SELECT pg_catalog.pg_extension_config_dump('magic_link.organization_roles', '');
SELECT pg_catalog.pg_extension_config_dump('magic_link.organization_jit_roles', '');
SELECT pg_catalog.pg_extension_config_dump('magic_link.organization_memberships', '');
SELECT pg_catalog.pg_extension_config_dump('magic_link.organization_membership_roles', '');
SELECT pg_catalog.pg_extension_config_dump('magic_link.one_time_tokens', '');
SELECT pg_catalog.pg_extension_config_dump('magic_link.organization_jit_email_domains', '');

-- An invitation, from the first token to the second click, as a backend's role.
SET ROLE regress_backend;

SELECT id, token, email, context, status, expires_at - created_at AS lifetime
  FROM magic_link.create_one_time_token(' Ada@EXAMPLE.com ', context => '{"jitOrganizationIds": ["acme"], "returnTo": "/projects"}') \gset
SELECT :'token' ~ '^[0-9A-Za-z]{32}$' AS well_formed, magic_link.one_time_token_id(:'token') = :'id' AS has_its_id,
       :'email' AS email, :'context' AS context, :'status' AS status, :'lifetime' AS lifetime;

SELECT replace(magic_link.compose_magic_link('https://app.example.com/sign-in?lang=en#top', :'token', :'email'), :'token', 'TOKEN') AS link;

-- A mail scanner opens the link, twice.
SELECT magic_link.check_one_time_token(:'token', :'email');
SELECT magic_link.check_one_time_token(:'token', :'email');

-- The person does.
SELECT token_id = :'id' AS same_token, user_id, user_created, email, context, memberships, replayed
  FROM magic_link.redeem_one_time_token(:'token', 'ada@example.com') \gset
SELECT :'same_token' AS same_token, :'user_id' ~ '^[0-9a-f-]{36}$' AS has_user, :'user_created' AS user_created, :'email' AS email,
       :'context' AS context, jsonb_pretty(:'memberships') AS memberships, :'replayed' AS replayed;

-- And again.
SELECT magic_link.check_one_time_token(:'token', :'email');
SELECT * FROM magic_link.redeem_one_time_token(:'token', :'email');
SELECT * FROM magic_link.try_redeem_one_time_token(:'token', :'email');

-- The tables are not the backend's to read.
SELECT * FROM magic_link.users;
SELECT * FROM magic_link.one_time_tokens;
SELECT * FROM magic_link.one_time_token_status;
UPDATE magic_link.one_time_tokens SET consumed_at = NULL;
SELECT magic_link.grant_backend('regress_backend');
RESET ROLE;

-- What the DBA finds.
SELECT u.email, m.organization_id, r.organization_role_id, u.id = :'user_id' AS same_user
  FROM magic_link.users AS u
  JOIN magic_link.organization_memberships AS m ON m.user_id = u.id
  JOIN magic_link.organization_membership_roles AS r USING (organization_id, user_id)
 ORDER BY 1, 2, 3;
SELECT email, organization_ids, status, consumed_by = :'user_id' AS consumed_by_the_user FROM magic_link.one_time_token_status;

-- A user put in by hand has to be in normal form.
\set VERBOSITY terse
INSERT INTO magic_link.users (email) VALUES ('Eve@Example.com');
\set VERBOSITY default
INSERT INTO magic_link.users (email) VALUES (magic_link.normalize_email('Eve@Example.com')) RETURNING email;

DELETE FROM magic_link.users;
SELECT count(*) AS memberships FROM magic_link.organization_memberships;
DELETE FROM magic_link.one_time_tokens;

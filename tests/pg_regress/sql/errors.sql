-- Every outcome and every misuse, with what psql shows, and then by code alone.
SET ROLE regress_backend;
SELECT token FROM magic_link.create_one_time_token('ada@example.com', 1) \gset short_
SELECT token FROM magic_link.create_one_time_token('ada@example.com') \gset
SELECT token FROM magic_link.create_one_time_token('ada@example.com') \gset revoked_
SELECT token FROM magic_link.create_one_time_token('ada@example.com') \gset consumed_
SELECT token FROM magic_link.create_one_time_token('ada@example.com', context => '{"interactionEvent": "Register"}') \gset register_
SELECT token FROM magic_link.create_one_time_token('nobody@example.com', context => '{"interactionEvent": "SignIn"}') \gset sign_in_
SELECT user_created FROM magic_link.redeem_one_time_token(:'consumed_token', 'ada@example.com');
RESET ROLE;
UPDATE magic_link.one_time_tokens SET revoked_at = clock_timestamp() WHERE id = magic_link.one_time_token_id(:'revoked_token');
UPDATE magic_link.one_time_tokens SET created_at = created_at - interval '1 hour', expires_at = expires_at - interval '1 hour'
 WHERE id = magic_link.one_time_token_id(:'short_token');
SET ROLE regress_backend;

SELECT * FROM magic_link.redeem_one_time_token('00000000000000000000000000000000', 'ada@example.com');
SELECT * FROM magic_link.redeem_one_time_token('too short', 'ada@example.com');
SELECT * FROM magic_link.redeem_one_time_token(:'token', 'eve@example.com');
SELECT * FROM magic_link.redeem_one_time_token(:'consumed_token', 'ada@example.com');
SELECT * FROM magic_link.redeem_one_time_token(:'revoked_token', 'ada@example.com');
SELECT * FROM magic_link.redeem_one_time_token(:'short_token', 'ada@example.com');
SELECT * FROM magic_link.redeem_one_time_token(:'register_token', 'ada@example.com', 'SignIn');
SELECT * FROM magic_link.redeem_one_time_token(:'sign_in_token', 'nobody@example.com', 'SignIn');

SELECT * FROM magic_link.redeem_one_time_token(NULL, 'ada@example.com');
SELECT * FROM magic_link.redeem_one_time_token(:'token', NULL);
SELECT * FROM magic_link.redeem_one_time_token(:'token', 'ada');
SELECT * FROM magic_link.redeem_one_time_token(:'token', 'ada@example.com', 'two words');
SELECT * FROM magic_link.create_one_time_token(NULL);
SELECT * FROM magic_link.create_one_time_token('ada@example.com', 0);
SELECT * FROM magic_link.create_one_time_token('ada@example.com', 604801);
SELECT * FROM magic_link.create_one_time_token('ada@example.com', context => '[]');
SELECT * FROM magic_link.create_one_time_token('ada@example.com', context => '{"jitOrganizationIds": "acme"}');
SELECT * FROM magic_link.create_one_time_token('ada@example.com', context => '{"jitOrganizationIds": ["nowhere"]}');
SELECT * FROM magic_link.create_one_time_token('ada@example.com', context => '{"organizationRoleIds": {"acme": ["viewer"]}}');
SELECT * FROM magic_link.create_one_time_token('ada@example.com', context => '{"jitOrganizationIds": ["acme"], "organizationRoleIds": {"acme": ["king"]}}');
SELECT * FROM magic_link.create_one_time_token('ada@example.com', context => '{"interactionEvent": ""}');
SELECT magic_link.one_time_token_id('too short');
SELECT magic_link.compose_magic_link('not a url', :'token', 'ada@example.com');
SELECT magic_link.compose_magic_link('https://example.com/?token=x', :'token', 'ada@example.com');
SELECT magic_link.compose_magic_link('https://example.com/', :'token', 'ada@example.com', '{"a": []}');
SET magic_link.max_expires_in = 1;
SET magic_link.max_expires = 1;

-- By code alone, as a program sees them.
\set VERBOSITY sqlstate
SELECT * FROM magic_link.redeem_one_time_token('00000000000000000000000000000000', 'ada@example.com');
SELECT * FROM magic_link.redeem_one_time_token(:'token', 'eve@example.com');
SELECT * FROM magic_link.redeem_one_time_token(:'consumed_token', 'ada@example.com');
SELECT * FROM magic_link.redeem_one_time_token(:'revoked_token', 'ada@example.com');
SELECT * FROM magic_link.redeem_one_time_token(:'short_token', 'ada@example.com');
SELECT * FROM magic_link.redeem_one_time_token(:'register_token', 'ada@example.com', 'SignIn');
SELECT * FROM magic_link.redeem_one_time_token(:'sign_in_token', 'nobody@example.com', 'SignIn');
SELECT * FROM magic_link.redeem_one_time_token(NULL, 'ada@example.com');
SELECT * FROM magic_link.create_one_time_token('ada', 600);
SELECT * FROM magic_link.create_one_time_token('ada@example.com', context => '{"jitOrganizationIds": ["nowhere"]}');
\set VERBOSITY default

-- The same as rows; the transaction lives on.
BEGIN;
SELECT t.name, r.*
  FROM (VALUES ('unknown', '00000000000000000000000000000000', 'ada@example.com', NULL),
               ('malformed', 'too short', 'ada@example.com', NULL),
               ('other address', :'token', 'eve@example.com', NULL),
               ('consumed', :'consumed_token', 'ada@example.com', NULL),
               ('revoked', :'revoked_token', 'ada@example.com', NULL),
               ('expired', :'short_token', 'ada@example.com', NULL),
               ('other event', :'register_token', 'ada@example.com', 'SignIn'),
               ('no user', :'sign_in_token', 'nobody@example.com', 'SignIn')) AS t (name, token, email, event),
       LATERAL (SELECT outcome, user_id FROM magic_link.try_redeem_one_time_token(t.token, t.email, t.event)) AS r;
SELECT outcome, user_created FROM magic_link.try_redeem_one_time_token(:'token', 'ada@example.com');
COMMIT;

RESET ROLE;
DELETE FROM magic_link.users;
DELETE FROM magic_link.one_time_tokens;

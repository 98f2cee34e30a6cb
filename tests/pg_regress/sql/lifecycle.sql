-- A token's other ends, as a role that went through grant_admin.
CREATE ROLE regress_admin;
SELECT magic_link.grant_admin('regress_admin');
SET ROLE regress_backend;
SELECT row_number() OVER () AS place, email, context, status, expires_at - created_at AS lifetime
  FROM magic_link.create_one_time_tokens('{Ada@Example.com, " bob@EXAMPLE.com"}', 60, '{"interactionEvent": "SignIn"}');
SELECT id, token FROM magic_link.create_one_time_token('ada@example.com') \gset

SET ROLE regress_admin;
SELECT magic_link.revoke_one_time_token(:'id');
SELECT magic_link.revoke_one_time_token(:'id');
SELECT magic_link.revoke_one_time_tokens('ADA@example.com', 'Register');
SELECT magic_link.revoke_one_time_tokens('ADA@example.com', 'SignIn');
SELECT magic_link.revoke_one_time_tokens('ADA@example.com');
SELECT email, interaction_event, status, revoked_by, failed_attempts FROM magic_link.one_time_token_status ORDER BY 1, 2;
SELECT count(*) AS hours, sum(issued) AS issued, sum(redeemed) AS redeemed, sum(refused_attempts) AS refused_attempts,
       sum(revoked) AS revoked, sum(expired_unused) AS expired_unused
  FROM magic_link.one_time_token_activity;
SELECT magic_link.purge_one_time_tokens();
SELECT magic_link.purge_one_time_tokens(retention => '0', batch_size => 1);
SELECT magic_link.delete_one_time_token(id) FROM magic_link.one_time_token_status;
SELECT magic_link.delete_one_time_token(:'id');

-- What is refused.
SELECT magic_link.revoke_one_time_token(:'id');
SELECT magic_link.revoke_one_time_token(NULL);
SELECT magic_link.revoke_one_time_tokens(NULL);
SELECT magic_link.revoke_one_time_tokens('ada');
SELECT magic_link.revoke_one_time_tokens('ada@example.com', 'two words');
SELECT magic_link.delete_one_time_token(NULL);
SELECT magic_link.purge_one_time_tokens(NULL);
SELECT magic_link.purge_one_time_tokens(batch_size => NULL);
SELECT magic_link.purge_one_time_tokens('-1 second');
SELECT magic_link.purge_one_time_tokens(batch_size => 0);
SELECT magic_link.grant_admin('regress_admin');
SELECT * FROM magic_link.create_one_time_token('ada@example.com');
SET magic_link.max_active_tokens = 0;
SET ROLE regress_backend;
SELECT magic_link.purge_one_time_tokens();
SELECT * FROM magic_link.create_one_time_tokens(NULL);
SELECT * FROM magic_link.create_one_time_tokens('{}');
SELECT * FROM magic_link.create_one_time_tokens('{{ada@example.com}}');
SELECT * FROM magic_link.create_one_time_tokens('{ada@example.com, NULL}');
SELECT * FROM magic_link.create_one_time_tokens('{ada@example.com, bob}');
SELECT * FROM magic_link.create_one_time_tokens('{ada@example.com, bob@example.com, ADA@example.com}');
RESET ROLE;
SELECT count(*) AS tokens FROM magic_link.one_time_tokens;

-- The limits of an address.
SET magic_link.max_active_tokens = 1;
SELECT email FROM magic_link.create_one_time_token('ada@example.com');
\set VERBOSITY sqlstate
SELECT * FROM magic_link.create_one_time_token('ada@example.com');
SELECT * FROM magic_link.create_one_time_tokens('{bob@example.com, ada@example.com}');
\set VERBOSITY default
SET magic_link.revoke_previous = on;
SELECT token FROM magic_link.create_one_time_token('ada@example.com') \gset
SELECT email, status, revoked_by FROM magic_link.one_time_token_status ORDER BY status DESC;
RESET magic_link.revoke_previous;
RESET magic_link.max_active_tokens;

-- Attempts with another address.
SET magic_link.max_failed_attempts = 2;
SELECT outcome FROM magic_link.try_redeem_one_time_token(:'token', 'eve@example.com');
SELECT outcome FROM magic_link.try_redeem_one_time_token(:'token', 'eve@example.com');
SELECT outcome FROM magic_link.try_redeem_one_time_token(:'token', 'ada@example.com');
SELECT status, revoked_by, failed_attempts FROM magic_link.one_time_token_status WHERE id = magic_link.one_time_token_id(:'token');
RESET magic_link.max_failed_attempts;

-- A double click, by a user who joins by the domain of the address.
INSERT INTO magic_link.organization_jit_email_domains (organization_id, email_domain) VALUES ('acme', 'example.com');
\set VERBOSITY terse
INSERT INTO magic_link.organization_jit_email_domains (organization_id, email_domain) VALUES ('acme', 'Example.com');
INSERT INTO magic_link.organization_jit_email_domains (organization_id, email_domain) VALUES ('acme', '@example.com');
\set VERBOSITY default
SET magic_link.replay_window = '1min';
SELECT token FROM magic_link.create_one_time_token('ada@example.com') \gset
SELECT user_created, memberships, replayed FROM magic_link.redeem_one_time_token(:'token', 'ada@example.com');
SELECT user_created, memberships, replayed FROM magic_link.redeem_one_time_token(:'token', 'ada@example.com');
SELECT magic_link.check_one_time_token(:'token', 'ada@example.com');
RESET magic_link.replay_window;
SELECT magic_link.check_one_time_token(:'token', 'ada@example.com');

DELETE FROM magic_link.organization_jit_email_domains;
DELETE FROM magic_link.users;
DELETE FROM magic_link.one_time_tokens;

-- What was given is taken back, and the way into the schema with the last of it.
SELECT magic_link.grant_backend('regress_admin');
SELECT magic_link.revoke_admin('regress_admin');
SELECT has_schema_privilege('regress_admin', 'magic_link', 'USAGE') AS still_a_backend;
SELECT magic_link.revoke_backend('regress_admin');
SELECT magic_link.revoke_backend('regress_admin');
SELECT has_schema_privilege('regress_admin', 'magic_link', 'USAGE') AS still_something;
DROP ROLE regress_admin;

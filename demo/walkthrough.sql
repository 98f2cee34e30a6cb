-- One invitation from the first statement to the last, as `make demo` shows it. Every statement between two headings is sent to a
-- real server and answered by it; where ECHO is none, the walkthrough looks whether the answer was as it says, and stops if not.
\set ON_ERROR_STOP 1
\set VERBOSITY default
\set QUIET on
\pset null '(null)'
\pset footer off
\set QUIET off

\echo
\echo '=== 1. A DBA installs the extension, lets a backend in, and makes an organization with default roles'
\echo
\set ECHO queries
\ir dba.sql
\set ECHO none
\echo
\echo 'Nobody is known yet:'
\echo
\set ECHO queries
SELECT count(*) AS users FROM magic_link.users;
\set ECHO none

\echo
\echo '=== 2. The backend, an ordinary role, invites an address that nobody knows'
\echo
\connect - app_backend
\set ECHO queries
SELECT * FROM magic_link.create_one_time_token('Ada@Example.COM', 600, '{"jitOrganizationIds": ["analytical-engines"], "next": "/welcome"}') \gset invited_
\set ECHO none
SELECT :'invited_id' AS id, :'invited_token' AS token, :'invited_email' AS email, :'invited_context' AS context, :'invited_status' AS status,
  :'invited_created_at' AS created_at, :'invited_expires_at' AS expires_at \gx
SELECT walkthrough.expect('an active token for the address in normal form', :'invited_status' = 'active' AND :'invited_email' = 'ada@example.com') \g /dev/null

\echo
\echo '=== 3. The link that goes into the mail'
\echo
\set ECHO queries
SELECT magic_link.compose_magic_link('https://app.example.com/callback?lang=en', :'invited_token', :'invited_email') AS link;
\set ECHO none
SELECT walkthrough.expect('a link with the token in it', strpos(magic_link.compose_magic_link('https://app.example.com/callback?lang=en', :'invited_token', :'invited_email'), :'invited_token') > 0) \g /dev/null

\echo
\echo '=== 4. A mail scanner opens the link: the backend answers a GET with a check, which consumes nothing, however often it comes'
\echo
\set ECHO queries
SELECT magic_link.check_one_time_token(:'invited_token', :'invited_email') AS outcome;
SELECT magic_link.check_one_time_token(:'invited_token', :'invited_email') AS outcome;
\set ECHO none
SELECT walkthrough.expect('the token is still redeemable', magic_link.check_one_time_token(:'invited_token', :'invited_email') = 'ok') \g /dev/null

\echo
\echo '=== 5. Ada clicks and confirms: one call checks and consumes the token, makes the user, and joins her to the organization'
\echo
\set ECHO queries
SELECT * FROM magic_link.redeem_one_time_token(:'invited_token', :'invited_email') \gset redeemed_
\set ECHO none
SELECT :'redeemed_token_id' AS token_id, :'redeemed_user_id' AS user_id, :'redeemed_user_created' AS user_created, :'redeemed_email' AS email,
  :'redeemed_context' AS context, :'redeemed_memberships' AS memberships, :'redeemed_redeemed_at' AS redeemed_at, :'redeemed_replayed' AS replayed \gx
SELECT walkthrough.expect('a new user', :'redeemed_user_created'::boolean) \g /dev/null
SELECT walkthrough.expect('one membership, added', :'redeemed_memberships'::jsonb -> 0 ->> 'status' = 'added') \g /dev/null

\echo
\echo '=== 6. What the tables hold now (the DBA looks; the backend may not)'
\echo
\connect - postgres
\set ECHO queries
SELECT id, email FROM magic_link.users;
SELECT m.organization_id, u.email, r.organization_role_id AS role
FROM magic_link.organization_memberships AS m
JOIN magic_link.users AS u ON u.id = m.user_id
LEFT JOIN magic_link.organization_membership_roles AS r ON r.organization_id = m.organization_id AND r.user_id = m.user_id
ORDER BY 1, 2, 3;
SELECT id, email, status, consumed_at IS NOT NULL AS consumed FROM magic_link.one_time_token_status;
\set ECHO none
SELECT walkthrough.expect('one user', (SELECT array_agg(id::text) = ARRAY[:'redeemed_user_id'] FROM magic_link.users)) \g /dev/null
SELECT walkthrough.expect('the default roles', (SELECT array_agg(organization_role_id ORDER BY 1) = ARRAY['editor', 'member'] FROM magic_link.organization_membership_roles)) \g /dev/null
\connect - app_backend
\echo 'The same as the backend:'
\echo
\set ON_ERROR_STOP 0
\set ECHO queries
SELECT id, email FROM magic_link.users;
\set ECHO none
\set ON_ERROR_STOP 1
\echo 'SQLSTATE:' :LAST_ERROR_SQLSTATE
SELECT walkthrough.expect('a refusal for lack of rights', :'LAST_ERROR_SQLSTATE' = '42501') \g /dev/null

\echo
\echo '=== 7. Somebody redeems the same token a second time: refused, with a code of its own'
\echo
\set ON_ERROR_STOP 0
\set ECHO queries
SELECT * FROM magic_link.redeem_one_time_token(:'invited_token', :'invited_email');
\set ECHO none
\set ON_ERROR_STOP 1
\echo 'SQLSTATE:' :LAST_ERROR_SQLSTATE
SELECT walkthrough.expect('OT003', :'LAST_ERROR_SQLSTATE' = 'OT003') \g /dev/null
\echo
\echo 'Where the transaction has to live on, the refusal comes as a row:'
\echo
\set ECHO queries
SELECT outcome, user_id, memberships FROM magic_link.try_redeem_one_time_token(:'invited_token', :'invited_email');
\set ECHO none

\echo
\echo '=== 8. Another link for Ada arrives in a browser where somebody is already signed in'
\echo
\set ECHO queries
SELECT token, email FROM magic_link.create_one_time_token('ada@example.com') \gset again_
\set ECHO none
SELECT :'again_token' AS token, :'again_email' AS email \gx
\echo
\echo 'Ada herself is signed in: redeem, and the session stays.'
\echo
\set ECHO queries
SELECT decision, reason FROM magic_link.session_switch_decision(:'again_token', :'again_email', 'ada@example.com');
\set ECHO none
SELECT walkthrough.expect('redeem', (SELECT decision = 'redeem' FROM magic_link.session_switch_decision(:'again_token', :'again_email', 'ada@example.com'))) \g /dev/null
\echo
\echo 'Charles is signed in: ask him whether to go on as Ada or stay. Nothing is redeemed before he answers.'
\echo
\set ECHO queries
SELECT decision, reason FROM magic_link.session_switch_decision(:'again_token', :'again_email', 'charles@example.com');
\set ECHO none
SELECT walkthrough.expect('ask', (SELECT decision = 'ask' FROM magic_link.session_switch_decision(:'again_token', :'again_email', 'charles@example.com'))) \g /dev/null
\echo
\echo 'Charles is signed in, and the application asked for a fresh sign-in with prompt=login: switch without asking.'
\echo
\set ECHO queries
SELECT decision, reason FROM magic_link.session_switch_decision(:'again_token', :'again_email', 'charles@example.com', 'login');
\set ECHO none
SELECT walkthrough.expect('switch', (SELECT decision = 'switch' FROM magic_link.session_switch_decision(:'again_token', :'again_email', 'charles@example.com', 'login'))) \g /dev/null
\echo
\echo 'So the backend redeems; Ada is known by now, and the same user as before:'
\echo
\set ECHO queries
SELECT user_id, user_created, memberships FROM magic_link.redeem_one_time_token(:'again_token', :'again_email') \gset switched_
\set ECHO none
SELECT :'switched_user_id' AS user_id, :'switched_user_created' AS user_created, :'switched_memberships' AS memberships \gx
SELECT walkthrough.expect('the same user', :'switched_user_id' = :'redeemed_user_id' AND NOT :'switched_user_created'::boolean) \g /dev/null
\echo
\echo '=== The end'

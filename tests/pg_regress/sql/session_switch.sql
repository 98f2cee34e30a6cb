-- The session-switch table, as the view shows it.
SET ROLE regress_backend;
SELECT id, token FROM magic_link.create_one_time_token('ada@example.com') \gset
SELECT id, token FROM magic_link.create_one_time_token('ada@example.com') \gset used_
SELECT id FROM magic_link.create_one_time_token('nobody@example.com', context => '{"interactionEvent": "SignIn"}') \gset sign_in_
SELECT user_created FROM magic_link.redeem_one_time_token(:'used_token', 'ada@example.com');

PREPARE decisions AS
SELECT CASE token_id WHEN :'id' THEN 'redeemable' WHEN :'used_id' THEN 'consumed' ELSE 'no user' END AS token,
       status, interaction_event, session_email, prompt, decision, reason
  FROM magic_link.session_switch ORDER BY 1 DESC;

-- Nobody is signed in.
EXECUTE decisions;

-- The token's address is, however it is spelled.
BEGIN;
SELECT set_config('magic_link.session_email', ' Ada@Example.COM', true);
EXECUTE decisions;

-- Somebody else is.
SELECT set_config('magic_link.session_email', 'eve@example.com', true);
EXECUTE decisions;

-- And the request says what to do about it.
SELECT set_config('magic_link.prompt', 'consent login', true);
EXECUTE decisions;
SELECT set_config('magic_link.prompt', 'relogin', true);
EXECUTE decisions;
ROLLBACK;

-- The same for one token, through the function.
SELECT s.session_email, s.prompt, d.*
  FROM (VALUES (NULL, NULL), ('ada@example.com', NULL), ('eve@example.com', NULL), ('eve@example.com', ''),
               ('eve@example.com', 'login'), ('eve@example.com', 'select_account login'), ('eve@example.com', 'LOGIN')) AS s (session_email, prompt),
       LATERAL magic_link.session_switch_decision(:'token', 'ada@example.com', s.session_email, s.prompt) AS d;
SELECT * FROM magic_link.session_switch_decision(:'used_token', 'ada@example.com', 'ada@example.com');
SELECT * FROM magic_link.session_switch_decision(:'used_token', 'ada@example.com');
SELECT * FROM magic_link.session_switch_decision(:'token', 'eve@example.com', 'eve@example.com');
SELECT * FROM magic_link.session_switch_decision('00000000000000000000000000000000', 'ada@example.com');

-- An address that is none is nobody's session.
SELECT * FROM magic_link.session_switch_decision(:'token', 'ada@example.com', 'eve');
SET magic_link.session_email = 'eve';
SELECT decision FROM magic_link.session_switch;

RESET ALL;
RESET ROLE;
DELETE FROM magic_link.users;
DELETE FROM magic_link.one_time_tokens;

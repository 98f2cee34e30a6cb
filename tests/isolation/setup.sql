-- What tests/isolation/pairs.spec needs beside the extension: the actions, as views so that a step fits into a line, where they leave
-- their answers, and what is to be seen afterwards.
CREATE TABLE contexts AS SELECT jsonb_build_object('jitOrganizationIds', ARRAY['acme']) AS context;
-- The tokens that the actions are about: one that is active, and one that has ended.
CREATE TABLE links (id uuid, token text, email text);
CREATE TABLE ended (id uuid);
CREATE TABLE answers (place serial, answer text);

CREATE VIEW redeem AS
  SELECT concat_ws(' ', 'redeemed', CASE WHEN user_created THEN 'new' END, memberships)
    FROM links, magic_link.redeem_one_time_token(links.token, links.email);
CREATE VIEW try_redeem AS
  SELECT concat_ws(' ', outcome, CASE WHEN user_created THEN 'new' END, memberships)
    FROM links, magic_link.try_redeem_one_time_token(links.token, links.email);
CREATE VIEW revoke AS SELECT magic_link.revoke_one_time_token(id) FROM links;
CREATE VIEW delete AS SELECT CASE WHEN magic_link.delete_one_time_token(id) THEN 'deleted' ELSE 'not there' END FROM links;
CREATE VIEW purge AS SELECT format('purged %s', magic_link.purge_one_time_tokens('0'));
CREATE VIEW issue AS
  SELECT 'created' FROM contexts, magic_link.create_one_time_token('ada@example.com', context => context);

CREATE VIEW tokens AS
  SELECT concat_ws(' ', CASE WHEN id IN (SELECT id FROM links) THEN 'link' WHEN id IN (SELECT id FROM ended) THEN 'ended' ELSE 'another' END,
                   status, CASE WHEN consumed_by IN (SELECT u.id::text FROM magic_link.users AS u) THEN 'by ada' END) AS token
    FROM magic_link.one_time_token_status;
CREATE VIEW state AS
  SELECT (SELECT string_agg(answer, ', ' ORDER BY place) FROM answers) AS answers,
         (SELECT string_agg(token, ', ' ORDER BY token DESC) FROM tokens) AS tokens,
         (SELECT string_agg(CASE WHEN id = '00000000-0000-4000-8000-000000000000' THEN 'ada' ELSE 'ada anew' END, ', ')
            FROM magic_link.users) AS users,
         (SELECT string_agg(organization_id || ': ' || array(
                     SELECT organization_role_id FROM magic_link.organization_membership_roles AS r
                      WHERE r.organization_id = m.organization_id AND r.user_id = m.user_id ORDER BY 1)::text, ', ')
            FROM magic_link.organization_memberships AS m) AS memberships;

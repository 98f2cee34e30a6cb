//! One prepared statement that the client sends. It is told what the client can work out: the token's
//! id and hash, an id for a new user, and the organizations. Of the ways to write it that were tried
//! this took the fewest instructions: joins to `= ANY ($4)` are twice as many.

use super::{Statement, Value};
use crate::workload::{Case, Workload};

const REDEEM: &str = "
WITH token AS (
    UPDATE magic_link.one_time_tokens AS t
       SET consumed_at = clock_timestamp(), consumed_by = $5::uuid::text
     WHERE t.id = $1 AND t.token_hash = $2 AND t.email = $3
       AND t.consumed_at IS NULL AND t.revoked_at IS NULL AND t.expires_at > clock_timestamp()
       AND t.interaction_event IS NULL
 RETURNING t.id, t.email, t.context, t.consumed_at
), person AS (
    INSERT INTO magic_link.users (id, email) SELECT $5::uuid, token.email FROM token
        ON CONFLICT (email) DO UPDATE SET email = excluded.email
 RETURNING id
), member AS (
    INSERT INTO magic_link.organization_memberships (organization_id, user_id)
    SELECT o.id, person.id FROM person CROSS JOIN unnest($4::text[]) AS wanted (id)
     CROSS JOIN LATERAL (SELECT o.id FROM magic_link.organizations AS o WHERE o.id = wanted.id OFFSET 0) AS o
        ON CONFLICT DO NOTHING
 RETURNING organization_id, user_id
), role AS (
    INSERT INTO magic_link.organization_membership_roles (organization_id, user_id, organization_role_id)
    SELECT member.organization_id, member.user_id, d.organization_role_id
      FROM member CROSS JOIN LATERAL (
           SELECT d.organization_role_id FROM magic_link.organization_jit_roles AS d
            WHERE d.organization_id = member.organization_id OFFSET 0) AS d
        ON CONFLICT DO NOTHING
 RETURNING organization_id, organization_role_id
)
SELECT token.id, person.id, token.email, token.context, token.consumed_at,
       ARRAY(SELECT role.organization_id || ' ' || role.organization_role_id FROM role)
  FROM token CROSS JOIN person";

/// For a user who is known; the client learnt the id before, which is not counted.
const SIGN_IN: &str = "
UPDATE magic_link.one_time_tokens AS t
   SET consumed_at = clock_timestamp(), consumed_by = $4::uuid::text
 WHERE t.id = $1 AND t.token_hash = $2 AND t.email = $3
   AND t.consumed_at IS NULL AND t.revoked_at IS NULL AND t.expires_at > clock_timestamp()
   AND t.interaction_event IS NULL
RETURNING t.id, t.email, t.context, t.consumed_at";

const VERDICT: &str = "
SELECT CASE WHEN t.token_hash <> $2 THEN 'token_not_found'
            WHEN t.email <> $3 THEN 'email_mismatch'
            WHEN t.consumed_at IS NOT NULL THEN 'token_consumed'
            WHEN t.revoked_at IS NOT NULL THEN 'token_revoked'
            WHEN t.expires_at <= clock_timestamp() THEN 'token_expired'
            WHEN t.interaction_event IS NOT NULL THEN 'interaction_event_mismatch'
            ELSE 'ok' END
  FROM magic_link.one_time_tokens AS t
 WHERE t.id = $1";

const DECISION: &str = "
SELECT s.decision, s.reason
  FROM magic_link.session_switch AS s JOIN magic_link.one_time_tokens AS t ON t.id = s.token_id
 WHERE s.token_id = $1 AND t.token_hash = $2 AND t.email = $3";

const CREATE: &str = "
INSERT INTO magic_link.one_time_tokens (id, token_hash, email, organization_ids, context, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, now(), now() + interval '10 minutes') RETURNING id, created_at, expires_at";

pub fn call(workload: Workload, case: &Case) -> Statement {
    let mut values = vec![
        Value::Uuid(case.id),
        Value::Bytes(case.hash.clone()),
        case.text_email(),
    ];
    let sql = match workload {
        Workload::Create => {
            values.push(case.organization_ids());
            values.push(Value::Json(serde_json::json!({})));
            CREATE
        }
        Workload::Redeem(_) => {
            values.push(case.organization_ids());
            values.push(Value::Uuid(case.user));
            REDEEM
        }
        Workload::SignIn | Workload::Refused => {
            values.push(Value::Uuid(case.user));
            SIGN_IN
        }
        Workload::Check => VERDICT,
        Workload::SessionSwitch => DECISION,
    };
    Statement { sql, values }
}

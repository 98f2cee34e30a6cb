//! What is in the tables when everybody has stopped, and what they say against themselves.

use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use magic_link_harness::Database;
use uuid::Uuid;

use crate::actions::Round;

/// A row of one_time_tokens.
pub struct Row {
    pub email: String,
    pub consumed: Option<(SystemTime, String)>,
    pub revoked: bool,
    pub failed_attempts: i32,
    pub event: Option<String>,
    pub active: bool,
}

/// A committed change of an account's address that is not a redemption's. `old` is None where the account was made by it, `new` where
/// it was deleted.
#[derive(Debug, Clone)]
pub struct Changed {
    pub piece: i64,
    pub deed: i32,
    pub user: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

pub struct Tables {
    pub tokens: HashMap<Uuid, Row>,
    pub users: HashMap<String, String>,
    pub memberships: BTreeSet<(String, String)>,
    pub roles: BTreeSet<(String, String, String)>,
    /// Those of one account in their order.
    pub changes: Vec<Changed>,
}

impl Tables {
    pub fn read(database: &Database) -> Self {
        let mut superuser = database.superuser();
        let mut read = |query: &str| {
            superuser
                .query(query, &[])
                .expect("a table that cannot be read")
        };
        let tokens = read(
            "SELECT t.id, t.email, t.consumed_at, t.consumed_by, t.revoked_at IS NOT NULL, t.failed_attempts, t.interaction_event,
                    s.status = 'active'
               FROM magic_link.one_time_tokens AS t JOIN magic_link.one_time_token_status AS s USING (id)",
        );
        let tokens = tokens.iter().map(|row| {
            let consumed_by: Option<String> = row.get(3);
            let consumed = row.get::<_, Option<SystemTime>>(2).zip(consumed_by);
            (
                row.get(0),
                Row {
                    email: row.get(1),
                    consumed,
                    revoked: row.get(4),
                    failed_attempts: row.get(5),
                    event: row.get(6),
                    active: row.get(7),
                },
            )
        });
        let users = read("SELECT id::text, email FROM magic_link.users");
        let changes = read(
            "SELECT piece, deed, user_id::text, email, new_email FROM torture.changes ORDER BY number",
        );
        let changes = changes.iter().map(|row| Changed {
            piece: row.get(0),
            deed: row.get(1),
            user: row.get(2),
            old: row.get(3),
            new: row.get(4),
        });
        let memberships =
            read("SELECT organization_id, user_id::text FROM magic_link.organization_memberships");
        let roles = read(
            "SELECT organization_id, user_id::text, organization_role_id FROM magic_link.organization_membership_roles",
        );
        Self {
            tokens: tokens.collect(),
            changes: changes.collect(),
            users: users.iter().map(|row| (row.get(0), row.get(1))).collect(),
            memberships: memberships
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect(),
            roles: roles
                .iter()
                .map(|row| (row.get(0), row.get(1), row.get(2)))
                .collect(),
        }
    }
}

/// What the tables say against themselves: queries that answer only what is wrong.
const CONTRADICTIONS: [&str; 5] = [
    "SELECT 'unsound: ' || t.id FROM magic_link.one_time_tokens AS t
      WHERE NOT magic_link.one_time_token_is_sound(t) OR (t.consumed_at IS NULL) <> (t.consumed_by IS NULL)
         OR t.consumed_at IS NOT NULL AND t.revoked_at IS NOT NULL OR octet_length(t.token_hash) <> 32
         OR t.consumed_at < t.created_at OR t.consumed_at >= t.expires_at OR t.revoked_at < t.created_at",
    "SELECT 'status ' || s.status || ': ' || s.id FROM magic_link.one_time_token_status AS s
      WHERE s.status IS DISTINCT FROM CASE WHEN s.consumed_at IS NOT NULL THEN 'consumed' WHEN s.revoked_at IS NOT NULL THEN 'revoked'
                    WHEN s.expires_at <= now() THEN 'expired' ELSE 'active' END
        AND NOT (s.status = 'expired' AND s.expires_at <= clock_timestamp())",
    "SELECT 'membership of nobody or nothing: ' || m::text FROM magic_link.organization_memberships AS m
      WHERE NOT EXISTS (SELECT FROM magic_link.users AS u WHERE u.id = m.user_id)
         OR NOT EXISTS (SELECT FROM magic_link.organizations AS o WHERE o.id = m.organization_id)",
    "SELECT 'role of no member: ' || r::text FROM magic_link.organization_membership_roles AS r
      WHERE NOT EXISTS (SELECT FROM magic_link.organization_memberships AS m
                         WHERE m.organization_id = r.organization_id AND m.user_id = r.user_id)
         OR NOT EXISTS (SELECT FROM magic_link.organization_roles AS o WHERE o.id = r.organization_role_id)",
    "SELECT c.oid::regclass || ': ' || v.msg FROM pg_class AS c, verify_heapam(c.oid) AS v
      WHERE c.relnamespace = 'magic_link'::regnamespace AND c.relkind = 'r'",
];

/// Whoever created a token had others of its address beside it, which had not ended by then: as many as the settings allow. So a
/// limit that was passed for a moment is seen at the end.
const TOO_MANY_ACTIVE: &str = "
    SELECT 'too many active tokens: ' || t.email
      FROM magic_link.one_time_tokens AS t JOIN magic_link.one_time_tokens AS o
        ON o.email = t.email AND o.created_at <= t.created_at
       AND LEAST(o.consumed_at, o.revoked_at, o.expires_at) > t.created_at
     GROUP BY t.id, t.email
    HAVING count(*) > $1 OR count(*) FILTER (WHERE o.interaction_event IS NOT DISTINCT FROM t.interaction_event) > $2";

pub fn inconsistencies(database: &Database, round: &Round) -> Vec<String> {
    let mut superuser = database.superuser();
    superuser
        .batch_execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        .expect("amcheck comes with the server");
    let mut wrong = vec![];
    for query in CONTRADICTIONS {
        let rows = superuser.query(query, &[]).expect("no answer");
        wrong.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    // Without a limit the answers are the same as with one that nobody reaches.
    let most = if round.max_active > 0 {
        round.max_active as i64
    } else {
        i64::MAX
    };
    let of_event = if round.revoke_previous { 1 } else { i64::MAX };
    let rows = superuser
        .query(TOO_MANY_ACTIVE, &[&most, &of_event])
        .expect("no answer");
    wrong.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    let indexes = "SELECT count(bt_index_check(i.indexrelid, true)) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
                    WHERE c.relnamespace = 'magic_link'::regnamespace";
    match superuser.query_one(indexes, &[]) {
        Ok(checked) => assert!(checked.get::<_, i64>(0) > 8, "the indexes are elsewhere"),
        Err(error) => wrong.push(format!("an index is broken: {error:?}")),
    }
    wrong
}

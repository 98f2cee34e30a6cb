//! An identity server that does it in its own code: one query after the other, each a transaction of
//! its own. Nothing is guarded: two of these at once consume a token twice.

use super::{Statement, Value};
use crate::workload::{Case, Workload};

const FIND_TOKEN: &str =
    "SELECT * FROM magic_link.one_time_tokens WHERE id = $1 AND token_hash = $2";
const CREATE: &str = "
INSERT INTO magic_link.one_time_tokens (id, token_hash, email, organization_ids, context, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, now(), now() + interval '10 minutes') RETURNING *";
const SET_STATUS: &str = "UPDATE magic_link.one_time_tokens SET consumed_at = now(), consumed_by = $2::uuid::text WHERE id = $1";
const FIND_USER: &str = "SELECT * FROM magic_link.users WHERE email = $1";
const INSERT_USER: &str = "INSERT INTO magic_link.users (id, email) VALUES ($1, $2) RETURNING *";
const DEFAULT_ROLES: &str =
    "SELECT * FROM magic_link.organization_jit_roles WHERE organization_id = ANY ($1)";
const MEMBERSHIPS: &str = "SELECT * FROM magic_link.organization_memberships WHERE user_id = $1";
const INSERT_MEMBERSHIPS: &str = "
INSERT INTO magic_link.organization_memberships (organization_id, user_id) SELECT unnest($1::text[]), $2::uuid
    ON CONFLICT DO NOTHING";
const INSERT_ROLES: &str = "
INSERT INTO magic_link.organization_membership_roles (organization_id, user_id, organization_role_id)
SELECT o, $2::uuid, r FROM unnest($1::text[], $3::text[]) AS n (o, r) ON CONFLICT DO NOTHING";

pub fn calls(workload: Workload, case: &Case) -> Vec<Statement> {
    let find_token = Statement {
        sql: FIND_TOKEN,
        values: vec![Value::Uuid(case.id), Value::Bytes(case.hash.clone())],
    };
    match workload {
        Workload::Create => vec![create(case)],
        Workload::Refused | Workload::Check | Workload::SessionSwitch => vec![find_token],
        Workload::SignIn => vec![find_token, set_status(case), find_user(case)],
        Workload::Redeem(_) => {
            let mut calls = vec![find_token, set_status(case), find_user(case)];
            calls.extend(join(case));
            calls
        }
    }
}

fn create(case: &Case) -> Statement {
    Statement {
        sql: CREATE,
        values: case.new_row(),
    }
}

fn set_status(case: &Case) -> Statement {
    Statement {
        sql: SET_STATUS,
        values: vec![Value::Uuid(case.id), Value::Uuid(case.user)],
    }
}

fn find_user(case: &Case) -> Statement {
    Statement {
        sql: FIND_USER,
        values: vec![case.text_email()],
    }
}

fn join(case: &Case) -> [Statement; 5] {
    let user = Value::Uuid(case.user);
    let roles = case.organizations.iter().map(|m| m.role.clone()).collect();
    [
        Statement {
            sql: INSERT_USER,
            values: vec![user.clone(), case.text_email()],
        },
        Statement {
            sql: DEFAULT_ROLES,
            values: vec![case.organization_ids()],
        },
        Statement {
            sql: MEMBERSHIPS,
            values: vec![user.clone()],
        },
        Statement {
            sql: INSERT_MEMBERSHIPS,
            values: vec![case.organization_ids(), user.clone()],
        },
        Statement {
            sql: INSERT_ROLES,
            values: vec![case.organization_ids(), user, Value::Texts(roles)],
        },
    ]
}

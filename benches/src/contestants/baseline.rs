//! The same changes of rows, each a bare statement for one row by its key, in one transaction and with
//! no question asked: what there is to do in any case. It is told all, organizations and roles too.

use super::{Statement, Value};
use crate::workload::{Case, Workload};

const CREATE: &str = "
INSERT INTO magic_link.one_time_tokens (id, token_hash, email, organization_ids, context, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, now(), now() + interval '10 minutes')";
const CONSUME: &str = "UPDATE magic_link.one_time_tokens SET consumed_at = now(), consumed_by = $2::uuid::text WHERE id = $1";
const INSERT_USER: &str = "INSERT INTO magic_link.users (id, email) VALUES ($1, $2)";
const INSERT_MEMBERSHIP: &str =
    "INSERT INTO magic_link.organization_memberships (organization_id, user_id) VALUES ($1, $2)";
const INSERT_ROLE: &str = "
INSERT INTO magic_link.organization_membership_roles (organization_id, user_id, organization_role_id) VALUES ($1, $2, $3)";

/// None where no row changes.
pub fn calls(workload: Workload, case: &Case) -> Option<Vec<Statement>> {
    match workload {
        Workload::Create => Some(vec![Statement {
            sql: CREATE,
            values: case.new_row(),
        }]),
        Workload::SignIn => Some(vec![consume(case)]),
        Workload::Redeem(_) => Some(redeem(case)),
        Workload::Refused | Workload::Check | Workload::SessionSwitch => None,
    }
}

fn redeem(case: &Case) -> Vec<Statement> {
    let user = Value::Uuid(case.user);
    let mut statements = vec![
        consume(case),
        Statement {
            sql: INSERT_USER,
            values: vec![user.clone(), case.text_email()],
        },
    ];
    for membership in &case.organizations {
        let organization = Value::Text(membership.organization.clone());
        let role = Value::Text(membership.role.clone());
        statements.push(Statement {
            sql: INSERT_MEMBERSHIP,
            values: vec![organization.clone(), user.clone()],
        });
        statements.push(Statement {
            sql: INSERT_ROLE,
            values: vec![organization, user.clone(), role],
        });
    }
    statements
}

fn consume(case: &Case) -> Statement {
    Statement {
        sql: CONSUME,
        values: vec![Value::Uuid(case.id), Value::Uuid(case.user)],
    }
}

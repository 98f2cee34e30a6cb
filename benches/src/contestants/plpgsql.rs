//! What a careful DBA would write instead: the functions of plpgsql.sql.

use super::{Statement, Value};
use crate::workload::{Case, Workload};

pub fn call(workload: Workload, case: &Case) -> Statement {
    let presented = vec![Value::Text(case.token.clone()), case.text_email()];
    match workload {
        Workload::Create => Statement {
            sql: "SELECT * FROM contestant.create_token($1, $2, $3)",
            values: vec![
                case.text_email(),
                Value::Integer(600),
                Value::Json(serde_json::json!({})),
            ],
        },
        Workload::Redeem(_) | Workload::SignIn | Workload::Refused => Statement {
            sql: "SELECT * FROM contestant.redeem($1, $2)",
            values: presented,
        },
        Workload::Check => Statement {
            sql: "SELECT * FROM contestant.verdict($1, $2)",
            values: presented,
        },
        Workload::SessionSwitch => Statement {
            sql: "SELECT * FROM contestant.decide($1, $2, 'ada@example.com', '')",
            values: presented,
        },
    }
}

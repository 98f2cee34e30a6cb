//! The SQL functions.

use super::{Statement, Value};
use crate::workload::{Case, Workload};

pub fn call(workload: Workload, case: &Case) -> Statement {
    let presented = vec![Value::Text(case.token.clone()), case.text_email()];
    match workload {
        Workload::Create => Statement {
            sql: "SELECT * FROM magic_link.create_one_time_token($1, $2, $3)",
            values: vec![
                case.text_email(),
                Value::Integer(600),
                Value::Json(serde_json::json!({})),
            ],
        },
        Workload::Redeem(_) | Workload::SignIn => Statement {
            sql: "SELECT * FROM magic_link.redeem_one_time_token($1, $2)",
            values: presented,
        },
        // A row and not an error, like the others'.
        Workload::Refused => Statement {
            sql: "SELECT * FROM magic_link.try_redeem_one_time_token($1, $2)",
            values: presented,
        },
        Workload::Check => Statement {
            sql: "SELECT * FROM magic_link.check_one_time_token($1, $2)",
            values: presented,
        },
        Workload::SessionSwitch => Statement {
            sql: "SELECT * FROM magic_link.session_switch_decision($1, $2, 'ada@example.com', '')",
            values: presented,
        },
    }
}

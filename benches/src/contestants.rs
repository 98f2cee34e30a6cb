//! Who is compared, over the same tables and rows; each leaves the same rows behind.

mod application;
mod baseline;
mod one_statement;
mod ours;
mod plpgsql;

use magic_link_harness::postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::workload::{Case, Workload};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Contestant {
    Ours,
    PlPgsql,
    OneStatement,
    /// As query builders send it: each query parsed and planned when it comes.
    ApplicationSide,
    /// With statements prepared once for a session, where the application takes that trouble.
    ApplicationPrepared,
    Baseline,
}

/// What a client sends for one case.
#[derive(Debug)]
pub struct Call {
    pub statements: Vec<Statement>,
    /// Or each by itself.
    pub in_one_transaction: bool,
}

/// A statement and the values of its parameters.
#[derive(Debug)]
pub struct Statement {
    pub sql: &'static str,
    pub values: Vec<Value>,
}

#[derive(Debug, Clone)]
pub enum Value {
    Uuid(Uuid),
    Bytes(Vec<u8>),
    Text(String),
    Texts(Vec<String>),
    Json(serde_json::Value),
    Integer(i32),
}

impl Contestant {
    pub const ALL: [Self; 6] = [
        Self::Ours,
        Self::PlPgsql,
        Self::OneStatement,
        Self::ApplicationSide,
        Self::ApplicationPrepared,
        Self::Baseline,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::PlPgsql => "PL/pgSQL",
            Self::OneStatement => "one statement",
            Self::ApplicationSide => "application side",
            Self::ApplicationPrepared => "application side, prepared",
            Self::Baseline => "the baseline",
        }
    }

    /// What its sessions set before anything else.
    pub fn session(self) -> Option<&'static str> {
        match self {
            // Else it is planned anew at each call, for twice the instructions.
            Self::OneStatement => Some("SET plan_cache_mode = force_generic_plan"),
            _ => None,
        }
    }

    /// Whether its statements are prepared once for a session.
    pub fn prepares(self) -> bool {
        self != Self::ApplicationSide
    }

    /// None where it has no such thing.
    pub fn call(self, workload: Workload, case: &Case) -> Option<Call> {
        match self {
            Self::Ours => Some(ours::call(workload, case).into()),
            Self::PlPgsql => Some(plpgsql::call(workload, case).into()),
            Self::OneStatement => Some(one_statement::call(workload, case).into()),
            Self::ApplicationSide | Self::ApplicationPrepared => Some(Call {
                statements: application::calls(workload, case),
                in_one_transaction: false,
            }),
            Self::Baseline => Some(Call {
                statements: baseline::calls(workload, case)?,
                in_one_transaction: true,
            }),
        }
    }
}

/// What the contestants need to have installed beside the extension.
pub const SETUP: &str = include_str!("contestants/plpgsql.sql");

impl From<Statement> for Call {
    fn from(statement: Statement) -> Self {
        Self {
            statements: vec![statement],
            in_one_transaction: false,
        }
    }
}

impl Value {
    pub fn as_sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Uuid(id) => id,
            Self::Bytes(bytes) => bytes,
            Self::Text(text) => text,
            Self::Texts(texts) => texts,
            Self::Json(json) => json,
            Self::Integer(integer) => integer,
        }
    }

    pub fn sql_type(&self) -> Type {
        match self {
            Self::Uuid(_) => Type::UUID,
            Self::Bytes(_) => Type::BYTEA,
            Self::Text(_) => Type::TEXT,
            Self::Texts(_) => Type::TEXT_ARRAY,
            Self::Json(_) => Type::JSONB,
            Self::Integer(_) => Type::INT4,
        }
    }

    /// As a literal, for EXECUTE. Nothing that we send has a quote in it, or a backslash.
    pub fn literal(&self) -> String {
        match self {
            Self::Uuid(id) => format!("'{id}'"),
            Self::Bytes(bytes) => {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("'\\x{digits}'")
            }
            Self::Text(text) => format!("'{text}'"),
            Self::Texts(texts) => format!("'{{{}}}'", texts.join(",")),
            Self::Json(json) => format!("'{json}'"),
            Self::Integer(integer) => integer.to_string(),
        }
    }
}

impl Case {
    fn text_email(&self) -> Value {
        Value::Text(self.email.clone())
    }

    fn organization_ids(&self) -> Value {
        let ids = self.organizations.iter().map(|m| m.organization.clone());
        Value::Texts(ids.collect())
    }

    /// What an INSERT of a new token binds.
    fn new_row(&self) -> Vec<Value> {
        vec![
            Value::Uuid(self.id),
            Value::Bytes(self.hash.clone()),
            self.text_email(),
            self.organization_ids(),
            Value::Json(serde_json::json!({})),
        ]
    }
}

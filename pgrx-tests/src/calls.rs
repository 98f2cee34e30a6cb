//! The functions as a backend and a DBA call them, with every column of the answer read in its own
//! type. They work on a connection and within a transaction alike.

use std::time::SystemTime;

use postgres::{Error, GenericClient, Row};
use serde_json::Value;
use uuid::Uuid;

/// A row of `create_one_time_token`, or one of those of `create_one_time_tokens`.
#[derive(Debug, Clone, PartialEq)]
pub struct Issued {
    pub id: Uuid,
    pub token: String,
    pub email: String,
    /// As text, since a number in it may be larger than any of Rust's types can hold.
    pub context: String,
    pub status: String,
    pub created_at: SystemTime,
    pub expires_at: SystemTime,
}

/// A row of `redeem_one_time_token`.
#[derive(Debug, Clone, PartialEq)]
pub struct Redeemed {
    pub token_id: Uuid,
    pub user_id: String,
    pub user_created: bool,
    pub email: String,
    pub context: String,
    pub memberships: Value,
    pub redeemed_at: SystemTime,
    pub replayed: bool,
}

impl From<Row> for Issued {
    fn from(row: Row) -> Self {
        Self {
            id: row.get("id"),
            token: row.get("token"),
            email: row.get("email"),
            context: row.get("context"),
            status: row.get("status"),
            created_at: row.get("created_at"),
            expires_at: row.get("expires_at"),
        }
    }
}

impl From<&Row> for Redeemed {
    fn from(row: &Row) -> Self {
        Self {
            token_id: row.get("token_id"),
            user_id: row.get("user_id"),
            user_created: row.get("user_created"),
            email: row.get("email"),
            context: row.get("context"),
            memberships: row.get("memberships"),
            redeemed_at: row.get("redeemed_at"),
            replayed: row.get("replayed"),
        }
    }
}

const REDEEMED: &str =
    "token_id, user_id, user_created, email, context::text, memberships, redeemed_at, replayed";

/// The functions, for whatever runs statements.
pub trait Calls: GenericClient {
    /// `create_one_time_token` with the default lifetime; `context` is JSON.
    fn create(&mut self, email: &str, context: &str) -> Result<Issued, Error> {
        self.create_for(email, None, Some(context))
    }

    /// `create_one_time_token` with all its arguments.
    fn create_for(
        &mut self,
        email: &str,
        expires_in: Option<i32>,
        context: Option<&str>,
    ) -> Result<Issued, Error> {
        self.query_one(
            "SELECT id, token, email, context::text, status, created_at, expires_at
               FROM magic_link.create_one_time_token($1, $2, $3::text::jsonb)",
            &[&email, &expires_in, &context],
        )
        .map(Issued::from)
    }

    /// `create_one_time_tokens` with the default lifetime; `context` is JSON.
    fn create_all(&mut self, emails: &[&str], context: &str) -> Result<Vec<Issued>, Error> {
        let rows = self.query(
            "SELECT id, token, email, context::text, status, created_at, expires_at
               FROM magic_link.create_one_time_tokens($1, NULL, $2::text::jsonb)",
            &[&emails, &context],
        )?;
        Ok(rows.into_iter().map(Issued::from).collect())
    }

    /// `redeem_one_time_token` without an interaction event.
    fn redeem(&mut self, token: &str, email: &str) -> Result<Redeemed, Error> {
        self.redeem_in(None, token, email)
    }

    /// `redeem_one_time_token` with all its arguments.
    fn redeem_in(
        &mut self,
        interaction_event: Option<&str>,
        token: &str,
        email: &str,
    ) -> Result<Redeemed, Error> {
        self.query_one(
            &format!("SELECT {REDEEMED} FROM magic_link.redeem_one_time_token($1, $2, $3)"),
            &[&token, &email, &interaction_event],
        )
        .map(|row| Redeemed::from(&row))
    }

    /// `try_redeem_one_time_token`: the outcome, and the row where it is `ok`.
    ///
    /// A refusal that tells more than its outcome fails the test.
    fn try_redeem_in(
        &mut self,
        interaction_event: Option<&str>,
        token: &str,
        email: &str,
    ) -> Result<(String, Option<Redeemed>), Error> {
        let row = self.query_one(
            &format!(
                "SELECT outcome, {REDEEMED},
                        num_nonnulls(token_id, user_id, user_created, email, context, memberships,
                                     redeemed_at, replayed) AS told
                   FROM magic_link.try_redeem_one_time_token($1, $2, $3)"
            ),
            &[&token, &email, &interaction_event],
        )?;
        let outcome: String = row.get("outcome");
        if outcome == "ok" {
            return Ok((outcome, Some(Redeemed::from(&row))));
        }
        assert_eq!(
            row.get::<_, i32>("told"),
            0,
            "a refusal with more than its outcome"
        );
        Ok((outcome, None))
    }

    /// `check_one_time_token` with all its arguments.
    fn check_in(
        &mut self,
        interaction_event: Option<&str>,
        token: &str,
        email: &str,
    ) -> Result<String, Error> {
        self.query_one(
            "SELECT magic_link.check_one_time_token($1, $2, $3)",
            &[&token, &email, &interaction_event],
        )
        .map(|row| row.get(0))
    }

    /// `session_switch_decision`: the decision and its reason.
    fn decide(
        &mut self,
        token: &str,
        email: &str,
        session_email: Option<&str>,
        prompt: Option<&str>,
    ) -> Result<(String, Option<String>), Error> {
        self.query_one(
            "SELECT decision, reason FROM magic_link.session_switch_decision($1, $2, $3, $4)",
            &[&token, &email, &session_email, &prompt],
        )
        .map(|row| (row.get(0), row.get(1)))
    }

    /// `revoke_one_time_token`: the status afterwards.
    fn revoke(&mut self, id: Uuid) -> Result<String, Error> {
        self.query_one("SELECT magic_link.revoke_one_time_token($1)", &[&id])
            .map(|row| row.get(0))
    }

    /// `revoke_one_time_tokens`: how many were revoked.
    fn revoke_all(&mut self, email: &str, interaction_event: Option<&str>) -> Result<i64, Error> {
        self.query_one(
            "SELECT magic_link.revoke_one_time_tokens($1, $2)",
            &[&email, &interaction_event],
        )
        .map(|row| row.get(0))
    }

    /// `delete_one_time_token`: whether there was one.
    fn delete(&mut self, id: Uuid) -> Result<bool, Error> {
        self.query_one("SELECT magic_link.delete_one_time_token($1)", &[&id])
            .map(|row| row.get(0))
    }

    /// `purge_one_time_tokens`: how many rows are gone; `retention` is an interval's text.
    fn purge(&mut self, retention: &str, batch_size: i32) -> Result<i64, Error> {
        self.query_one(
            "SELECT magic_link.purge_one_time_tokens($1::text::interval, $2)",
            &[&retention, &batch_size],
        )
        .map(|row| row.get(0))
    }

    /// The decision of the view `session_switch` and its reason, with the settings made for one
    /// transaction, as a backend makes them.
    fn decide_by_view(
        &mut self,
        token_id: Uuid,
        session_email: &str,
        prompt: &str,
    ) -> Result<(String, Option<String>), Error> {
        let mut transaction = self.transaction()?;
        transaction.execute(
            "SELECT set_config('magic_link.session_email', $1, true), set_config('magic_link.prompt', $2, true)",
            &[&session_email, &prompt],
        )?;
        transaction
            .query_one(
                "SELECT decision, reason FROM magic_link.session_switch WHERE token_id = $1",
                &[&token_id],
            )
            .map(|row| (row.get(0), row.get(1)))
    }
}

impl<C: GenericClient> Calls for C {}

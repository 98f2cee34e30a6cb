//! tokio-postgres, with deadpool: a refusal is an error, and its code is the SQLSTATE.

use deadpool_postgres::{Pool, PoolError};
use serde_json::json;
use tokio_postgres::Error;

use crate::pages;

/// The address to mail to, and the link to mail; or what the page says.
pub async fn invite(
    pool: &Pool,
    email: &str,
    organization_id: &str,
) -> Result<Result<(String, String), String>, PoolError> {
    let context = json!({ "jitOrganizationIds": [organization_id] });
    let row = pool
        .get()
        .await?
        .query_one(
            "SELECT t.email, magic_link.compose_magic_link('https://app.example.com/sign-in', t.token, t.email)
               FROM magic_link.create_one_time_token($1, context => $2) AS t",
            &[&email, &context],
        )
        .await;
    match row {
        Ok(row) => Ok(Ok((row.get(0), row.get(1)))),
        Err(error) => page_of(error).map(Err),
    }
}

/// GET: a mail scanner may open the link, so this writes nothing.
pub async fn open_link(
    pool: &Pool,
    token: &str,
    email: &str,
    event: Option<&str>,
) -> Result<String, PoolError> {
    let check = "SELECT magic_link.check_one_time_token($1, $2, $3)";
    let row = pool
        .get()
        .await?
        .query_one(check, &[&token, &email, &event])
        .await;
    match row {
        Ok(row) => Ok(pages::outcome(row.get(0)).to_owned()),
        Err(error) => page_of(error),
    }
}

/// POST: the person goes on. `session_email` is None where nobody is signed in.
pub async fn confirm(
    pool: &Pool,
    token: &str,
    email: &str,
    session_email: Option<&str>,
    event: Option<&str>,
) -> Result<String, PoolError> {
    let client = pool.get().await?;
    let decide = "SELECT decision FROM magic_link.session_switch_decision($1, $2, $3)";
    let signed_in_as = session_email.unwrap_or("");
    match client
        .query_one(decide, &[&token, &email, &signed_in_as])
        .await
    {
        Ok(row) if row.get::<_, &str>(0) == "ask" => return Ok(pages::ASK.to_owned()),
        Ok(_) => {}
        Err(error) => return page_of(error),
    }
    let redeem = "SELECT user_id FROM magic_link.redeem_one_time_token($1, $2, $3)";
    match client.query_one(redeem, &[&token, &email, &event]).await {
        Ok(row) => Ok(pages::welcome(row.get(0))),
        Err(error) => page_of(error),
    }
}

/// What the page says of a refusal; other errors are errors.
fn page_of(error: Error) -> Result<String, PoolError> {
    let Some(refusal) = error.as_db_error() else {
        return Err(error.into());
    };
    match refusal.code().code() {
        "OT008" => Ok(pages::mailed_already(refusal.hint().unwrap_or_default())),
        code => pages::refused(code)
            .map(str::to_owned)
            .ok_or_else(|| error.into()),
    }
}

//! sqlx: a refusal is an error, and its code is the SQLSTATE.

use serde_json::json;
use sqlx::postgres::{PgDatabaseError, PgPool};
use sqlx::types::Json;
use sqlx::{Error, query_as, query_scalar};

use crate::pages;

/// The address to mail to, and the link to mail; or what the page says.
pub async fn invite(
    pool: &PgPool,
    email: &str,
    organization_id: &str,
) -> Result<Result<(String, String), String>, Error> {
    let context = json!({ "jitOrganizationIds": [organization_id] });
    let row = query_as(
        "SELECT t.email, magic_link.compose_magic_link('https://app.example.com/sign-in', t.token, t.email)
           FROM magic_link.create_one_time_token($1, context => $2) AS t",
    )
    .bind(email)
    .bind(Json(context));
    match row.fetch_one(pool).await {
        Ok(row) => Ok(Ok(row)),
        Err(error) => page_of(error).map(Err),
    }
}

/// GET: a mail scanner may open the link, so this writes nothing.
pub async fn open_link(
    pool: &PgPool,
    token: &str,
    email: &str,
    event: Option<&str>,
) -> Result<String, Error> {
    let outcome = query_scalar("SELECT magic_link.check_one_time_token($1, $2, $3)")
        .bind(token)
        .bind(email)
        .bind(event);
    match outcome.fetch_one(pool).await {
        Ok::<String, _>(outcome) => Ok(pages::outcome(&outcome).to_owned()),
        Err(error) => page_of(error),
    }
}

/// POST: the person goes on. `session_email` is None where nobody is signed in.
pub async fn confirm(
    pool: &PgPool,
    token: &str,
    email: &str,
    session_email: Option<&str>,
    event: Option<&str>,
) -> Result<String, Error> {
    let decision =
        query_scalar("SELECT decision FROM magic_link.session_switch_decision($1, $2, $3)")
            .bind(token)
            .bind(email)
            .bind(session_email.unwrap_or(""));
    match decision.fetch_one(pool).await {
        Ok::<String, _>(decision) if decision == "ask" => return Ok(pages::ASK.to_owned()),
        Ok(_) => {}
        Err(error) => return page_of(error),
    }
    let user_id = query_scalar("SELECT user_id FROM magic_link.redeem_one_time_token($1, $2, $3)")
        .bind(token)
        .bind(email)
        .bind(event);
    match user_id.fetch_one(pool).await {
        Ok::<String, _>(user_id) => Ok(pages::welcome(&user_id)),
        Err(error) => page_of(error),
    }
}

/// What the page says of a refusal; other errors are errors.
fn page_of(error: Error) -> Result<String, Error> {
    let refusal = error.as_database_error();
    let code = refusal
        .and_then(|refusal| refusal.code())
        .unwrap_or_default();
    if code == "OT008" {
        let hint = refusal.and_then(|refusal| refusal.downcast_ref::<PgDatabaseError>().hint());
        return Ok(pages::mailed_already(hint.unwrap_or_default()));
    }
    match pages::refused(&code) {
        Some(page) => Ok(page.to_owned()),
        None => Err(error),
    }
}

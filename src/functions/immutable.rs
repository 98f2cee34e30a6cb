//! Functions of their arguments alone, which read no table.

use domain::link;
use domain::token_row::TokenRow;
use pgrx::IntoDatum;
use pgrx::pg_sys::{self, Datum};

use super::arguments::{email, well_formed_token};
use crate::postgres::call::Call;
use crate::postgres::clock::Moment;
use crate::postgres::datum::{Column, pg_uuid};
use crate::postgres::entry_point::sql_function;
use crate::postgres::error::Error;

// Constraints call it, with the privileges of any role that writes.
sql_function!(normalize_email(1) for anybody);
fn normalize_email(call: &Call) -> Result<Option<Datum>, Error> {
    Ok(email(call, 0)?.as_str().into_datum())
}

sql_function!(one_time_token_id(1));
fn one_time_token_id(call: &Call) -> Result<Option<Datum>, Error> {
    let token = well_formed_token(call, 0)?;
    Ok(pg_uuid(token.id(&token.hash())).into_datum())
}

// Called by a CHECK constraint, with the privileges of any role that writes to one_time_tokens.
sql_function!(one_time_token_is_sound(1) for anybody);
fn one_time_token_is_sound(call: &Call) -> Result<Option<Datum>, Error> {
    const COLUMNS: [Column; 9] = [
        (c"token_hash", pg_sys::BYTEAOID),
        (c"created_at", pg_sys::TIMESTAMPTZOID),
        (c"expires_at", pg_sys::TIMESTAMPTZOID),
        (c"failed_attempts", pg_sys::INT4OID),
        (c"consumed_at", pg_sys::TIMESTAMPTZOID),
        (c"consumed_by", pg_sys::TEXTOID),
        (c"revoked_at", pg_sys::TIMESTAMPTZOID),
        (c"user_created", pg_sys::BOOLOID),
        (c"memberships", pg_sys::JSONBOID),
    ];
    let row = call.composite(0, &COLUMNS)?;
    let row = row.ok_or_else(|| Error::null_argument("one_time_token"))?;
    let row = TokenRow {
        token_hash_length: row.byte_length(0)?,
        created_at: row.get::<Moment>(1)?,
        expires_at: row.get(2)?,
        failed_attempts: row.get(3)?,
        has_consumed_at: row.has(4),
        has_consumed_by: row.has(5),
        has_revoked_at: row.has(6),
        has_user_created: row.has(7),
        has_memberships: row.has(8),
    };
    Ok(row.is_valid().into_datum())
}

sql_function!(compose_magic_link(6));
fn compose_magic_link(call: &Call) -> Result<Option<Datum>, Error> {
    let base_url = call.required_text(0, "base_url")?;
    let token = well_formed_token(call, 1)?;
    let email = email(call, 2)?;
    let (token_param, email_param) = (call.text(4)?, call.text(5)?);
    let compose = |params: &str| {
        link::compose(
            base_url,
            token.as_str(),
            email.as_str(),
            params,
            token_param.unwrap_or("token"),
            email_param.unwrap_or("email"),
        )
    };
    let link = match call.jsonb(3) {
        Some(params) => params.read_text(compose)?,
        None => compose("{}"),
    };
    let link = link.map_err(|why| Error::invalid("magic link", why))?;
    Ok(link.into_datum())
}

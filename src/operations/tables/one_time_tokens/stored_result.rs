//! The result of a redemption, stored so that it can be returned again.

use domain::presented_token::PresentedToken;
use pgrx::datum::TimestampWithTimeZone as Timestamp;

use super::row::{change_one, state_of};
use super::{BY_ID_0_2, column};
use crate::postgres::clock::Moment;
use crate::postgres::datum::pg_uuid;
use crate::postgres::error::Error;
use crate::postgres::heap_row::Key;
use crate::postgres::jsonb::JsonbDatum;
use crate::postgres::prepared_statement::{Parameters, statements};
use crate::postgres::spi::SpiConnection;

statements! {
    STORE_RESULT(UUIDOID, BOOLOID, JSONBOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET user_created = $2, memberships = $3
         WHERE t.id = $1";
}

pub struct StoredResult<'c> {
    pub consumed_by: String,
    pub consumed_at: Timestamp,
    pub user_created: bool,
    pub memberships: JsonbDatum<'c>,
    pub context: JsonbDatum<'c>,
}

/// Stores what a redemption returns, in its transaction.
pub fn store_result(
    spi: &SpiConnection,
    presented: &PresentedToken,
    user_created: bool,
    memberships: JsonbDatum,
) -> Result<(), Error> {
    let row = Parameters::of(pg_uuid(presented.id))
        .bind(user_created)
        .bind(memberships);
    change_one(spi, &STORE_RESULT, row)
}

/// What the redemption of this token returned, if that was stored no longer than so many seconds ago.
pub fn stored_result<'c>(
    spi: &SpiConnection<'c>,
    presented: &PresentedToken,
    seconds: i32,
) -> Result<Option<StoredResult<'c>>, Error> {
    let Some(row) = BY_ID_0_2.row(spi, &[Key::Uuid(presented.id)])? else {
        return Ok(None);
    };
    let now = Moment::now();
    let state = state_of(&row, presented, now)?;
    let may_be_returned = state.hash_matches
        && state.email_matches
        && state.event_allowed
        && row
            .get::<Moment>(column::CONSUMED_AT)?
            .is_some_and(|at| at.plus_seconds(seconds) > now)
        && !row.is_null(column::MEMBERSHIPS)?;
    if !may_be_returned {
        return Ok(None);
    }
    Ok(Some(StoredResult {
        consumed_by: row.required(column::CONSUMED_BY)?,
        consumed_at: row.required(column::CONSUMED_AT)?,
        user_created: row.required(column::USER_CREATED)?,
        memberships: spi.outlived_by(row.required_jsonb(column::MEMBERSHIPS)?),
        context: spi.outlived_by(row.required_jsonb(column::CONTEXT)?),
    }))
}

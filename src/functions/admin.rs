//! The functions for a DBA: revoking, deleting and purging tokens.

use domain::outcome::TokenStatus;
use pgrx::IntoDatum;
use pgrx::pg_sys::Datum;

use super::arguments::{email, interaction_event};
use crate::operations::purge::{BatchSize, Cutoff, purge};
use crate::operations::revoke::{Events, Revoker, delete, revoke, revoke_all};
use crate::operations::tables::address_lock::lock_addresses;
use crate::postgres::call::{Call, forbid_in_read_only_transaction};
use crate::postgres::entry_point::sql_function;
use crate::postgres::error::{Error, SqlState};
use crate::postgres::spi::SpiConnection;

sql_function!(revoke_one_time_token(1));
fn revoke_one_time_token(call: &Call) -> Result<Option<Datum>, Error> {
    forbid_in_read_only_transaction(c"revoke_one_time_token()");
    let id = call.required_uuid(0, "id")?;
    let status = SpiConnection::with(call.memory(), |spi| revoke(spi, id))?;
    let no_data = || Error::new(SqlState::NO_DATA, "no one-time token has this id");
    let status = status.map(TokenStatus::as_str).ok_or_else(no_data)?;
    Ok(status.into_datum())
}

sql_function!(revoke_one_time_tokens(2));
fn revoke_one_time_tokens(call: &Call) -> Result<Option<Datum>, Error> {
    forbid_in_read_only_transaction(c"revoke_one_time_tokens()");
    let emails = [email(call, 0)?];
    let event = interaction_event(call, 1)?;
    let events = match &event {
        Some(event) => Events::Only(Some(event)),
        None => Events::Any,
    };
    let revoked = SpiConnection::with(call.memory(), |spi| {
        lock_addresses(&emails);
        revoke_all(spi, &emails, events, Revoker::Role)
    })?;
    Ok((revoked as i64).into_datum())
}

sql_function!(delete_one_time_token(1));
fn delete_one_time_token(call: &Call) -> Result<Option<Datum>, Error> {
    forbid_in_read_only_transaction(c"delete_one_time_token()");
    let id = call.required_uuid(0, "id")?;
    let deleted = SpiConnection::with(call.memory(), |spi| delete(spi, id))?;
    Ok(deleted.into_datum())
}

sql_function!(purge_one_time_tokens(2));
fn purge_one_time_tokens(call: &Call) -> Result<Option<Datum>, Error> {
    forbid_in_read_only_transaction(c"purge_one_time_tokens()");
    let retention = call.interval(0);
    let retention = retention.ok_or_else(|| Error::null_argument("retention"))?;
    let rows = call.integer(1);
    let rows = rows.ok_or_else(|| Error::null_argument("batch_size"))?;
    let batch_size = BatchSize::new(rows)?;
    let cutoff = Cutoff::new(retention)?;
    Ok(purge(call.memory(), &cutoff, batch_size)?.into_datum())
}

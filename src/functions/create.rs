//! Creating tokens.

use domain::email::Email;
use pgrx::pg_sys::Datum;

use super::arguments::{email, emails, issue_request};
use crate::operations::issue::{IssuedToken, issue, issue_all};
use crate::postgres::call::{Call, forbid_in_read_only_transaction};
use crate::postgres::datum::pg_uuid;
use crate::postgres::entry_point::sql_function;
use crate::postgres::error::Error;
use crate::postgres::jsonb::JsonbDatum;
use crate::postgres::row_builder::RowBuilder;
use crate::postgres::spi::SpiConnection;

sql_function!(create_one_time_token(3));
fn create_one_time_token(call: &Call) -> Result<Option<Datum>, Error> {
    forbid_in_read_only_transaction(c"create_one_time_token()");
    let email = email(call, 0)?;
    let request = issue_request(call)?;
    let row_type = call.row_type()?;
    let token = SpiConnection::with(call.memory(), |spi| issue(spi, &email, &request))?;
    row_type.row(issued(&token, &email, request.context)?)
}

sql_function!(create_one_time_tokens(3));
fn create_one_time_tokens(call: &Call) -> Result<Option<Datum>, Error> {
    forbid_in_read_only_transaction(c"create_one_time_tokens()");
    let emails = emails(call, 0)?;
    let request = issue_request(call)?;
    let row_set = call.row_set();
    let tokens = SpiConnection::with(call.memory(), |spi| issue_all(spi, &emails, &request))?;
    let addressed = tokens.iter().zip(&emails);
    row_set.fill(addressed.map(|(token, email)| issued(token, email, request.context)))
}

fn issued(token: &IssuedToken, email: &Email, context: JsonbDatum) -> Result<RowBuilder, Error> {
    Ok(RowBuilder::default()
        .column(pg_uuid(token.id))
        .column(token.token.as_str())
        .column(email.as_str())
        .column(context)
        .column("active")
        .column(token.created_at.timestamp()?)
        .column(token.expires_at.timestamp()?))
}

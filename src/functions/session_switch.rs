//! What to do when a link is opened in a browser that is signed in already.

use domain::presented_token::PresentedToken;
use domain::refusal::Refusal;
use domain::token::Token;
use pgrx::pg_sys::Datum;

use super::arguments::email;
use crate::operations::session_switch::{decide, session_email};
use crate::postgres::call::Call;
use crate::postgres::entry_point::sql_function;
use crate::postgres::error::Error;
use crate::postgres::row_builder::RowBuilder;
use crate::postgres::spi::SpiConnection;

sql_function!(session_switch_decision(4));
fn session_switch_decision(call: &Call) -> Result<Option<Datum>, Error> {
    let token = Token::parse(call.required_text(0, "token")?);
    let email = email(call, 1)?;
    let session_email = session_email(call.text(2)?)?;
    let prompt = call.text(3)?;
    let row_type = call.row_type()?;
    let decision = match token {
        Some(token) => {
            let presented = PresentedToken::new(&token, &email, None);
            SpiConnection::with(call.memory(), |spi| {
                decide(spi, &presented, &session_email, prompt)
            })?
        }
        None => Refusal::TokenNotFound.into(),
    };
    row_type.row(
        RowBuilder::default()
            .column(decision.decision)
            .column(decision.reason),
    )
}

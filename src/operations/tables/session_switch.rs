//! The view `session_switch`.

use uuid::Uuid;

use crate::postgres::datum::pg_uuid;
use crate::postgres::error::Error;
use crate::postgres::local_settings::with_session;
use crate::postgres::prepared_statement::{Parameters, statements};
use crate::postgres::spi::{SpiConnection, SpiRow};

statements! {
    DECISION(UUIDOID) = c"
        SELECT s.decision, s.reason FROM magic_link.session_switch AS s WHERE s.token_id = $1";
}

/// What to do, and why where that is not the plain case.
pub struct Decision {
    pub decision: String,
    pub reason: Option<String>,
}

/// The view's decision on a token; None where there is no such token. `session_email` and `prompt` stand in place of the
/// settings; None leaves the prompt that is set.
pub fn decision(
    spi: &SpiConnection,
    token_id: Uuid,
    session_email: &str,
    prompt: Option<&str>,
) -> Result<Option<Decision>, Error> {
    let row = with_session(session_email, prompt, || {
        spi.row(&DECISION, Parameters::of(pg_uuid(token_id)))
    })?;
    let read = |row: SpiRow| {
        Ok(Decision {
            decision: row.required(1)?,
            reason: row.get(2)?,
        })
    };
    row.map(read).transpose()
}

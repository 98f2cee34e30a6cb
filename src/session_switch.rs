//! What to do when a link is opened in a browser that is signed in already. The view
//! `session_switch` decides; here it is asked about the one token that somebody presents.

use crate::email::Email;
use crate::ledger::{self, Claim};
use crate::outcome::{Facts, Refusal};
use crate::raise::{Failure, Report};
use crate::settings;
use crate::statements::{Parameters, Spi, statements};

statements! {
    DECISION(UUIDOID) = c"
        SELECT s.decision, s.reason FROM magic_link.session_switch AS s WHERE s.token_id = $1";
}

pub struct Decision {
    pub decision: String,
    pub reason: Option<String>,
}

impl From<Refusal> for Decision {
    fn from(refusal: Refusal) -> Self {
        Self {
            decision: "refuse".to_owned(),
            reason: Some(refusal.as_str().to_owned()),
        }
    }
}

/// `session_email` and `prompt` stand in place of the settings; None leaves what is set.
pub fn decide(
    spi: &Spi,
    claim: &Claim,
    session_email: Option<&str>,
    prompt: Option<&str>,
) -> Result<Decision, Failure> {
    if let Some(refusal) = Facts::stranger(ledger::facts(spi, claim)?) {
        return Ok(refusal.into());
    }
    let row = settings::with_session(session_email, prompt, || {
        spi.row(&DECISION, Parameters::of(ledger::pg_uuid(claim.id)))
    })?;
    let Some(row) = row else {
        return Ok(Refusal::TokenNotFound.into());
    };
    Ok(Decision {
        decision: row.required(1)?,
        reason: row.get(2)?,
    })
}

/// The session account as the view reads it: a blank one is nobody.
pub fn parse_session_email(session_email: &str) -> Result<Option<Email>, Failure> {
    if session_email.trim().is_empty() {
        return Ok(None);
    }
    Email::parse(session_email)
        .map(Some)
        .map_err(|why| Report::invalid("session_email", why).into())
}

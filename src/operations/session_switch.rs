//! What to do when a link is opened in a browser that is signed in already. The view
//! `session_switch` decides; here it is asked about the one token that somebody presents.

use crate::operations::tables::one_time_tokens::{self, Claim};
use crate::postgres::datum::pg_uuid;
use crate::postgres::error::Error;
use crate::postgres::settings;
use crate::postgres::spi::{Parameters, Spi, statements};
use domain::email::Email;
use domain::outcome::{Facts, Refusal};

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

/// `session_email` and `prompt` stand in place of the settings; None leaves the prompt that is set.
pub fn decide(
    spi: &Spi,
    claim: &Claim,
    session_email: &str,
    prompt: Option<&str>,
) -> Result<Decision, Error> {
    if let Some(refusal) = Facts::stranger(one_time_tokens::facts(spi, claim)?) {
        return Ok(refusal.into());
    }
    let row = settings::with_session(session_email, prompt, || {
        spi.row(&DECISION, Parameters::of(pg_uuid(claim.id)))
    })?;
    let Some(row) = row else {
        return Ok(Refusal::TokenNotFound.into());
    };
    Ok(Decision {
        decision: row.required(1)?,
        reason: row.get(2)?,
    })
}

/// The session account: the argument, or the setting where that is NULL; empty for nobody. The view
/// has the same rule: blanks are nobody, and what is no address is an error.
pub fn session_email(argument: Option<&str>) -> Result<String, Error> {
    match argument {
        Some(typed) => normal_form("session_email", typed),
        None => {
            settings::read_session_email(|typed| normal_form("magic_link.session_email", typed))
        }
    }
}

fn normal_form(name: &str, typed: &str) -> Result<String, Error> {
    if typed.trim_ascii().is_empty() {
        return Ok(String::new());
    }
    match Email::parse(typed) {
        Ok(email) => Ok(email.as_str().to_owned()),
        Err(why) => Err(Error::invalid(name, why)),
    }
}

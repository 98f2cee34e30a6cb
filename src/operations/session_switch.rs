//! What to do when a link is opened in a browser that is signed in already. The view
//! `session_switch` decides; here it is asked about the one token that somebody presents.

use domain::email::Email;
use domain::outcome::TokenState;
use domain::presented_token::PresentedToken;
use domain::refusal::Refusal;

use super::tables::one_time_tokens;
use super::tables::session_switch::{Decision, decision};
use crate::postgres::error::Error;
use crate::postgres::settings;
use crate::postgres::spi::SpiConnection;

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
    spi: &SpiConnection,
    presented: &PresentedToken,
    session_email: &str,
    prompt: Option<&str>,
) -> Result<Decision, Error> {
    let state = one_time_tokens::state(spi, presented)?;
    if let Some(refusal) = TokenState::identity_mismatch(state) {
        return Ok(refusal.into());
    }
    let decision = decision(spi, presented.id, session_email, prompt)?;
    Ok(decision.unwrap_or_else(|| Refusal::TokenNotFound.into()))
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

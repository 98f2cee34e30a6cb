//! What redeeming a token would say.

use domain::outcome::Outcome;
use domain::presented_token::PresentedToken;
use domain::refusal::Refusal;

use super::release::Release;
use super::replay::replay;
use super::tables::one_time_tokens;
use super::tables::users::find_user;
use crate::postgres::error::Error;
use crate::postgres::spi::SpiConnection;

/// It writes nothing, and locks no row.
pub fn check(
    spi: &SpiConnection,
    presented: &PresentedToken,
    release: Release,
) -> Result<Outcome, Error> {
    // The token first: for whom it is not, the time that a look for the user takes would tell whether there is one.
    match Outcome::evaluate(one_time_tokens::state(spi, presented)?, true) {
        Outcome::Refused(refusal) if replay(spi, presented, refusal, release)?.is_some() => {
            Ok(Outcome::Ok)
        }
        Outcome::Ok
            if !presented.may_create_user() && find_user(spi, presented.email)?.is_none() =>
        {
            Ok(Outcome::Refused(Refusal::UserNotFound))
        }
        outcome => Ok(outcome),
    }
}

//! The first result again, for a token that was redeemed a moment ago.

use domain::presented_token::PresentedToken;
use domain::refusal::Refusal;

use super::redeem::Redemption;
use super::release::Release;
use super::tables::one_time_tokens::stored_result;
use super::tables::users::find_current_user;
use crate::postgres::error::Error;
use crate::postgres::settings;
use crate::postgres::spi::SpiConnection;

/// None where there is no result to return: the token is refused for another reason, the result was not stored or not
/// lately, or the user is not there any more.
pub fn replay<'c>(
    spi: &SpiConnection<'c>,
    presented: &PresentedToken,
    refusal: Refusal,
    release: Release,
) -> Result<Option<Redemption<'c>>, Error> {
    let consumed = refusal == Refusal::TokenConsumed && release >= Release::V0_2;
    let Some(window) = settings::replay_window().filter(|_| consumed) else {
        return Ok(None);
    };
    let (result, user) = (
        stored_result(spi, presented, window)?,
        find_current_user(spi, presented.email)?,
    );
    let (Some(result), Some(user)) = (result, user) else {
        return Ok(None);
    };
    if result.consumed_by != user.to_string() {
        return Ok(None);
    }
    Ok(Some(Redemption {
        token_id: presented.id,
        user,
        user_created: result.user_created,
        context: result.context,
        memberships: result.memberships,
        redeemed_at: result.consumed_at,
        replayed: true,
    }))
}

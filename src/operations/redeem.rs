//! Redeeming a token.
//!
//! Locks are taken in one order: the address (where a limit asks for it), the token's row, the user's,
//! then for each organization in order of id the organization, the membership and its roles in order of
//! id. So redemptions cannot deadlock; but for what is renamed while they wait for it, which they look up
//! again.
//!
//! What was looked up before a lock was waited for is looked up again behind it: the token's state and
//! the clock behind the token's lock, the user behind that, and the user's address behind the user's own.

use domain::outcome::Outcome;
use domain::presented_token::PresentedToken;
use domain::refusal::Refusal;
use domain::user_id::UserId;
use pgrx::datum::TimestampWithTimeZone as Timestamp;
use uuid::Uuid;

use super::MAX_ATTEMPTS;
use super::join_organizations::{ResolvedUser, join_organizations};
use super::release::Release;
use super::replay::replay;
use super::tables::one_time_tokens::{Consumed, TokenView, store_result};
use super::tables::users::{create_user, find_current_user, lock_user};
use super::token_lock::{TokenLock, lock_token};
use crate::postgres::error::Error;
use crate::postgres::jsonb::JsonbDatum;
use crate::postgres::random::new_uuid;
use crate::postgres::settings;
use crate::postgres::spi::SpiConnection;

/// What redeeming a token came to.
pub struct Redemption<'c> {
    pub token_id: Uuid,
    pub user: UserId,
    pub user_created: bool,
    pub context: JsonbDatum<'c>,
    pub memberships: JsonbDatum<'c>,
    pub redeemed_at: Timestamp,
    /// Whether this is the result of an earlier call, returned again.
    pub replayed: bool,
}

/// Consumes the token and does all that follows from it, or says why not and leaves it as it was.
pub fn redeem<'c>(
    spi: &SpiConnection<'c>,
    presented: &PresentedToken,
    release: Release,
) -> Result<Result<Redemption<'c>, Refusal>, Error> {
    let refuse = |token: TokenView| {
        let outcome = Outcome::evaluate(Some(token.state(presented)?), true);
        Ok(outcome.refusal())
    };
    let token = match lock_token(spi, presented.id, refuse)? {
        TokenLock::Locked(token) => token,
        TokenLock::Refused(refusal) => {
            return Ok(replay(spi, presented, refusal, release)?.ok_or(refusal));
        }
        TokenLock::NotFound => return Ok(Err(Refusal::TokenNotFound)),
    };
    let organization_ids = token.organization_ids()?;
    let Some(user) = resolve_user(spi, presented, !organization_ids.is_empty())? else {
        return Ok(Err(Refusal::UserNotFound));
    };
    let consumed = token.consume(spi, &user.id.to_string(), organization_ids)?;
    complete(spi, presented, consumed, user, release).map(Ok)
}

/// The same, and an attempt with the wrong address is counted.
pub fn try_redeem<'c>(
    spi: &SpiConnection<'c>,
    presented: &PresentedToken,
    release: Release,
) -> Result<Result<Redemption<'c>, Refusal>, Error> {
    let redeemed = redeem(spi, presented, release)?;
    if matches!(redeemed, Err(Refusal::EmailMismatch)) && release >= Release::V0_2 {
        record_failed_attempt(spi, presented)?;
    }
    Ok(redeemed)
}

/// Counts only where the right address could have redeemed the token.
fn record_failed_attempt(spi: &SpiConnection, presented: &PresentedToken) -> Result<(), Error> {
    let refuse = |token: TokenView| {
        let state = token.state(presented)?;
        let ended = state.consumed || state.revoked || state.expired;
        Ok((!state.hash_matches || state.email_matches || ended).then_some(()))
    };
    if let TokenLock::Locked(token) = lock_token(spi, presented.id, refuse)? {
        token.record_failed_attempt(spi, settings::max_failed_attempts())?;
    }
    Ok(())
}

/// The user who has the address, behind the token's lock; created where there is none and the event allows it.
/// Who is going to join is locked as well, and so keeps the address; who joins nothing may be deleted
/// now as well as a moment later.
fn resolve_user(
    spi: &SpiConnection,
    presented: &PresentedToken,
    joins: bool,
) -> Result<Option<ResolvedUser>, Error> {
    for _ in 0..MAX_ATTEMPTS {
        let found = if joins {
            lock_user(spi, presented.email)?
        } else {
            find_current_user(spi, presented.email)?
        };
        if let Some(id) = found {
            return Ok(Some(ResolvedUser { id, created: false }));
        }
        if !presented.may_create_user() {
            return Ok(None);
        }
        let proposed_id = UserId::new(new_uuid()?);
        if let Some(id) = create_user(spi, presented.email, proposed_id)? {
            return Ok(Some(ResolvedUser { id, created: true }));
        }
    }
    Err(Error::row_suppressed("users"))
}

/// Joins the organizations, behind the locks of the token and of its user.
fn complete<'c>(
    spi: &SpiConnection<'c>,
    presented: &PresentedToken,
    consumed: Consumed<'c>,
    user: ResolvedUser,
    release: Release,
) -> Result<Redemption<'c>, Error> {
    let domain_of = (user.created && release >= Release::V0_2).then_some(presented.email);
    let memberships = join_organizations(spi, user, &consumed, domain_of)?;
    let memberships = spi.to_jsonb(&memberships)?;
    if release >= Release::V0_2 && settings::replay_window().is_some() {
        store_result(spi, presented, user.created, memberships)?;
    }
    Ok(Redemption {
        token_id: presented.id,
        user: user.id,
        user_created: user.created,
        context: consumed.context,
        memberships,
        redeemed_at: consumed.consumed_at,
        replayed: false,
    })
}

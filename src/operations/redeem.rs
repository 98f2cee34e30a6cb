//! Redeeming a token: the one place where the ledger and the directory meet on the way out.
//!
//! Locks are taken in one order: the address (where a limit asks for it), the token's row, the user's,
//! then for each organization in order of id the organization, the membership and its roles in order of
//! id. So redemptions cannot deadlock; but for what is renamed while they wait for it, which they look up
//! again.
//!
//! What was looked up before a lock was waited for is looked up again behind it: the token's state and
//! the clock behind the token's lock, the user behind that, and the user's address behind the user's own.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::datum::TimestampWithTimeZone as Timestamp;
use uuid::Uuid;

use crate::operations::tables::memberships::{self, ATTEMPTS, Member, Membership, UserId};
use crate::operations::tables::one_time_tokens::{self, Claim, Consumed, TokenView};
use crate::operations::token_lock::{TokenLock, lock_token};
use crate::postgres::clock::new_uuid;
use crate::postgres::datum::Jsonb;
use crate::postgres::error::{Error, SqlState};
use crate::postgres::index_lookup::concurrent_update;
use crate::postgres::settings;
use crate::postgres::spi::Spi;
use domain::context::{Context, InteractionEvent};
use domain::email::Email;
use domain::outcome::{Outcome, Refusal};

/// What a redeemed token came to.
pub struct Redemption<'c> {
    pub token_id: Uuid,
    pub user: UserId,
    pub user_created: bool,
    pub context: Jsonb<'c>,
    pub memberships: Jsonb<'c>,
    pub redeemed_at: Timestamp,
    /// Whether this is the answer to an earlier call, given again.
    pub replayed: bool,
}

/// Whose tables are there: an older release's, between a new library and ALTER EXTENSION UPDATE.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    V0_1,
    /// Counts failed attempts, keeps answers, knows the e-mail domains of organizations.
    V0_2,
}

/// A user, and whether this call created it.
#[derive(Clone, Copy)]
struct ResolvedUser {
    id: UserId,
    created: bool,
}

/// Consumes the token and does all that follows from it, or says why not and leaves it as it was.
pub fn redeem<'c>(
    spi: &Spi<'c>,
    claim: &Claim,
    release: Release,
) -> Result<Result<Redemption<'c>, Refusal>, Error> {
    let refuse = |token: TokenView| {
        Ok(match Outcome::judge(Some(token.facts(claim)?), true) {
            Outcome::Ok => None,
            Outcome::Refused(refusal) => Some(refusal),
        })
    };
    let token = match lock_token(spi, claim.id, refuse)? {
        TokenLock::Locked(token) => token,
        TokenLock::Refused(refusal) => {
            return Ok(replay(spi, claim, refusal, release)?.ok_or(refusal));
        }
        TokenLock::NotFound => return Ok(Err(Refusal::TokenNotFound)),
    };
    let organization_ids = token.organization_ids()?;
    let Some(user) = resolve_user(spi, claim, !organization_ids.is_empty())? else {
        return Ok(Err(Refusal::UserNotFound));
    };
    let consumed = token.consume(spi, &user.id.to_string(), organization_ids)?;
    complete(spi, claim, consumed, user, release).map(Ok)
}

/// The same, and a claim with the wrong address is remembered.
pub fn try_redeem<'c>(
    spi: &Spi<'c>,
    claim: &Claim,
    release: Release,
) -> Result<Result<Redemption<'c>, Refusal>, Error> {
    let redeemed = redeem(spi, claim, release)?;
    if matches!(redeemed, Err(Refusal::EmailMismatch)) && release >= Release::V0_2 {
        record_failed_attempt(spi, claim)?;
    }
    Ok(redeemed)
}

/// Only what could be redeemed, by the right address, is worth counting for.
fn record_failed_attempt(spi: &Spi, claim: &Claim) -> Result<(), Error> {
    let refuse = |token: TokenView| {
        let facts = token.facts(claim)?;
        let ended = facts.consumed || facts.revoked || facts.expired;
        Ok((!facts.hash_matches || facts.email_matches || ended).then_some(()))
    };
    if let TokenLock::Locked(token) = lock_token(spi, claim.id, refuse)? {
        token.record_failed_attempt(spi, settings::max_failed_attempts())?;
    }
    Ok(())
}

/// What redeeming would say. It writes nothing.
pub fn check(spi: &Spi, claim: &Claim, release: Release) -> Result<Outcome, Error> {
    // The token first: to whom it does not belong, looking for the user would tell by its work who is one.
    match Outcome::judge(one_time_tokens::facts(spi, claim)?, true) {
        Outcome::Refused(refusal) if replay(spi, claim, refusal, release)?.is_some() => {
            Ok(Outcome::Ok)
        }
        Outcome::Ok
            if !creates_users(claim) && memberships::find_user(spi, claim.email)?.is_none() =>
        {
            Ok(Outcome::Refused(Refusal::UserNotFound))
        }
        outcome => Ok(outcome),
    }
}

/// The first answer again, for a token that was consumed a moment ago by a user who is still there.
fn replay<'c>(
    spi: &Spi<'c>,
    claim: &Claim,
    refusal: Refusal,
    release: Release,
) -> Result<Option<Redemption<'c>>, Error> {
    let consumed = refusal == Refusal::TokenConsumed && release >= Release::V0_2;
    let Some(window) = settings::replay_window().filter(|_| consumed) else {
        return Ok(None);
    };
    let (answer, user) = (
        one_time_tokens::answer(spi, claim, window)?,
        memberships::find_user_now(spi, claim.email)?,
    );
    let (Some(answer), Some(user)) = (answer, user) else {
        return Ok(None);
    };
    if answer.consumed_by != user.to_string() {
        return Ok(None);
    }
    Ok(Some(Redemption {
        token_id: claim.id,
        user,
        user_created: answer.user_created,
        context: answer.context,
        memberships: answer.memberships,
        redeemed_at: answer.consumed_at,
        replayed: true,
    }))
}

/// A token of an event is redeemed in this event alone, so the caller's word decides.
fn creates_users(claim: &Claim) -> bool {
    claim
        .interaction_event
        .is_none_or(InteractionEvent::creates_users)
}

/// The user who has the address, behind the token's lock; created where there is none and the event lets it
/// be. Who is going to join is locked as well, and so keeps the address; who joins nothing may be deleted
/// now as well as a moment later.
fn resolve_user(spi: &Spi, claim: &Claim, joins: bool) -> Result<Option<ResolvedUser>, Error> {
    for _ in 0..ATTEMPTS {
        let found = if joins {
            memberships::lock_user(spi, claim.email)?
        } else {
            memberships::find_user_now(spi, claim.email)?
        };
        if let Some(id) = found {
            return Ok(Some(ResolvedUser { id, created: false }));
        }
        if !creates_users(claim) {
            return Ok(None);
        }
        let candidate = UserId::from_v7(new_uuid()?);
        if let Some(id) = memberships::create_user(spi, claim.email, candidate)? {
            return Ok(Some(ResolvedUser { id, created: true }));
        }
    }
    Err(Error::suppressed("users"))
}

/// Joins the organizations, behind the locks of the token and of its user.
fn complete<'c>(
    spi: &Spi<'c>,
    claim: &Claim,
    consumed: Consumed<'c>,
    user: ResolvedUser,
    release: Release,
) -> Result<Redemption<'c>, Error> {
    let domain = (user.created && release >= Release::V0_2).then_some(claim.email);
    let memberships = join_all(spi, user, &consumed, domain)?;
    if release >= Release::V0_2 && settings::replay_window().is_some() {
        one_time_tokens::record_answer(spi, claim, user.created, memberships)?;
    }
    Ok(Redemption {
        token_id: claim.id,
        user: user.id,
        user_created: user.created,
        context: consumed.context,
        memberships,
        redeemed_at: consumed.consumed_at,
        replayed: false,
    })
}

/// Joins the organizations that the token names, and those of the domain of an address, if there is one.
fn join_all<'c>(
    spi: &Spi<'c>,
    user: ResolvedUser,
    consumed: &Consumed,
    domain_of: Option<&Email>,
) -> Result<Jsonb<'c>, Error> {
    let meaning = meaning_of(consumed)?;
    let of_domain = || match domain_of {
        Some(email) => memberships::organizations_of_domain(spi, email),
        None => Ok(vec![]),
    };
    let named = &consumed.organization_ids;
    let mut wanted: BTreeSet<String> = named.iter().cloned().collect();
    wanted.extend(of_domain()?);
    let mut memberships = BTreeMap::new();
    for _ in 0..ATTEMPTS {
        if wanted.is_empty() {
            break;
        }
        let member = Member::new(user.id, user.created)?;
        let mut lost = false;
        for id in std::mem::take(&mut wanted) {
            let roles = meaning.organization_role_ids().get(&id);
            let membership = memberships::join(spi, member, &id, roles.map(Vec::as_slice))?;
            // The token does not name it: where it is gone there is nothing to tell.
            if membership.is_missing() && !named.contains(&id) {
                lost = true;
            } else {
                memberships.insert(id, membership);
            }
        }
        if lost {
            // It may have been renamed, or replaced by another, while its lock was waited for.
            wanted.extend(of_domain()?);
            wanted.retain(|id| !memberships.contains_key(id));
        }
    }
    if !wanted.is_empty() {
        return Err(concurrent_update());
    }
    let memberships: Vec<Membership> = memberships.into_values().collect();
    spi.to_jsonb(&memberships)
}

/// The context was checked when the token was created; only a hand in the table changes that. Where
/// no organization is to be joined it is not read.
fn meaning_of(consumed: &Consumed) -> Result<Context, Error> {
    if consumed.organization_ids.is_empty() {
        return Ok(Context::default());
    }
    consumed.context.read_text(Context::parse)?.map_err(|why| {
        Error::new(
            SqlState::DATA_CORRUPTED,
            "the context of the one-time token was changed after its creation",
        )
        .detail(why)
    })
}

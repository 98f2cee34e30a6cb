//! Redeeming a token: the one place where the ledger and the directory meet on the way out.
//!
//! Locks are taken in one order: the token's row, the user's, then for each organization in order of
//! id the organization, the membership and its roles in order of id. So redemptions cannot deadlock.

use std::collections::BTreeMap;

use pgrx::datum::TimestampWithTimeZone as Timestamp;
use uuid::Uuid;

use crate::context::{Context, InteractionEvent};
use crate::directory::{self, Member, Membership, UserId};
use crate::fmgr::Jsonb;
use crate::ledger::{self, Claim, Consumed};
use crate::outcome::{Outcome, Refusal};
use crate::raise::{Failure, Report, SqlState};
use crate::settings;
use crate::statements::Spi;
use crate::system::new_uuid;

/// What a redeemed token came to.
pub struct Redemption {
    pub token_id: Uuid,
    pub user: UserId,
    pub user_created: bool,
    pub context: Jsonb,
    pub memberships: Jsonb,
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

/// A token may be consumed, and given back, between the look at it and the UPDATE; somebody else has
/// to commit each time, so this many in a row are a trigger's work.
const ATTEMPTS: usize = 16;

/// Consumes the token and does all that follows from it, or says why not and leaves it as it was.
pub fn redeem(
    spi: &Spi,
    claim: &Claim,
    release: Release,
) -> Result<Result<Redemption, Refusal>, Failure> {
    for _ in 0..ATTEMPTS {
        // An UPDATE that finds nothing costs ten times this look.
        if let Outcome::Refused(refusal) = Outcome::judge(ledger::facts(spi, claim)?, true) {
            return Ok(replay(spi, claim, refusal, release)?.ok_or(refusal));
        }
        let found = directory::find_user(spi, claim.email)?;
        if found.is_none() && !creates_users(claim) {
            return Ok(Err(Refusal::UserNotFound));
        }
        let candidate = found.map_or_else(new_user, Ok)?;
        if let Some(consumed) = ledger::consume(spi, claim, &candidate.to_string())? {
            return complete(spi, claim, consumed, found, candidate, release).map(Ok);
        }
    }
    Err(Report::suppressed("one_time_tokens").into())
}

/// The same, and a claim with the wrong address is remembered.
pub fn try_redeem(
    spi: &Spi,
    claim: &Claim,
    release: Release,
) -> Result<Result<Redemption, Refusal>, Failure> {
    let redeemed = redeem(spi, claim, release)?;
    if matches!(redeemed, Err(Refusal::EmailMismatch)) && release >= Release::V0_2 {
        ledger::record_failed_attempt(spi, claim, settings::max_failed_attempts())?;
    }
    Ok(redeemed)
}

/// What redeeming would say. It writes nothing.
pub fn check(spi: &Spi, claim: &Claim, release: Release) -> Result<Outcome, Failure> {
    // The token first: to whom it does not belong, looking for the user would tell by its work who is one.
    match Outcome::judge(ledger::facts(spi, claim)?, true) {
        Outcome::Refused(refusal) if replay(spi, claim, refusal, release)?.is_some() => {
            Ok(Outcome::Ok)
        }
        Outcome::Ok
            if !creates_users(claim) && directory::find_user(spi, claim.email)?.is_none() =>
        {
            Ok(Outcome::Refused(Refusal::UserNotFound))
        }
        outcome => Ok(outcome),
    }
}

/// The first answer again, for a token that was consumed a moment ago by a user who is still there.
fn replay(
    spi: &Spi,
    claim: &Claim,
    refusal: Refusal,
    release: Release,
) -> Result<Option<Redemption>, Failure> {
    let consumed = refusal == Refusal::TokenConsumed && release >= Release::V0_2;
    let Some(window) = settings::replay_window().filter(|_| consumed) else {
        return Ok(None);
    };
    let (answer, user) = (
        ledger::answer(spi, claim, window)?,
        directory::find_user(spi, claim.email)?,
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

fn new_user() -> Result<UserId, Failure> {
    new_uuid().map(UserId::from_v7)
}

/// Steps 4 and 5, behind the row that `claim` has won in the name of `consumer`.
fn complete(
    spi: &Spi,
    claim: &Claim,
    consumed: Consumed,
    found: Option<UserId>,
    consumer: UserId,
    release: Release,
) -> Result<Redemption, Failure> {
    let joins = !consumed.organization_ids.is_empty();
    let (user, user_created) = settle_user(spi, claim, joins, found, consumer)?;
    if user != consumer {
        ledger::set_consumer(spi, claim, &user.to_string())?;
    }
    let roles = meaning_of(&consumed)?;
    let mut organization_ids = consumed.organization_ids;
    if user_created && release >= Release::V0_2 {
        organization_ids.extend(directory::organizations_of_domain(spi, claim.email)?);
        organization_ids.sort_unstable();
        organization_ids.dedup();
    }
    let roles = roles.organization_role_ids();
    let memberships = join_all(spi, (user, user_created), &organization_ids, roles)?;
    if release >= Release::V0_2 && settings::replay_window().is_some() {
        ledger::record_answer(spi, claim, user_created, memberships)?;
    }
    Ok(Redemption {
        token_id: claim.id,
        user,
        user_created,
        context: consumed.context,
        memberships,
        redeemed_at: consumed.consumed_at,
        replayed: false,
    })
}

/// The user that was found, or `consumer`, or whoever came in between; and whether it was created.
fn settle_user(
    spi: &Spi,
    claim: &Claim,
    joins: bool,
    found: Option<UserId>,
    consumer: UserId,
) -> Result<(UserId, bool), Failure> {
    let mut settled = match found {
        Some(user) => (user, false),
        None => directory::find_or_create_user(spi, claim.email, consumer)?,
    };
    for _ in 0..ATTEMPTS {
        let (user, created) = settled;
        // A user who joins nothing may be deleted now as well as a moment later.
        if created || !joins || directory::lock_user(spi, user)? {
            return Ok(settled);
        }
        if !creates_users(claim) {
            return Err(user_deleted());
        }
        settled = directory::find_or_create_user(spi, claim.email, new_user()?)?;
    }
    Err(Report::suppressed("users").into())
}

fn join_all(
    spi: &Spi,
    (user, user_created): (UserId, bool),
    organization_ids: &[String],
    roles: &BTreeMap<String, Vec<String>>,
) -> Result<Jsonb, Failure> {
    let mut memberships: Vec<Membership> = vec![];
    if !organization_ids.is_empty() {
        let member = Member::new(spi, user, user_created)?;
        for id in organization_ids {
            let roles = roles.get(id).map(Vec::as_slice);
            memberships.push(directory::join(spi, member, id, roles)?);
        }
    }
    Ok(Jsonb::from_serialize(&memberships)?.outliving_spi())
}

fn user_deleted() -> Failure {
    Report::new(
        SqlState::SERIALIZATION_FAILURE,
        "could not serialize access due to concurrent delete of the user",
    )
    .hint("Redeem the token again.")
    .into()
}

/// The context was checked when the token was created; only a hand in the table changes that. Where
/// no organization is to be joined it is not read.
fn meaning_of(consumed: &Consumed) -> Result<Context, Failure> {
    if consumed.organization_ids.is_empty() {
        return Ok(Context::default());
    }
    Context::parse(&consumed.context.to_text()?).map_err(|why| {
        Report::new(
            SqlState::DATA_CORRUPTED,
            "the context of the one-time token was changed after its creation",
        )
        .detail(why)
        .into()
    })
}

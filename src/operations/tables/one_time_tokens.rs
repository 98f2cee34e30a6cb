//! The token's row: written when it is issued, consumed once, read to say why not or to answer again.

use std::thread::LocalKey;

use pgrx::datum::TimestampWithTimeZone as Timestamp;
use pgrx::pg_sys;
use uuid::Uuid;

use crate::postgres::clock::Moment;
use crate::postgres::datum::{Column, Jsonb, pg_uuid};
use crate::postgres::error::Error;
use crate::postgres::index_lookup::{FoundRow, HeapRow, IndexLookup, Key, LockedRow};
use crate::postgres::scan::Strength;
use crate::postgres::spi::{Parameters, Spi, Statement, statements};
use crate::postgres::table::Table;
use domain::context::{Context, InteractionEvent};
use domain::email::Email;
use domain::outcome::Facts;
use domain::token::{Token, TokenHash};

/// As they have been since 0.2.
const COLUMNS: &[Column] = &[
    (c"id", pg_sys::UUIDOID),
    (c"token_hash", pg_sys::BYTEAOID),
    (c"email", pg_sys::TEXTOID),
    (c"organization_ids", pg_sys::TEXTARRAYOID),
    (c"interaction_event", pg_sys::TEXTOID),
    (c"context", pg_sys::JSONBOID),
    (c"created_at", pg_sys::TIMESTAMPTZOID),
    (c"expires_at", pg_sys::TIMESTAMPTZOID),
    (c"consumed_at", pg_sys::TIMESTAMPTZOID),
    (c"consumed_by", pg_sys::TEXTOID),
    (c"revoked_at", pg_sys::TIMESTAMPTZOID),
    (c"revoked_by", pg_sys::TEXTOID),
    (c"failed_attempts", pg_sys::INT4OID),
    (c"user_created", pg_sys::BOOLOID),
    (c"memberships", pg_sys::JSONBOID),
];

/// Where they are, from 1.
mod column {
    pub const ID: usize = 1;
    pub const TOKEN_HASH: usize = 2;
    pub const EMAIL: usize = 3;
    pub const ORGANIZATION_IDS: usize = 4;
    pub const INTERACTION_EVENT: usize = 5;
    pub const CONTEXT: usize = 6;
    pub const EXPIRES_AT: usize = 8;
    pub const CONSUMED_AT: usize = 9;
    pub const CONSUMED_BY: usize = 10;
    pub const REVOKED_AT: usize = 11;
    pub const USER_CREATED: usize = 14;
    pub const MEMBERSHIPS: usize = 15;
}

/// As much of them as the first release has.
static TABLE: Table = Table::new(c"one_time_tokens", COLUMNS.split_at(column::REVOKED_AT).0);
static BY_ID: IndexLookup = IndexLookup::unique(&TABLE, &[1]);

static TABLE_0_2: Table = Table::new(c"one_time_tokens", COLUMNS);
static BY_ID_0_2: IndexLookup = IndexLookup::unique(&TABLE_0_2, &[1]);

statements! {
    INSERT(UUIDOID, BYTEAOID, TEXTOID, TEXTARRAYOID, TEXTOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID) = c"
        INSERT INTO magic_link.one_time_tokens
               (id, token_hash, email, organization_ids, interaction_event, context, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

    INSERT_ALL(UUIDARRAYOID, BYTEAARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID) = c"
        INSERT INTO magic_link.one_time_tokens
               (id, token_hash, email, organization_ids, interaction_event, context, created_at, expires_at)
        SELECT n.id, n.token_hash, n.email, $4, $5, $6, $7, $8
          FROM unnest($1, $2, $3) AS n (id, token_hash, email)";

    // Behind the row's lock. The conditions hold then, but for a trigger that redeems or revokes the token
    // while its user is created.
    CONSUME(UUIDOID, TIMESTAMPTZOID, TEXTOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET consumed_at = $2, consumed_by = $3
         WHERE t.id = $1 AND t.consumed_at IS NULL AND t.revoked_at IS NULL";

    RECORD_ANSWER(UUIDOID, BOOLOID, JSONBOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET user_created = $2, memberships = $3
         WHERE t.id = $1";

    // Behind the row's lock. A count that is full stays so.
    RECORD_FAILED_ATTEMPT(UUIDOID, INT4OID, TIMESTAMPTZOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET failed_attempts = LEAST(t.failed_attempts, 2147483646) + 1,
               revoked_at = CASE WHEN t.failed_attempts >= NULLIF($2, 0) - 1 THEN $3 END,
               revoked_by = CASE WHEN t.failed_attempts >= NULLIF($2, 0) - 1 THEN 'magic_link.max_failed_attempts' END
         WHERE t.id = $1 AND t.consumed_at IS NULL AND t.revoked_at IS NULL";

    DELETE(UUIDOID) = c"
        DELETE FROM magic_link.one_time_tokens AS t WHERE t.id = $1";

    REVOKE(UUIDOID, TIMESTAMPTZOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET revoked_at = $2, revoked_by = SESSION_USER
         WHERE t.id = $1 AND t.consumed_at IS NULL AND t.revoked_at IS NULL";
}

/// What the tokens of one call have in common.
pub struct Terms<'a> {
    /// What the context means, and the context itself.
    pub meaning: &'a Context,
    pub context: Jsonb<'a>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

/// What somebody who presents a token says: the token, for this address, in this event.
pub struct Claim<'a> {
    pub id: Uuid,
    pub hash: TokenHash,
    pub email: &'a Email,
    pub interaction_event: Option<&'a InteractionEvent>,
}

/// What a redemption answered, kept to be answered again.
pub struct Answer<'c> {
    pub consumed_by: String,
    pub consumed_at: Timestamp,
    pub user_created: bool,
    pub memberships: Jsonb<'c>,
    pub context: Jsonb<'c>,
}

/// What a consumed row hands over.
pub struct Consumed<'c> {
    pub context: Jsonb<'c>,
    pub organization_ids: Vec<String>,
    pub consumed_at: Timestamp,
}

impl<'a> Claim<'a> {
    pub fn new(
        token: &Token,
        email: &'a Email,
        interaction_event: Option<&'a InteractionEvent>,
    ) -> Self {
        let hash = token.hash();
        Self {
            id: token.id(&hash),
            hash,
            email,
            interaction_event,
        }
    }
}

impl Terms<'_> {
    fn parameters(&self, addressed: Parameters) -> Parameters {
        let event = self.meaning.interaction_event();
        addressed
            .and(self.meaning.organization_ids().to_vec())
            .and(event.map(InteractionEvent::as_str))
            .and(self.context)
            .and(self.created_at)
            .and(self.expires_at)
    }
}

/// Writes the row of a new token and answers its id.
pub fn insert(spi: &Spi, token: &Token, email: &Email, terms: &Terms) -> Result<Uuid, Error> {
    let hash = token.hash();
    let id = token.id(&hash);
    let addressed = Parameters::of(pg_uuid(id))
        .and(hash.as_bytes())
        .and(email.as_str());
    let written = spi.execute(&INSERT, terms.parameters(addressed));
    if written? == 0 {
        return Err(Error::suppressed("one_time_tokens"));
    }
    Ok(id)
}

/// The same for many tokens, each for the address in its place.
pub fn insert_all(
    spi: &Spi,
    tokens: &[Token],
    emails: &[Email],
    terms: &Terms,
) -> Result<Vec<Uuid>, Error> {
    let hashes: Vec<TokenHash> = tokens.iter().map(Token::hash).collect();
    let ids: Vec<Uuid> = tokens.iter().zip(&hashes).map(|(t, h)| t.id(h)).collect();
    let addressed = Parameters::of(ids.iter().copied().map(pg_uuid).collect::<Vec<_>>())
        .and(hashes.iter().map(TokenHash::as_bytes).collect::<Vec<_>>())
        .and(emails.iter().map(Email::as_str).collect::<Vec<_>>());
    let written = spi.execute(&INSERT_ALL, terms.parameters(addressed))?;
    if written != tokens.len() as u64 {
        return Err(Error::suppressed("one_time_tokens"));
    }
    Ok(ids)
}

/// A token's row as a look found it.
pub struct FoundToken<'s>(FoundRow<'s>);

/// A token's row that is locked until the end of the transaction, as it is behind the lock.
pub struct LockedToken<'s> {
    row: HeapRow<'s>,
    /// The clock as read behind the lock.
    locked_at: Moment,
}

/// A token's row at a moment.
pub struct TokenView<'r, 's> {
    row: &'r HeapRow<'s>,
    seen_at: Moment,
}

/// What a token's row says by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Active,
    Consumed,
    Revoked,
    Expired,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Consumed => "consumed",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

/// Looks a token up, to be locked and written if it is the right one. None where no token has this id.
pub fn find<'s>(spi: &'s Spi, id: Uuid) -> Result<Option<FoundToken<'s>>, Error> {
    let found = BY_ID.find(spi, &[Key::Uuid(id)], pg_sys::RowExclusiveLock)?;
    Ok(found.map(FoundToken))
}

impl<'s> FoundToken<'s> {
    pub fn view(&self) -> TokenView<'_, 's> {
        TokenView {
            row: self.0.row(),
            seen_at: Moment::now(),
        }
    }

    /// Leaves it as it is, unlocked.
    pub fn close(self) {
        self.0.close();
    }

    /// Locks it, and waits for whoever has it; None where it was changed meanwhile: look again.
    pub fn lock(self, id: Uuid) -> Result<Option<LockedToken<'s>>, Error> {
        let LockedRow::Locked(row) = self.0.lock(&[Key::Uuid(id)], Strength::NoKeyUpdate)? else {
            return Ok(None);
        };
        let locked_at = Moment::now();
        Ok(Some(LockedToken { row, locked_at }))
    }
}

impl<'s> TokenView<'_, 's> {
    /// What there is to say of a claim.
    pub fn facts(&self, claim: &Claim) -> Result<Facts, Error> {
        facts_of(self.row, claim, self.seen_at)
    }

    /// As the view one_time_token_status has it, at this moment.
    pub fn status(&self, at: Moment) -> Result<Status, Error> {
        Ok(if !self.row.is_null(column::CONSUMED_AT)? {
            Status::Consumed
        } else if !self.row.is_null(column::REVOKED_AT)? {
            Status::Revoked
        } else if self.row.required::<Moment>(column::EXPIRES_AT)? <= at {
            Status::Expired
        } else {
            Status::Active
        })
    }

    /// The address that the token was issued for. It never changes.
    pub fn email(&self) -> Result<&'s str, Error> {
        self.row.required_text(column::EMAIL)
    }
}

impl<'s> LockedToken<'s> {
    pub fn view(&self) -> TokenView<'_, 's> {
        TokenView {
            row: &self.row,
            seen_at: self.locked_at,
        }
    }

    /// The organizations to join, in order of id.
    pub fn organization_ids(&self) -> Result<Vec<String>, Error> {
        // An array can hold NULLs, if not by our doing.
        let ids: Vec<Option<String>> = self.row.required(column::ORGANIZATION_IDS)?;
        Ok(ids.into_iter().flatten().collect())
    }

    /// Consumes the token in the name of this user: of any number of callers, the one who has the lock.
    pub fn consume<'c>(
        &self,
        spi: &Spi<'c>,
        consumer: &str,
        organization_ids: Vec<String>,
    ) -> Result<Consumed<'c>, Error> {
        let consumed_at = self.locked_at.timestamp()?;
        let row = self.parameters()?.and(consumed_at).and(consumer);
        change_one(spi, &CONSUME, row)?;
        Ok(Consumed {
            context: spi.outlived_by(self.row.required_jsonb(column::CONTEXT)?),
            organization_ids,
            consumed_at,
        })
    }

    pub fn revoke(&self, spi: &Spi, at: Moment) -> Result<(), Error> {
        let row = self.parameters()?.and(at.timestamp()?);
        change_one(spi, &REVOKE, row)
    }

    pub fn delete(&self, spi: &Spi) -> Result<(), Error> {
        change_one(spi, &DELETE, self.parameters()?)
    }

    /// Counts a claim with the wrong address; the token is revoked when there were as many as `limit`,
    /// if that is not 0.
    pub fn record_failed_attempt(&self, spi: &Spi, limit: i32) -> Result<(), Error> {
        let row = self.parameters()?.and(limit);
        change_one(
            spi,
            &RECORD_FAILED_ATTEMPT,
            row.and(self.locked_at.timestamp()?),
        )
    }

    fn parameters(&self) -> Result<Parameters, Error> {
        Ok(Parameters::of(self.row.required::<pgrx::Uuid>(column::ID)?))
    }
}

/// What there is to say of a claim; None where no token has its id. It writes nothing, and locks no row.
pub fn facts(spi: &Spi, claim: &Claim) -> Result<Option<Facts>, Error> {
    let row = BY_ID.row(spi, &[Key::Uuid(claim.id)])?;
    row.map(|row| facts_of(&row, claim, Moment::now()))
        .transpose()
}

/// Whether all that is committed has a token with this id, whatever the transaction's snapshot sees.
pub fn is_committed(spi: &Spi, id: Uuid) -> Result<bool, Error> {
    Ok(BY_ID.latest_row(spi, &[Key::Uuid(id)])?.is_some())
}

fn facts_of(row: &HeapRow, claim: &Claim, now: Moment) -> Result<Facts, Error> {
    let event = row.text(column::INTERACTION_EVENT)?;
    Ok(Facts {
        hash_matches: row.bytes(column::TOKEN_HASH)? == Some(claim.hash.as_bytes()),
        email_matches: row.text(column::EMAIL)? == Some(claim.email.as_str()),
        consumed: !row.is_null(column::CONSUMED_AT)?,
        revoked: !row.is_null(column::REVOKED_AT)?,
        expired: row.required::<Moment>(column::EXPIRES_AT)? <= now,
        event_allowed: event.is_none()
            || event == claim.interaction_event.map(InteractionEvent::as_str),
    })
}

/// Keeps what a redemption answers, in the same transaction.
pub fn record_answer(
    spi: &Spi,
    claim: &Claim,
    user_created: bool,
    memberships: Jsonb,
) -> Result<(), Error> {
    let row = Parameters::of(pg_uuid(claim.id))
        .and(user_created)
        .and(memberships);
    change_one(spi, &RECORD_ANSWER, row)
}

/// What the redemption of `claim` answered, if it was kept and is not older than so many seconds.
pub fn answer<'c>(spi: &Spi<'c>, claim: &Claim, seconds: i32) -> Result<Option<Answer<'c>>, Error> {
    let Some(row) = BY_ID_0_2.row(spi, &[Key::Uuid(claim.id)])? else {
        return Ok(None);
    };
    let now = Moment::now();
    let facts = facts_of(&row, claim, now)?;
    let kept = facts.hash_matches
        && facts.email_matches
        && facts.event_allowed
        && row
            .get::<Moment>(9)?
            .is_some_and(|at| at.plus_seconds(seconds) > now)
        && !row.is_null(column::MEMBERSHIPS)?;
    if !kept {
        return Ok(None);
    }
    Ok(Some(Answer {
        consumed_by: row.required(column::CONSUMED_BY)?,
        consumed_at: row.required(column::CONSUMED_AT)?,
        user_created: row.required(column::USER_CREATED)?,
        memberships: spi.outlived_by(row.required_jsonb(column::MEMBERSHIPS)?),
        context: spi.outlived_by(row.required_jsonb(column::CONTEXT)?),
    }))
}

/// Runs a statement that writes one row.
fn change_one(
    spi: &Spi,
    statement: &'static LocalKey<Statement>,
    parameters: Parameters,
) -> Result<(), Error> {
    match spi.execute(statement, parameters)? {
        0 => Err(Error::suppressed("one_time_tokens")),
        _ => Ok(()),
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::{Claim, LockedToken, Status, facts, find};
    use crate::postgres::clock::Moment;
    use crate::postgres::datum::CallMemory;
    use crate::postgres::spi::Spi;
    use domain::context::InteractionEvent;
    use domain::email::Email;
    use domain::outcome::{Outcome, Refusal};
    use domain::token::Token;

    /// A token for ada@example.com, in the event `SignIn`.
    fn issue() -> Token {
        let token = pgrx::Spi::get_one::<String>(
            r#"SELECT token FROM magic_link.create_one_time_token('ada@example.com', context => '{"interactionEvent": "SignIn"}')"#,
        );
        Token::parse(&token.unwrap().unwrap()).unwrap()
    }

    fn email(address: &str) -> Email {
        Email::parse(address).unwrap()
    }

    fn verdict(spi: &Spi, claim: &Claim) -> Outcome {
        Outcome::judge(facts(spi, claim).unwrap(), true)
    }

    fn lock<'s>(spi: &'s Spi, claim: &Claim) -> LockedToken<'s> {
        let found = find(spi, claim.id).unwrap().unwrap();
        found.lock(claim.id).unwrap().unwrap()
    }

    #[pg_test]
    fn a_wrong_claim_is_refused_and_a_token_is_consumed_once() {
        let (token, other_token) = (issue(), issue());
        let (ada, eve) = (email("ada@example.com"), email("eve@example.com"));
        let sign_in = InteractionEvent::parse("SignIn").unwrap();
        let register = InteractionEvent::parse("Register").unwrap();
        let mut forged = Claim::new(&token, &ada, Some(&sign_in));
        forged.hash = other_token.hash();
        let wrong = [
            (forged, Refusal::TokenNotFound),
            (
                Claim::new(&token, &eve, Some(&sign_in)),
                Refusal::EmailMismatch,
            ),
            (
                Claim::new(&token, &ada, Some(&register)),
                Refusal::InteractionEventMismatch,
            ),
            (
                Claim::new(&token, &ada, None),
                Refusal::InteractionEventMismatch,
            ),
        ];
        let spi = Spi::connect(CallMemory::of_test()).unwrap();
        for (claim, refusal) in wrong {
            let refused = Outcome::Refused(refusal);
            assert_eq!(verdict(&spi, &claim), refused);
            let locked = lock(&spi, &claim).view().facts(&claim).unwrap();
            assert_eq!(Outcome::judge(Some(locked), true), refused);
        }
        let right = Claim::new(&token, &ada, Some(&sign_in));
        assert_eq!(verdict(&spi, &right), Outcome::Ok);
        let locked = lock(&spi, &right);
        locked.consume(&spi, "ada", vec![]).unwrap();
        assert!(locked.consume(&spi, "eve", vec![]).is_err());
        assert!(lock(&spi, &right).view().status(Moment::now()).unwrap() == Status::Consumed);
        assert_eq!(
            verdict(&spi, &right),
            Outcome::Refused(Refusal::TokenConsumed)
        );
    }

    #[pg_test]
    fn a_miss_takes_no_transaction_id() {
        let token = Token::parse(&"0".repeat(32)).unwrap();
        let ada = email("ada@example.com");
        let spi = Spi::connect(CallMemory::of_test()).unwrap();
        let claim = Claim::new(&token, &ada, None);
        assert!(find(&spi, claim.id).unwrap().is_none());
        drop(spi);
        let assigned = pgrx::Spi::connect(|client| {
            let row = client.select(
                "SELECT pg_current_xact_id_if_assigned() IS NOT NULL",
                None,
                &[],
            );
            row.unwrap().first().get_one::<bool>()
        });
        assert_eq!(assigned, Ok(Some(false)));
    }
}

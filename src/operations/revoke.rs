//! Tokens that end before anybody redeems them, and rows that go.

use pgrx::datum::{Interval, TimestampWithTimeZone as Timestamp};
use uuid::Uuid;

use crate::operations::tables::one_time_tokens::{self, Status, TokenView};
use crate::operations::token_lock::{TokenLock, lock_token};
use crate::postgres::clock::Moment;
use crate::postgres::datum::{CallMemory, pg_uuid};
use crate::postgres::error::{Error, SqlState, internal};
use crate::postgres::scan::uses_transaction_snapshot;
use crate::postgres::spi::{Parameters, Spi, statements};
use domain::context::InteractionEvent;
use domain::email::Email;
use domain::token;

statements! {
    // now(), which an index can use, is never later than the clock.
    REVOKE_ALL(TEXTARRAYOID, BOOLOID, TEXTOID, TEXTOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET revoked_at = pg_catalog.clock_timestamp(), revoked_by = COALESCE($4, SESSION_USER)
         WHERE t.email = ANY ($1) AND ($2 OR t.interaction_event IS NOT DISTINCT FROM $3)
           AND t.consumed_at IS NULL AND t.revoked_at IS NULL
           AND t.expires_at > pg_catalog.now() AND t.expires_at > pg_catalog.clock_timestamp()";

    // A month is not as long as another, so what is negative is seen in the answer.
    CUTOFF(INTERVALOID) = c"
        SELECT c.clock - $1, c.clock - $1 > c.clock FROM (SELECT pg_catalog.clock_timestamp()) AS c (clock)";

    // Found by key and deleted by place: each is one walk through a batch, whatever the planner thinks
    // of the ledger's size.
    PURGE(UUIDOID, UUIDOID, TIMESTAMPTZOID, INT4OID) = c"
        WITH ended AS MATERIALIZED (
            SELECT t.id, t.ctid AS place FROM magic_link.one_time_tokens AS t
             WHERE t.id > $1 AND t.id < $2 AND LEAST(t.consumed_at, t.revoked_at, t.expires_at) < $3
             ORDER BY t.id LIMIT $4 FOR UPDATE SKIP LOCKED),
        deleted AS (
            DELETE FROM magic_link.one_time_tokens AS t
             WHERE t.ctid = ANY (ARRAY(SELECT e.place FROM ended AS e)) RETURNING t.id)
        SELECT (SELECT e.id FROM ended AS e ORDER BY e.id DESC LIMIT 1),
               (SELECT pg_catalog.count(*) FROM ended), (SELECT pg_catalog.count(*) FROM deleted)";
}

/// Tokens of which event.
#[derive(Clone, Copy)]
pub enum Events<'a> {
    Any,
    Only(Option<&'a InteractionEvent>),
}

/// Who revokes: the role that is logged in, or a setting.
#[derive(Clone, Copy)]
pub enum Revoker {
    Role,
    RevokePrevious,
}

/// Revokes a token if it is active, and answers its status afterwards; None where there is none. Whoever
/// asked while it was active has revoked it, however long the row was waited for.
pub fn revoke(spi: &Spi, id: Uuid) -> Result<Option<Status>, Error> {
    let asked_at = Moment::now();
    let refuse = |token: TokenView| {
        let status = token.status(asked_at)?;
        Ok((status != Status::Active).then_some(status))
    };
    match lock_token(spi, id, refuse)? {
        TokenLock::Locked(token) => {
            token.revoke(spi, asked_at)?;
            Ok(Some(Status::Revoked))
        }
        TokenLock::Refused(status) => Ok(Some(status)),
        TokenLock::NotFound => unknown(spi, id).map(|()| None),
    }
}

/// Revokes the active tokens of addresses that are locked, and answers how many they were.
pub fn revoke_all(
    spi: &Spi,
    emails: &[Email],
    events: Events,
    revoker: Revoker,
) -> Result<u64, Error> {
    let (any, event) = match events {
        Events::Any => (true, None),
        Events::Only(event) => (false, event.map(InteractionEvent::as_str)),
    };
    let setting = match revoker {
        Revoker::Role => None,
        Revoker::RevokePrevious => Some("magic_link.revoke_previous"),
    };
    let tokens = Parameters::of(texts(emails))
        .and(any)
        .and(event)
        .and(setting);
    spi.execute_on_latest(&REVOKE_ALL, tokens)
}

/// Deletes a token's row, and answers whether there was one.
pub fn delete(spi: &Spi, id: Uuid) -> Result<bool, Error> {
    let never = |_: TokenView| Ok(None::<()>);
    match lock_token(spi, id, never)? {
        TokenLock::Locked(token) => token.delete(spi).map(|()| true),
        TokenLock::Refused(()) | TokenLock::NotFound => unknown(spi, id).map(|()| false),
    }
}

/// 40001 where a token is unknown only because it was issued after the transaction's snapshot.
fn unknown(spi: &Spi, id: Uuid) -> Result<(), Error> {
    if !uses_transaction_snapshot() || !one_time_tokens::is_committed(spi, id)? {
        return Ok(());
    }
    let message = "could not serialize access due to concurrent insert of the one-time token";
    Err(Error::new(SqlState::SERIALIZATION_FAILURE, message))
}

/// What ended before this moment may be purged.
pub struct Cutoff(Timestamp);

impl Cutoff {
    pub fn new(spi: &Spi, retention: Interval) -> Result<Self, Error> {
        let row = spi.row(&CUTOFF, Parameters::of(retention))?;
        let row = row.ok_or_else(|| internal("CUTOFF"))?;
        if row.required(2)? {
            return Err(Error::invalid("retention", "It must not be negative."));
        }
        row.required(1).map(Self)
    }
}

/// How many rows are deleted at a time.
#[derive(Clone, Copy)]
pub struct BatchSize(i32);

impl BatchSize {
    pub fn new(rows: i32) -> Result<Self, Error> {
        if rows < 1 {
            return Err(Error::invalid("batch_size", "It must be at least 1."));
        }
        Ok(Self(rows))
    }
}

/// Deletes the tokens that ended before the cutoff, oldest first, but for those that somebody has
/// locked; answers how many they were. No redemption waits for it: it takes no row that could be redeemed.
///
/// What was issued since the cutoff has not ended before it, and is not looked at. But for what was issued
/// while the clock was ahead, by its id in a time that is still to come.
pub fn purge(memory: &CallMemory, cutoff: &Cutoff, batch_size: BatchSize) -> Result<i64, Error> {
    let end = token::id_after(Moment::from(cutoff.0).unix_millis());
    let now = token::id_after(Moment::now().unix_millis());
    let issued_before = purge_range(memory, cutoff, batch_size, (Uuid::nil(), end))?;
    Ok(issued_before + purge_range(memory, cutoff, batch_size, (now.max(end), Uuid::max()))?)
}

/// Purges what has an id between these two.
fn purge_range(
    memory: &CallMemory,
    cutoff: &Cutoff,
    batch_size: BatchSize,
    (mut last, end): (Uuid, Uuid),
) -> Result<i64, Error> {
    let mut purged = 0;
    loop {
        // A connection for each, which takes the batch's memory with it.
        let spi = Spi::connect(memory)?;
        let batch = Parameters::of(pg_uuid(last))
            .and(pg_uuid(end))
            .and(cutoff.0)
            .and(batch_size.0);
        let row = spi.row(&PURGE, batch)?;
        let row = row.ok_or_else(|| internal("PURGE"))?;
        let found: i64 = row.required(2)?;
        purged += row.required::<i64>(3)?;
        if found < i64::from(batch_size.0) {
            return Ok(purged);
        }
        let id: pgrx::Uuid = row.required(1)?;
        last = Uuid::from_bytes(*id.as_bytes());
    }
}

/// For a parameter.
pub fn texts(emails: &[Email]) -> Vec<&str> {
    emails.iter().map(Email::as_str).collect()
}

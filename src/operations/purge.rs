//! Deleting tokens that ended long ago.

use domain::token;
use pgrx::datum::Interval;
use uuid::Uuid;

use super::tables::one_time_tokens::purge_batch;
use crate::postgres::clock::Moment;
use crate::postgres::datum::CallMemory;
use crate::postgres::error::Error;
use crate::postgres::spi::SpiConnection;

/// What ended before this moment may be purged.
pub struct Cutoff(Moment);

impl Cutoff {
    /// 22023 where the retention is negative, 22008 where it leads out of the calendar.
    pub fn new(retention: Interval) -> Result<Self, Error> {
        let now = Moment::now();
        let cutoff = now.minus(retention)?;
        // A month is not as long as another, so what is negative is seen in the result.
        if cutoff > now {
            return Err(Error::invalid("retention", "It must not be negative."));
        }
        Ok(Self(cutoff))
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
/// What was issued since the cutoff has not ended before it, and is not looked at; but for what was issued
/// while the clock was ahead, by its id in a time that is still to come.
pub fn purge(memory: &CallMemory, cutoff: &Cutoff, batch_size: BatchSize) -> Result<i64, Error> {
    let end = token::id_after(cutoff.0.unix_millis());
    let now = token::id_after(Moment::now().unix_millis());
    let issued_before = purge_range(memory, cutoff, batch_size, (Uuid::nil(), end))?;
    let issued_ahead = purge_range(memory, cutoff, batch_size, (now.max(end), Uuid::max()))?;
    Ok(issued_before + issued_ahead)
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
        let spi = SpiConnection::connect(memory)?;
        let batch = purge_batch(&spi, (last, end), cutoff.0, batch_size.0)?;
        purged += batch.deleted;
        match batch.last {
            Some(id) if batch.found >= i64::from(batch_size.0) => last = id,
            _ => return Ok(purged),
        }
    }
}

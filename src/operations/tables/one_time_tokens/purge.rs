//! Deleting the rows of tokens that ended long ago.

use uuid::Uuid;

use crate::postgres::clock::Moment;
use crate::postgres::datum::{from_pg_uuid, pg_uuid};
use crate::postgres::error::Error;
use crate::postgres::prepared_statement::{Parameters, statements};
use crate::postgres::spi::SpiConnection;

statements! {
    // Found by key and deleted by place (ctid): each is one walk through a batch, whatever the planner thinks of the
    // table's size.
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

/// What deleting a batch came to.
pub struct PurgedBatch {
    /// The last id that was found; None where none was.
    pub last: Option<Uuid>,
    pub found: i64,
    /// A trigger may keep rows.
    pub deleted: i64,
}

/// Deletes, in order of id, `limit` tokens at most of those that ended before `cutoff` and have an id between these two.
/// A row that somebody has locked is passed over.
pub fn purge_batch(
    spi: &SpiConnection,
    (after, before): (Uuid, Uuid),
    cutoff: Moment,
    limit: i32,
) -> Result<PurgedBatch, Error> {
    let parameters = Parameters::of(pg_uuid(after))
        .bind(pg_uuid(before))
        .bind(cutoff)
        .bind(limit);
    let row = spi.row(&PURGE, parameters)?;
    let row = row.ok_or_else(|| Error::internal("PURGE"))?;
    Ok(PurgedBatch {
        last: row.get(1)?.map(from_pg_uuid),
        found: row.required(2)?,
        deleted: row.required(3)?,
    })
}

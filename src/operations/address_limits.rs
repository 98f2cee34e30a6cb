//! What one address may have: room for a new token is made by revoking the previous ones, or it is
//! refused. The settings `magic_link.revoke_previous` and `magic_link.max_active_tokens` decide.

use crate::operations::revoke::{self, Events, Revoker};
use crate::postgres::error::Error;
use crate::postgres::settings;
use crate::postgres::spi::{Parameters, Spi, statements};
use domain::context::InteractionEvent;
use domain::email::Email;

statements! {
    // Of an address's newest active tokens, as many as it may have, the one that ends first: its end
    // makes room again, if there is one. now(), which an index can use, is never later than the clock.
    FIRST_FULL(TEXTARRAYOID, INT4OID) = c"
        SELECT a.place, CASE WHEN pg_catalog.isfinite(l.expires_at)
                             THEN pg_catalog.ceil(EXTRACT(epoch FROM l.expires_at - pg_catalog.clock_timestamp()))::pg_catalog.int8 END
          FROM unnest($1) WITH ORDINALITY AS a (email, place)
         CROSS JOIN LATERAL (
               SELECT t.expires_at FROM magic_link.one_time_tokens AS t
                WHERE t.email = a.email AND t.consumed_at IS NULL AND t.revoked_at IS NULL
                  AND t.expires_at > pg_catalog.now() AND t.expires_at > pg_catalog.clock_timestamp()
                ORDER BY t.expires_at DESC OFFSET $2 - 1 LIMIT 1) AS l
         ORDER BY a.place LIMIT 1";
}

/// An address has as many active tokens as it may have.
pub struct Full {
    /// The place of the address among those asked for, from 1.
    pub place: i64,
    pub limit: i32,
    /// For how long; None where the tokens never expire.
    pub seconds: Option<i64>,
}

/// Makes room for one more token of each address, all of which are locked.
pub fn make_room(
    spi: &Spi,
    emails: &[Email],
    event: Option<&InteractionEvent>,
) -> Result<Option<Full>, Error> {
    if settings::revoke_previous() {
        revoke::revoke_all(spi, emails, Events::Only(event), Revoker::RevokePrevious)?;
    }
    match settings::max_active_tokens() {
        Some(limit) => first_full(spi, emails, limit),
        None => Ok(None),
    }
}

fn first_full(spi: &Spi, emails: &[Email], limit: i32) -> Result<Option<Full>, Error> {
    let addresses = Parameters::of(revoke::texts(emails)).and(limit);
    let Some(row) = spi.latest_row(&FIRST_FULL, addresses)? else {
        return Ok(None);
    };
    Ok(Some(Full {
        place: row.required(1)?,
        limit,
        // The clock went on since the row was found.
        seconds: row.get::<i64>(2)?.map(|seconds| seconds.max(1)),
    }))
}

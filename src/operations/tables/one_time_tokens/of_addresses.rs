//! The active tokens of some addresses.

use domain::email::Email;

use crate::postgres::error::Error;
use crate::postgres::prepared_statement::{Parameters, statements};
use crate::postgres::spi::SpiConnection;

statements! {
    // now(), which an index can use, is never later than the clock.
    REVOKE_ACTIVE(TEXTARRAYOID, BOOLOID, TEXTOID, TEXTOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET revoked_at = pg_catalog.clock_timestamp(), revoked_by = COALESCE($4, SESSION_USER)
         WHERE t.email = ANY ($1) AND ($2 OR t.interaction_event IS NOT DISTINCT FROM $3)
           AND t.consumed_at IS NULL AND t.revoked_at IS NULL
           AND t.expires_at > pg_catalog.now() AND t.expires_at > pg_catalog.clock_timestamp()";

    // Of an address's newest active tokens, as many as it may have, the one that ends first: then it may have one more.
    FIRST_FULL_ADDRESS(TEXTARRAYOID, INT4OID) = c"
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

/// Revokes the active tokens of these addresses, and answers how many they were. `event` is the interaction event that they
/// have to be for: `Some(None)` for tokens of no event, None for tokens of any. `setting` is what revokes them, None for the
/// role that is logged in.
pub fn revoke_active(
    spi: &SpiConnection,
    emails: &[Email],
    event: Option<Option<&str>>,
    setting: Option<&str>,
) -> Result<u64, Error> {
    let parameters = Parameters::of(texts(emails))
        .bind(event.is_none())
        .bind(event.flatten())
        .bind(setting);
    spi.execute_on_latest(&REVOKE_ACTIVE, parameters)
}

/// An address that has as many active tokens as it may have.
pub struct FullAddress {
    /// Its place among the addresses, from 1.
    pub place: i64,
    /// In how many seconds the first of them expires; None where they never do.
    pub seconds: Option<i64>,
}

/// The first of these addresses that has `limit` active tokens or more.
pub fn first_full_address(
    spi: &SpiConnection,
    emails: &[Email],
    limit: i32,
) -> Result<Option<FullAddress>, Error> {
    let parameters = Parameters::of(texts(emails)).bind(limit);
    let Some(row) = spi.latest_row(&FIRST_FULL_ADDRESS, parameters)? else {
        return Ok(None);
    };
    Ok(Some(FullAddress {
        place: row.required(1)?,
        // The clock went on since the row was found.
        seconds: row.get::<i64>(2)?.map(|seconds| seconds.max(1)),
    }))
}

fn texts(emails: &[Email]) -> Vec<&str> {
    emails.iter().map(Email::as_str).collect()
}

//! The lock of a token's row, and before it, where a limit asks for it, that of its address: in another
//! order two transactions that each do several things could meet crosswise (40P01).

use uuid::Uuid;

use crate::operations::tables::one_time_tokens::{self, LockedToken, TokenView};
use crate::postgres::advisory_lock::lock_addresses;
use crate::postgres::error::Error;
use crate::postgres::settings;
use crate::postgres::spi::Spi;

/// What became of a token that was to be locked.
pub enum TokenLock<'s, R> {
    Locked(LockedToken<'s>),
    Refused(R),
    NotFound,
}

/// Locks the token's row unless `refuse` has something against it, at the first look or behind the lock.
/// What is refused at the first look stays unlocked, and costs a tenth of an UPDATE that finds nothing.
pub fn lock_token<'s, R>(
    spi: &'s Spi,
    id: Uuid,
    refuse: impl Fn(TokenView) -> Result<Option<R>, Error>,
) -> Result<TokenLock<'s, R>, Error> {
    let mut has_to_lock_address = settings::limit_addresses();
    // Somebody has to commit a change of the row for each further turn.
    while let Some(found) = one_time_tokens::find(spi, id)? {
        if let Some(reason) = refuse(found.view())? {
            found.close();
            return Ok(TokenLock::Refused(reason));
        }
        if has_to_lock_address {
            let email = found.view().email()?;
            found.close();
            lock_addresses([email]);
            has_to_lock_address = false;
            continue;
        }
        let Some(locked) = found.lock(id)? else {
            continue;
        };
        return Ok(match refuse(locked.view())? {
            Some(reason) => TokenLock::Refused(reason),
            None => TokenLock::Locked(locked),
        });
    }
    Ok(TokenLock::NotFound)
}

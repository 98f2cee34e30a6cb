//! The lock of a token's row, and before it, where a limit asks for it, that of its address: in another
//! order two transactions that each do several things could deadlock (40P01).

use uuid::Uuid;

use super::tables::address_lock::lock_address;
use super::tables::one_time_tokens::{LockedToken, TokenView, find};
use crate::postgres::error::Error;
use crate::postgres::settings;
use crate::postgres::spi::SpiConnection;

/// What became of a token that was to be locked.
pub enum TokenLock<'s, R> {
    Locked(LockedToken<'s>),
    Refused(R),
    NotFound,
}

/// Locks the token's row unless `refuse` has a reason against it, at the first look or behind the lock.
/// What is refused at the first look stays unlocked, and costs a tenth of an UPDATE that finds nothing.
pub fn lock_token<'s, R>(
    spi: &'s SpiConnection,
    id: Uuid,
    refuse: impl Fn(TokenView) -> Result<Option<R>, Error>,
) -> Result<TokenLock<'s, R>, Error> {
    let mut has_to_lock_address = settings::limit_addresses();
    // Somebody has to commit a change of the row for each further turn.
    while let Some(found) = find(spi, id)? {
        if let Some(reason) = refuse(found.view())? {
            found.close();
            return Ok(TokenLock::Refused(reason));
        }
        if has_to_lock_address {
            let email = found.view().email()?;
            found.close();
            lock_address(email);
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

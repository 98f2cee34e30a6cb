//! What one address may have, by the settings `magic_link.revoke_previous` and `magic_link.max_active_tokens`.

use domain::context::InteractionEvent;
use domain::email::Email;
use domain::refusal::TOO_MANY_ACTIVE_TOKENS;

use super::revoke::{Events, Revoker, revoke_all};
use super::tables::address_lock::lock_addresses;
use super::tables::one_time_tokens::{FullAddress, first_full_address};
use crate::postgres::error::Error;
use crate::postgres::settings;
use crate::postgres::spi::SpiConnection;

/// Locks the addresses if a limit is set. To be called before anything is looked up: whoever creates tokens for one of them
/// waits until this transaction ends.
pub fn lock_where_limited(emails: &[Email]) {
    if settings::limit_addresses() {
        lock_addresses(emails);
    }
}

/// Revokes the previous tokens of the addresses, all of which are locked, or answers the first address that may have no
/// further token.
pub fn address_at_limit(
    spi: &SpiConnection,
    emails: &[Email],
    event: Option<&InteractionEvent>,
) -> Result<Option<AddressAtLimit>, Error> {
    if settings::revoke_previous() {
        revoke_all(spi, emails, Events::Only(event), Revoker::RevokePrevious)?;
    }
    let Some(limit) = settings::max_active_tokens() else {
        return Ok(None);
    };
    let full = first_full_address(spi, emails, limit)?;
    Ok(full.map(|full| AddressAtLimit { full, limit }))
}

/// An address that may have no further token.
pub struct AddressAtLimit {
    full: FullAddress,
    limit: i32,
}

impl AddressAtLimit {
    /// Its place among the addresses, from 1.
    pub fn place(&self) -> i64 {
        self.full.place
    }
}

/// OT008.
impl From<&AddressAtLimit> for Error {
    fn from(address: &AddressAtLimit) -> Self {
        let limit = address.limit;
        let hint = match address.full.seconds {
            None => "They never expire: revoke them.".to_owned(),
            Some(1) => "Try again in 1 second.".to_owned(),
            Some(seconds) => format!("Try again in {seconds} seconds."),
        };
        Error::from(TOO_MANY_ACTIVE_TOKENS)
            .detail(format!("magic_link.max_active_tokens allows {limit}."))
            .hint(hint)
    }
}

//! Tokens that somebody ends before they are redeemed.

use domain::context::InteractionEvent;
use domain::email::Email;
use domain::outcome::TokenStatus;
use uuid::Uuid;

use super::tables::one_time_tokens::{TokenView, is_committed, revoke_active};
use super::token_lock::{TokenLock, lock_token};
use crate::postgres::clock::Moment;
use crate::postgres::error::{Error, SqlState};
use crate::postgres::scan::uses_transaction_snapshot;
use crate::postgres::spi::SpiConnection;

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
pub fn revoke(spi: &SpiConnection, id: Uuid) -> Result<Option<TokenStatus>, Error> {
    let asked_at = Moment::now();
    let refuse = |token: TokenView| {
        let status = token.status(asked_at)?;
        Ok((status != TokenStatus::Active).then_some(status))
    };
    match lock_token(spi, id, refuse)? {
        TokenLock::Locked(token) => {
            token.revoke(spi, asked_at)?;
            Ok(Some(TokenStatus::Revoked))
        }
        TokenLock::Refused(status) => Ok(Some(status)),
        TokenLock::NotFound => check_unknown(spi, id).map(|()| None),
    }
}

/// Revokes the active tokens of addresses that are locked, and answers how many they were.
pub fn revoke_all(
    spi: &SpiConnection,
    emails: &[Email],
    events: Events,
    revoker: Revoker,
) -> Result<u64, Error> {
    let event = match events {
        Events::Any => None,
        Events::Only(event) => Some(event.map(InteractionEvent::as_str)),
    };
    let setting = match revoker {
        Revoker::Role => None,
        Revoker::RevokePrevious => Some("magic_link.revoke_previous"),
    };
    revoke_active(spi, emails, event, setting)
}

/// Deletes a token's row, and answers whether there was one.
pub fn delete(spi: &SpiConnection, id: Uuid) -> Result<bool, Error> {
    let never = |_: TokenView| Ok(None::<()>);
    match lock_token(spi, id, never)? {
        TokenLock::Locked(token) => token.delete(spi).map(|()| true),
        TokenLock::Refused(()) | TokenLock::NotFound => check_unknown(spi, id).map(|()| false),
    }
}

/// 40001 where a token is unknown only because it was issued after the transaction's snapshot.
fn check_unknown(spi: &SpiConnection, id: Uuid) -> Result<(), Error> {
    if !uses_transaction_snapshot() || !is_committed(spi, id)? {
        return Ok(());
    }
    let message = "could not serialize access due to concurrent insert of the one-time token";
    Err(Error::new(SqlState::SERIALIZATION_FAILURE, message))
}

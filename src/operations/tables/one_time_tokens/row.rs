//! One token's row: found, locked, and changed behind its lock.

use domain::context::InteractionEvent;
use domain::outcome::{TokenState, TokenStatus};
use domain::presented_token::PresentedToken;
use pgrx::datum::TimestampWithTimeZone as Timestamp;
use pgrx::pg_sys;
use uuid::Uuid;

use super::{BY_ID, column};
use crate::postgres::clock::Moment;
use crate::postgres::error::Error;
use crate::postgres::heap_row::{HeapRow, Key};
use crate::postgres::index_lookup::{FoundRow, LockedRow};
use crate::postgres::jsonb::JsonbDatum;
use crate::postgres::prepared_statement::{Parameters, statements};
use crate::postgres::scan::RowLock;
use crate::postgres::spi::{SpiConnection, Statement};

statements! {
    // Behind the row's lock. The conditions hold then, but for a trigger that redeems or revokes the token
    // while its user is created.
    CONSUME(UUIDOID, TIMESTAMPTZOID, TEXTOID) = c"
        UPDATE magic_link.one_time_tokens AS t
           SET consumed_at = $2, consumed_by = $3
         WHERE t.id = $1 AND t.consumed_at IS NULL AND t.revoked_at IS NULL";

    // Behind the row's lock. A count that cannot grow stays as it is.
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

/// What a consumed row hands over.
pub struct Consumed<'c> {
    pub context: JsonbDatum<'c>,
    pub organization_ids: Vec<String>,
    pub consumed_at: Timestamp,
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

/// Looks a token up, to be locked and written if it is the right one. None where no token has this id.
pub fn find<'s>(spi: &'s SpiConnection, id: Uuid) -> Result<Option<FoundToken<'s>>, Error> {
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
        let LockedRow::Locked(row) = self.0.lock(&[Key::Uuid(id)], RowLock::NoKeyUpdate)? else {
            return Ok(None);
        };
        let locked_at = Moment::now();
        Ok(Some(LockedToken { row, locked_at }))
    }
}

impl<'s> TokenView<'_, 's> {
    /// Its state, compared with a token that somebody presents.
    pub fn state(&self, presented: &PresentedToken) -> Result<TokenState, Error> {
        state_of(self.row, presented, self.seen_at)
    }

    /// As the view one_time_token_status has it, at this moment.
    pub fn status(&self, at: Moment) -> Result<TokenStatus, Error> {
        Ok(if !self.row.is_null(column::CONSUMED_AT)? {
            TokenStatus::Consumed
        } else if !self.row.is_null(column::REVOKED_AT)? {
            TokenStatus::Revoked
        } else if self.row.required::<Moment>(column::EXPIRES_AT)? <= at {
            TokenStatus::Expired
        } else {
            TokenStatus::Active
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

    /// Consumes the token for this user: of any number of callers, the one who has the lock.
    pub fn consume<'c>(
        &self,
        spi: &SpiConnection<'c>,
        user_id: &str,
        organization_ids: Vec<String>,
    ) -> Result<Consumed<'c>, Error> {
        let consumed_at = self.locked_at.timestamp()?;
        let row = self.parameters()?.bind(consumed_at).bind(user_id);
        change_one(spi, &CONSUME, row)?;
        Ok(Consumed {
            context: spi.outlived_by(self.row.required_jsonb(column::CONTEXT)?),
            organization_ids,
            consumed_at,
        })
    }

    pub fn revoke(&self, spi: &SpiConnection, at: Moment) -> Result<(), Error> {
        let row = self.parameters()?.bind(at.timestamp()?);
        change_one(spi, &REVOKE, row)
    }

    pub fn delete(&self, spi: &SpiConnection) -> Result<(), Error> {
        change_one(spi, &DELETE, self.parameters()?)
    }

    /// Counts an attempt with the wrong address. The `limit`th revokes the token, unless `limit` is 0.
    pub fn record_failed_attempt(&self, spi: &SpiConnection, limit: i32) -> Result<(), Error> {
        let row = self.parameters()?.bind(limit);
        change_one(
            spi,
            &RECORD_FAILED_ATTEMPT,
            row.bind(self.locked_at.timestamp()?),
        )
    }

    fn parameters(&self) -> Result<Parameters, Error> {
        Ok(Parameters::of(self.row.required::<pgrx::Uuid>(column::ID)?))
    }
}

/// The state of a presented token; None where no token has its id. It writes nothing, and locks no row.
pub fn state(spi: &SpiConnection, presented: &PresentedToken) -> Result<Option<TokenState>, Error> {
    let row = BY_ID.row(spi, &[Key::Uuid(presented.id)])?;
    row.map(|row| state_of(&row, presented, Moment::now()))
        .transpose()
}

/// Whether all that is committed has a token with this id, whatever the transaction's snapshot sees.
pub fn is_committed(spi: &SpiConnection, id: Uuid) -> Result<bool, Error> {
    Ok(BY_ID.latest_row(spi, &[Key::Uuid(id)])?.is_some())
}

pub(super) fn state_of(
    row: &HeapRow,
    presented: &PresentedToken,
    now: Moment,
) -> Result<TokenState, Error> {
    let event = row.text(column::INTERACTION_EVENT)?;
    Ok(TokenState {
        hash_matches: row.bytes(column::TOKEN_HASH)? == Some(presented.hash.as_bytes()),
        email_matches: row.text(column::EMAIL)? == Some(presented.email.as_str()),
        consumed: !row.is_null(column::CONSUMED_AT)?,
        revoked: !row.is_null(column::REVOKED_AT)?,
        expired: row.required::<Moment>(column::EXPIRES_AT)? <= now,
        event_allowed: event.is_none()
            || event == presented.interaction_event.map(InteractionEvent::as_str),
    })
}

/// Runs a statement that writes one row.
pub(super) fn change_one(
    spi: &SpiConnection,
    statement: &'static Statement,
    parameters: Parameters,
) -> Result<(), Error> {
    match spi.execute(statement, parameters)? {
        0 => Err(Error::row_suppressed("one_time_tokens")),
        _ => Ok(()),
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::{LockedToken, PresentedToken, TokenStatus, find, state};
    use crate::postgres::clock::Moment;
    use crate::postgres::datum::CallMemory;
    use crate::postgres::spi::SpiConnection;
    use domain::context::InteractionEvent;
    use domain::email::Email;
    use domain::outcome::Outcome;
    use domain::refusal::Refusal;
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

    fn outcome(spi: &SpiConnection, presented: &PresentedToken) -> Outcome {
        Outcome::evaluate(state(spi, presented).unwrap(), true)
    }

    fn lock<'s>(spi: &'s SpiConnection, presented: &PresentedToken) -> LockedToken<'s> {
        let found = find(spi, presented.id).unwrap().unwrap();
        found.lock(presented.id).unwrap().unwrap()
    }

    #[pg_test]
    fn a_wrong_presentation_is_refused_and_a_token_is_consumed_once() {
        let (token, other_token) = (issue(), issue());
        let (ada, eve) = (email("ada@example.com"), email("eve@example.com"));
        let sign_in = InteractionEvent::parse("SignIn").unwrap();
        let register = InteractionEvent::parse("Register").unwrap();
        let mut forged = PresentedToken::new(&token, &ada, Some(&sign_in));
        forged.hash = other_token.hash();
        let wrong = [
            (forged, Refusal::TokenNotFound),
            (
                PresentedToken::new(&token, &eve, Some(&sign_in)),
                Refusal::EmailMismatch,
            ),
            (
                PresentedToken::new(&token, &ada, Some(&register)),
                Refusal::InteractionEventMismatch,
            ),
            (
                PresentedToken::new(&token, &ada, None),
                Refusal::InteractionEventMismatch,
            ),
        ];
        let spi = SpiConnection::connect(CallMemory::of_test()).unwrap();
        for (presented, refusal) in wrong {
            let refused = Outcome::Refused(refusal);
            assert_eq!(outcome(&spi, &presented), refused);
            let locked = lock(&spi, &presented).view().state(&presented).unwrap();
            assert_eq!(Outcome::evaluate(Some(locked), true), refused);
        }
        let right = PresentedToken::new(&token, &ada, Some(&sign_in));
        assert_eq!(outcome(&spi, &right), Outcome::Ok);
        let locked = lock(&spi, &right);
        locked.consume(&spi, "ada", vec![]).unwrap();
        assert!(locked.consume(&spi, "eve", vec![]).is_err());
        assert!(lock(&spi, &right).view().status(Moment::now()).unwrap() == TokenStatus::Consumed);
        assert_eq!(
            outcome(&spi, &right),
            Outcome::Refused(Refusal::TokenConsumed)
        );
    }

    #[pg_test]
    fn a_miss_takes_no_transaction_id() {
        let token = Token::parse(&"0".repeat(32)).unwrap();
        let ada = email("ada@example.com");
        let spi = SpiConnection::connect(CallMemory::of_test()).unwrap();
        let presented = PresentedToken::new(&token, &ada, None);
        assert!(find(&spi, presented.id).unwrap().is_none());
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

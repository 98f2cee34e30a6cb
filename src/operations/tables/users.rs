//! The table `users`.

use domain::email::Email;
use domain::user_id::UserId;
use pgrx::pg_sys;

use crate::postgres::datum::{from_pg_uuid, pg_uuid};
use crate::postgres::error::Error;
use crate::postgres::heap_row::{HeapRow, Key};
use crate::postgres::index_lookup::IndexLookup;
use crate::postgres::prepared_statement::{Parameters, statements};
use crate::postgres::scan::{RowLock, uses_transaction_snapshot};
use crate::postgres::spi::SpiConnection;
use crate::postgres::table::Table;

static USERS: Table = Table::new(
    c"users",
    &[(c"id", pg_sys::UUIDOID), (c"email", pg_sys::TEXTOID)],
);
static USERS_BY_EMAIL: IndexLookup = IndexLookup::unique(&USERS, &[2]);

statements! {
    INSERT(UUIDOID, TEXTOID) = c"
        INSERT INTO magic_link.users (id, email) VALUES ($1, $2)
            ON CONFLICT (email) DO NOTHING RETURNING id";
}

/// The user who has the address.
pub fn find_user(spi: &SpiConnection, email: &Email) -> Result<Option<UserId>, Error> {
    id_of(USERS_BY_EMAIL.row(spi, &[Key::Text(email.as_str())])?)
}

/// The same, where the answer is to hold now: 40001 where it changed since the snapshot of a transaction
/// that has but one.
pub fn find_current_user(spi: &SpiConnection, email: &Email) -> Result<Option<UserId>, Error> {
    let user = find_user(spi, email)?;
    if uses_transaction_snapshot() {
        let now = USERS_BY_EMAIL.latest_row(spi, &[Key::Text(email.as_str())])?;
        if id_of(now)? != user {
            return Err(Error::concurrent_update());
        }
    }
    Ok(user)
}

/// The same, and keeps the user, and the address with it, until the end of the transaction: FOR KEY SHARE
/// keeps the columns of a unique index as they are.
pub fn lock_user(spi: &SpiConnection, email: &Email) -> Result<Option<UserId>, Error> {
    let key = [Key::Text(email.as_str())];
    let user = id_of(USERS_BY_EMAIL.lock(spi, &key, RowLock::KeyShare)?)?;
    if user.is_none() && uses_transaction_snapshot() {
        return find_current_user(spi, email);
    }
    Ok(user)
}

fn id_of(user: Option<HeapRow>) -> Result<Option<UserId>, Error> {
    user.map(|row| row.required(1).map(from_pg_uuid).map(UserId::new))
        .transpose()
}

/// Creates the user with the id `proposed_id`; None where somebody has the address. A trigger may give it
/// another id.
pub fn create_user(
    spi: &SpiConnection,
    email: &Email,
    proposed_id: UserId,
) -> Result<Option<UserId>, Error> {
    let user = Parameters::of(pg_uuid(proposed_id.uuid())).bind(email.as_str());
    let row = spi.row(&INSERT, user)?;
    row.map(|row| row.required(1).map(from_pg_uuid).map(UserId::new))
        .transpose()
}

/// Whether triggers or rules of the application's take part when a user is created.
pub fn has_triggers() -> Result<bool, Error> {
    USERS.has_triggers()
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::*;
    use crate::postgres::datum::CallMemory;
    use crate::postgres::random::new_uuid;

    #[pg_test]
    fn an_address_is_one_user() {
        let spi = SpiConnection::connect(CallMemory::of_test()).unwrap();
        let [ada, eve] = ["ada@example.com", "eve@example.com"].map(|it| Email::parse(it).unwrap());
        let proposed_id = || UserId::new(new_uuid().unwrap());
        assert_eq!(find_user(&spi, &ada).unwrap(), None);
        let id = proposed_id();
        assert_eq!(create_user(&spi, &ada, id).unwrap(), Some(id));
        assert_eq!(create_user(&spi, &ada, proposed_id()).unwrap(), None);
        for find in [find_user, find_current_user, lock_user] {
            assert_eq!(find(&spi, &ada).unwrap(), Some(id));
            assert_eq!(find(&spi, &eve).unwrap(), None);
        }
    }
}

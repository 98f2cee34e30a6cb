//! The tables `organization_memberships` and `organization_membership_roles`.

use domain::user_id::UserId;
use pgrx::pg_sys;

use crate::postgres::datum::pg_uuid;
use crate::postgres::error::Error;
use crate::postgres::heap_row::{HeapRow, Key};
use crate::postgres::index_lookup::IndexLookup;
use crate::postgres::prepared_statement::{Parameters, statements};
use crate::postgres::scan::RowLock;
use crate::postgres::spi::SpiConnection;
use crate::postgres::table::Table;

static MEMBERSHIPS: Table = Table::new(
    c"organization_memberships",
    &[
        (c"organization_id", pg_sys::TEXTOID),
        (c"user_id", pg_sys::UUIDOID),
    ],
);
static MEMBERSHIPS_BY_KEY: IndexLookup = IndexLookup::unique(&MEMBERSHIPS, &[1, 2]);

static HELD_ROLES: Table = Table::new(
    c"organization_membership_roles",
    &[
        (c"organization_id", pg_sys::TEXTOID),
        (c"user_id", pg_sys::UUIDOID),
        (c"organization_role_id", pg_sys::TEXTOID),
    ],
);
static HELD_ROLES_BY_MEMBERSHIP: IndexLookup = IndexLookup::of_many(&HELD_ROLES, &[1, 2]);

statements! {
    INSERT_MEMBERSHIP(TEXTOID, UUIDOID) = c"
        INSERT INTO magic_link.organization_memberships (organization_id, user_id) VALUES ($1, $2)";

    INSERT_MEMBERSHIP_IF_MISSING(TEXTOID, UUIDOID) = c"
        INSERT INTO magic_link.organization_memberships (organization_id, user_id) VALUES ($1, $2)
            ON CONFLICT (organization_id, user_id) DO NOTHING";

    INSERT_ROLE(TEXTOID, UUIDOID, TEXTOID) = c"
        INSERT INTO magic_link.organization_membership_roles (organization_id, user_id, organization_role_id)
        VALUES ($1, $2, $3)";

    INSERT_ROLE_IF_MISSING(TEXTOID, UUIDOID, TEXTOID) = c"
        INSERT INTO magic_link.organization_membership_roles (organization_id, user_id, organization_role_id)
        VALUES ($1, $2, $3)
            ON CONFLICT (organization_id, user_id, organization_role_id) DO NOTHING";
}

/// Whether the user is a member; if so, the membership stays until the end of the transaction.
pub fn lock_membership(
    spi: &SpiConnection,
    organization_id: &str,
    user: UserId,
) -> Result<bool, Error> {
    let row = MEMBERSHIPS_BY_KEY.lock(spi, &key(organization_id, user), RowLock::KeyShare)?;
    Ok(row.is_some())
}

/// Inserts the membership, which nobody else can have inserted; 23505 if it is there.
pub fn insert_membership(
    spi: &SpiConnection,
    organization_id: &str,
    user: UserId,
) -> Result<(), Error> {
    match spi.execute(&INSERT_MEMBERSHIP, parameters(organization_id, user))? {
        0 => Err(Error::row_suppressed("organization_memberships")),
        _ => Ok(()),
    }
}

/// Inserts the membership unless it is there, and answers whether it did.
pub fn insert_membership_if_missing(
    spi: &SpiConnection,
    organization_id: &str,
    user: UserId,
) -> Result<bool, Error> {
    let parameters = parameters(organization_id, user);
    Ok(spi.execute(&INSERT_MEMBERSHIP_IF_MISSING, parameters)? > 0)
}

/// The roles that the member holds, in order of id.
pub fn held_roles(
    spi: &SpiConnection,
    organization_id: &str,
    user: UserId,
) -> Result<Vec<String>, Error> {
    let rows = HELD_ROLES_BY_MEMBERSHIP.rows(spi, &key(organization_id, user))?;
    HeapRow::distinct_texts(&rows, 3)
}

/// Inserts a role, which nobody else can have inserted; 23505 if it is there.
pub fn insert_role(
    spi: &SpiConnection,
    organization_id: &str,
    user: UserId,
    role: &str,
) -> Result<(), Error> {
    let parameters = parameters(organization_id, user).bind(role);
    spi.execute(&INSERT_ROLE, parameters).map(|_| ())
}

pub fn insert_role_if_missing(
    spi: &SpiConnection,
    organization_id: &str,
    user: UserId,
    role: &str,
) -> Result<(), Error> {
    let parameters = parameters(organization_id, user).bind(role);
    spi.execute(&INSERT_ROLE_IF_MISSING, parameters).map(|_| ())
}

/// Whether triggers or rules of the application's take part when these tables are written.
pub fn have_triggers() -> Result<bool, Error> {
    Ok(MEMBERSHIPS.has_triggers()? || HELD_ROLES.has_triggers()?)
}

fn key(organization_id: &str, user: UserId) -> [Key<'_>; 2] {
    [Key::Text(organization_id), Key::Uuid(user.uuid())]
}

fn parameters(organization_id: &str, user: UserId) -> Parameters {
    Parameters::of(organization_id).bind(pg_uuid(user.uuid()))
}

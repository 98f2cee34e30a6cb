//! The tables `organizations`, `organization_roles`, `organization_jit_roles` (an organization's default roles) and
//! `organization_jit_email_domains`.

use domain::email::Email;
use pgrx::pg_sys;

use crate::postgres::error::Error;
use crate::postgres::heap_row::{HeapRow, Key};
use crate::postgres::index_lookup::IndexLookup;
use crate::postgres::scan::RowLock;
use crate::postgres::spi::SpiConnection;
use crate::postgres::table::Table;

static ORGANIZATIONS: Table = Table::new(c"organizations", &[(c"id", pg_sys::TEXTOID)]);
static ORGANIZATIONS_BY_ID: IndexLookup = IndexLookup::unique(&ORGANIZATIONS, &[1]);

static ROLES: Table = Table::new(c"organization_roles", &[(c"id", pg_sys::TEXTOID)]);
static ROLES_BY_ID: IndexLookup = IndexLookup::unique(&ROLES, &[1]);

static DEFAULT_ROLES: Table = Table::new(
    c"organization_jit_roles",
    &[
        (c"organization_id", pg_sys::TEXTOID),
        (c"organization_role_id", pg_sys::TEXTOID),
    ],
);
static DEFAULT_ROLES_BY_ORGANIZATION: IndexLookup = IndexLookup::of_many(&DEFAULT_ROLES, &[1]);

static EMAIL_DOMAINS: Table = Table::new(
    c"organization_jit_email_domains",
    &[
        (c"organization_id", pg_sys::TEXTOID),
        (c"email_domain", pg_sys::TEXTOID),
    ],
);
static EMAIL_DOMAINS_BY_DOMAIN: IndexLookup = IndexLookup::of_many(&EMAIL_DOMAINS, &[2]);

pub fn organization_exists(spi: &SpiConnection, id: &str) -> Result<bool, Error> {
    ORGANIZATIONS_BY_ID.has_row(spi, &[Key::Text(id)])
}

pub fn role_exists(spi: &SpiConnection, id: &str) -> Result<bool, Error> {
    ROLES_BY_ID.has_row(spi, &[Key::Text(id)])
}

/// Whether the organization is there; if it is, it stays until the end of the transaction, with its id.
pub fn lock_organization(spi: &SpiConnection, id: &str) -> Result<bool, Error> {
    let row = ORGANIZATIONS_BY_ID.lock(spi, &[Key::Text(id)], RowLock::KeyShare)?;
    Ok(row.is_some())
}

/// The same for a role.
pub fn lock_role(spi: &SpiConnection, id: &str) -> Result<bool, Error> {
    let row = ROLES_BY_ID.lock(spi, &[Key::Text(id)], RowLock::KeyShare)?;
    Ok(row.is_some())
}

/// In order of id.
pub fn default_roles(spi: &SpiConnection, organization_id: &str) -> Result<Vec<String>, Error> {
    let rows = DEFAULT_ROLES_BY_ORGANIZATION.rows(spi, &[Key::Text(organization_id)])?;
    HeapRow::distinct_texts(&rows, 2)
}

/// The organizations that a user created with such an address joins, in order of id.
pub fn organizations_of_domain(spi: &SpiConnection, email: &Email) -> Result<Vec<String>, Error> {
    let rows = EMAIL_DOMAINS_BY_DOMAIN.rows(spi, &[Key::Text(email.domain())])?;
    HeapRow::distinct_texts(&rows, 1)
}

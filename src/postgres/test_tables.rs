//! Tables and rows for the `#[pg_test]`s of this layer.

use pgrx::Spi;
use pgrx::pg_sys::TEXTOID;

use super::datum::CallMemory;
use super::heap_row::Key;
use super::index_lookup::IndexLookup;
use super::spi::SpiConnection;
use super::table::Table;

pub static ROLES: Table = Table::new(
    c"organization_jit_roles",
    &[
        (c"organization_id", TEXTOID),
        (c"organization_role_id", TEXTOID),
    ],
);
pub static ROLES_OF: IndexLookup = IndexLookup::of_many(&ROLES, &[1]);
pub static ROLE: IndexLookup = IndexLookup::unique(&ROLES, &[1, 2]);

pub fn spi() -> SpiConnection<'static> {
    SpiConnection::connect(CallMemory::of_test()).unwrap()
}

/// Roles a, b and c of acme, and b of globex.
pub fn fill() {
    Spi::run(
        "INSERT INTO magic_link.organizations VALUES ('acme', 'Acme'), ('globex', 'Globex');
         INSERT INTO magic_link.organization_roles VALUES ('c', 'C'), ('a', 'A'), ('b', 'B');
         INSERT INTO magic_link.organization_jit_roles
         VALUES ('acme', 'c'), ('acme', 'a'), ('acme', 'b'), ('globex', 'b')",
    )
    .unwrap();
}

/// In order.
pub fn default_roles(organization: &str) -> Vec<String> {
    let spi = spi();
    let rows = ROLES_OF.rows(&spi, &[Key::Text(organization)]).unwrap();
    let mut roles: Vec<String> = rows.iter().map(|row| row.required(2).unwrap()).collect();
    roles.sort();
    roles
}

pub fn has_role(organization: &str, role: &str) -> bool {
    let key = [Key::Text(organization), Key::Text(role)];
    ROLE.has_row(&spi(), &key).unwrap()
}

//! The table `one_time_tokens`: a token's row, from its creation to its end.

mod insert;
mod of_addresses;
mod purge;
mod row;
mod stored_result;

use pgrx::pg_sys;

use crate::postgres::datum::Column;
use crate::postgres::index_lookup::IndexLookup;
use crate::postgres::table::Table;

pub use insert::{TokenAttributes, insert, insert_all};
pub use of_addresses::{FullAddress, first_full_address, revoke_active};
pub use purge::purge_batch;
pub use row::{Consumed, LockedToken, TokenView, find, is_committed, state};
pub use stored_result::{store_result, stored_result};

/// The columns since 0.2, in their order.
const COLUMNS: &[Column] = &[
    (c"id", pg_sys::UUIDOID),
    (c"token_hash", pg_sys::BYTEAOID),
    (c"email", pg_sys::TEXTOID),
    (c"organization_ids", pg_sys::TEXTARRAYOID),
    (c"interaction_event", pg_sys::TEXTOID),
    (c"context", pg_sys::JSONBOID),
    (c"created_at", pg_sys::TIMESTAMPTZOID),
    (c"expires_at", pg_sys::TIMESTAMPTZOID),
    (c"consumed_at", pg_sys::TIMESTAMPTZOID),
    (c"consumed_by", pg_sys::TEXTOID),
    (c"revoked_at", pg_sys::TIMESTAMPTZOID),
    (c"revoked_by", pg_sys::TEXTOID),
    (c"failed_attempts", pg_sys::INT4OID),
    (c"user_created", pg_sys::BOOLOID),
    (c"memberships", pg_sys::JSONBOID),
];

/// Their numbers, from 1.
mod column {
    pub const ID: usize = 1;
    pub const TOKEN_HASH: usize = 2;
    pub const EMAIL: usize = 3;
    pub const ORGANIZATION_IDS: usize = 4;
    pub const INTERACTION_EVENT: usize = 5;
    pub const CONTEXT: usize = 6;
    pub const EXPIRES_AT: usize = 8;
    pub const CONSUMED_AT: usize = 9;
    pub const CONSUMED_BY: usize = 10;
    pub const REVOKED_AT: usize = 11;
    pub const USER_CREATED: usize = 14;
    pub const MEMBERSHIPS: usize = 15;
}

/// With the columns of the first release: between a new library and ALTER EXTENSION UPDATE the table may have no more.
static TABLE: Table = Table::new(c"one_time_tokens", COLUMNS.split_at(column::REVOKED_AT).0);
static BY_ID: IndexLookup = IndexLookup::unique(&TABLE, &[1]);

static TABLE_0_2: Table = Table::new(c"one_time_tokens", COLUMNS);
static BY_ID_0_2: IndexLookup = IndexLookup::unique(&TABLE_0_2, &[1]);

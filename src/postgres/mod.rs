//! What stands between Rust and PostgreSQL. All `unsafe` code is here, and two facts stand behind all of it.
//!
//! A backend has one thread, so its global variables are read and written without a race.
//!
//! pgrx guards the functions of PostgreSQL that it declares: an error in one unwinds as a panic, up to
//! [`ereport::run_or_ereport`], and drops what Rust frames hold. What PostgreSQL itself holds (relations, scans, snapshots,
//! locks, SPI connections, settings of a level) it releases when the transaction is rolled back.

// Calls of SQL functions.
pub mod call;
pub mod composite;
pub mod entry_point;
pub mod ereport;
pub mod error;
pub mod row_builder;

// Values.
pub mod datum;
pub mod jsonb;

// Statements.
pub mod prepared_statement;
pub mod spi;

// Rows looked up, and locked, without a statement.
pub mod advisory_lock;
pub mod heap_row;
pub mod index_choice;
pub mod index_lookup;
pub mod invalidation;
pub mod scan;
pub mod table;

// The session and the machine.
pub mod clock;
pub mod local_settings;
pub mod memory_reserve;
pub mod random;
pub mod server_version;
pub mod settings;
pub mod startup_settings;

// The unit tests' own program is no server.
#[cfg(not(test))]
mod allocator;

#[cfg(any(test, feature = "pg_test"))]
mod test_tables;

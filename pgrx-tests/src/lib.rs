//! The test harness: temporary PostgreSQL clusters with the extension installed, used through connections of an ordinary driver.
//! It knows the extension by its SQL interface only.
//!
//! ```text
//! application        an application beside the extension    catalogue   a database's objects, as comparable text
//! pgbouncer          PgBouncer in front of a database       concurrency several connections at the same time
//! database           a database for each test               calls       the extension's functions, typed
//! cluster            a server, and standbys of it           server_process  a server that ends with the tests
//! small_disk         a file system that can be filled       polling     waiting for an event
//! sqlstate           assertions about errors                conditional_tests  tests that some machines cannot run
//! documentation      the statements that README.md and docs/ show
//! ```
//!
//! Dependencies point one way: application, pgbouncer, concurrency -> database -> cluster -> small_disk -> server_process. calls, catalogue,
//! conditional_tests, documentation, polling and sqlstate use no other module.

mod application;
mod calls;
mod catalogue;
mod cluster;
mod concurrency;
mod conditional_tests;
mod database;
pub mod documentation;
mod pgbouncer;
mod polling;
mod server_process;
mod small_disk;
mod sqlstate;

pub use application::{Application, SCHEMA as APPLICATION_SCHEMA};
pub use calls::{Calls, Issued, Redeemed};
pub use catalogue::Catalogue;
pub use cluster::Cluster;
pub use concurrency::{concurrently, process_id, while_blocked};
pub use conditional_tests::{Test, no_requirement, run_tests};
pub use database::Database;
pub use pgbouncer::PgBouncer;
pub use polling::{wait_until, wait_until_next_minute};
pub use small_disk::{SMALL_DISK, can_have_small_disk};
pub use sqlstate::ExpectSqlState;

/// The driver, so that tests name one crate.
pub use postgres;

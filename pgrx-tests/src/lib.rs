//! The harness: a throwaway cluster with the extension in it, seen as its users see it, through
//! connections of an ordinary driver. It knows nothing of the extension's insides.
//!
//! ```text
//! cluster      a server that ends with the tests          database   a room of its own for each test
//! keeper       the process that sees to it                pooler     pgbouncer before a database
//! calls        the extension's functions, typed           refusal    errors by their SQLSTATE
//! crowd        several connections at once                waiting    events to wait for, in place of sleeping
//! catalogue    what a database says of its objects        readme     what the README tells people to run
//! small_disk   a file system that can be filled           trials     tests that not every machine can run
//! application  what lives with the extension, to see that nothing of it is lost
//! ```

mod application;
mod calls;
mod catalogue;
mod cluster;
mod concurrency;
mod conditional_tests;
mod database;
mod keeper;
mod pgbouncer;
mod polling;
mod readme;
mod small_disk;
mod sqlstate;

pub use application::{Application, SCHEMA as APPLICATION_SCHEMA};
pub use calls::{Calls, Issued, Redeemed};
pub use catalogue::Catalogue;
pub use cluster::Cluster;
pub use concurrency::{at_once, behind, process_id};
pub use conditional_tests::{Test, nothing, run_tests};
pub use database::Database;
pub use pgbouncer::Pooler;
pub use polling::{
    until, until_expired, until_next_minute, until_replayed, until_waiting_for_lock,
};
pub use readme::readme_block;
pub use small_disk::{SMALL_DISK, can_have_small_disk};
pub use sqlstate::Refused;

/// The driver, so that tests name one crate.
pub use postgres;

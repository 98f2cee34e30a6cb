//! The harness: a throwaway cluster with the extension in it, seen as its users see it, through
//! connections of an ordinary driver. It knows nothing of the extension's insides.
//!
//! ```text
//! cluster   a server that ends with the tests          database  a room of its own for each test
//! calls     the extension's functions, typed           refusal   errors by their SQLSTATE
//! crowd     several connections at once                waiting   events to wait for, in place of sleeping
//! ```

mod calls;
mod cluster;
mod crowd;
mod database;
mod refusal;
mod waiting;

pub use calls::{Calls, Issued, Redeemed};
pub use cluster::Cluster;
pub use crowd::{at_once, behind, process_id};
pub use database::Database;
pub use refusal::Refused;
pub use waiting::{until, until_expired, until_waiting_for_lock};

/// The driver, so that tests name one crate.
pub use postgres;

//! The harness: a throwaway cluster with the extension in it, seen as its users see it, through
//! connections of an ordinary driver. It knows nothing of the extension's insides.
//!
//! ```text
//! cluster      a server that ends with the tests        database   a room of its own for each test
//! calls        the backend's functions, typed           refusal    errors by their SQLSTATE
//! waiting      events to wait for, in place of sleeping catalogue  what a database says of its objects
//! application  what lives with the extension, to see that nothing of it is lost
//! ```

mod application;
mod calls;
mod catalogue;
mod cluster;
mod database;
mod refusal;
mod waiting;

pub use application::{Application, SCHEMA as APPLICATION_SCHEMA};
pub use calls::{Calls, Issued, Redeemed};
pub use catalogue::Catalogue;
pub use cluster::Cluster;
pub use database::Database;
pub use refusal::Refused;
pub use waiting::{until, until_expired, until_waiting_for_lock};

/// The driver, so that tests name one crate.
pub use postgres;

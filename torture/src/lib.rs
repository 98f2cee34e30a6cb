//! What takes long to break magic_link with: each part runs for the time it is given, and ends at the first
//! thing that does not hold. `make torture` runs them at length, tests in `tests/` for a few seconds.
//!
//! ```text
//! run   how long, with which seed, and the line that shows how far it is
//! ```

pub mod actions;
pub mod actors;
pub mod interrupt;
pub mod invariants;
pub mod journal;
pub mod kill;
pub mod promote;
pub mod run;
pub mod schedule;
pub mod world;

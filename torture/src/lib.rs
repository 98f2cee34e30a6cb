//! What takes long to break magic_link with: each part runs for the time it is given, and ends at the first
//! thing that does not hold. `make torture` runs them at length, tests in `tests/` for a few seconds.
//!
//! ```text
//! run         how long, with which seed, and the line that shows how far it is
//!
//! schedule    16 connections do anything at random, and everything adds up: round by round
//! kill        the same, and the server is killed          interrupt   the same, and calls and sessions are
//! promote     the same, and a standby takes over
//! hostile     values that nobody means well with, into every argument of every function
//! memcheck    the same, under valgrind
//! ddl         calls of every function wait for whatever a DBA does to a table
//!
//! world       the few objects on which they meet          actions     what each connection does, drawn from the seed
//! actors      the connections at work                     journal     what they saw
//! tables      what is there afterwards                    addresses   who had which when
//! invariants  what has to hold between what they saw and what is there
//! ddl_changes what a DBA does                             ddl_calls   who calls what meanwhile, about which rows
//! ddl_verdict how a call may end, and what is damaged
//! ```
//!
//! A seed repeats what every connection chooses and when a fault strikes, counted in transactions. It does not repeat who
//! comes first: that is the scheduler's choice, so a failure may need several runs of its seed to come again.

pub mod actions;
pub mod actors;
pub mod addresses;
pub mod ddl;
pub mod ddl_calls;
pub mod ddl_changes;
pub mod ddl_verdict;
pub mod hostile;
pub mod hostile_values;
pub mod interrupt;
pub mod invariants;
pub mod journal;
pub mod kill;
pub mod memcheck;
pub mod promote;
pub mod run;
pub mod schedule;
pub mod tables;
pub mod world;

//! `magic_link` beside what would be done without it, on the machine at hand: `make bench`.
//!
//! ```text
//! contestants   who is compared, and what each of them sends for a workload
//! workload      what is asked for, and the tokens, users and organizations that it takes
//! wire          a connection that sends it, with prepared statements and bound parameters
//! proxy         a network that is not there: it delays what passes
//!
//! instructions  counted by callgrind in a single-user server       wal        bytes, transaction ids, heap-only updates
//! throughput    over a socket, by several clients                  growth     with the size of one_time_tokens
//! bulk          many addresses in one call                         purge      beside redemptions
//! memory        of a session that goes on and on
//!
//! report        the table, and results.md                          plot       SVG
//! ```

pub mod bulk;
pub mod contestants;
pub mod growth;
pub mod instructions;
pub mod memory;
pub mod plot;
pub mod proxy;
pub mod purge;
pub mod report;
pub mod server;
pub mod throughput;
pub mod wal;
pub mod wire;
pub mod workload;

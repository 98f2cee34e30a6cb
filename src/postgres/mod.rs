pub mod advisory_lock;
// The unit tests' own program is no server.
#[cfg(not(test))]
mod allocator;
pub mod call;
pub mod clock;
pub mod datum;
pub mod error;
pub mod index_lookup;
pub mod invalidation;
pub mod memory_reserve;
pub mod scan;
pub mod server_version;
pub mod settings;
pub mod spi;
pub mod table;

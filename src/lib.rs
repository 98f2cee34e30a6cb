//! `magic_link`: one-time tokens, kept and redeemed inside PostgreSQL.
//!
//! This is the map. What is installed, in this order: the schema, the functions, the tables (one of
//! which is checked by a function), the views over them, and last who may do what.
//!
//! The rooms, and which way their arrows run:
//! doors → issuance, redemption, session_switch → limits → lifecycle → token_lock → ledger, directory,
//! address_lock → statements, index_lookup → table, scan → invalidation → datum, settings → raise.

use std::ffi::CStr;

use pgrx::pg_guard;

// Pure rooms, which know no PostgreSQL.
mod context;
mod email;
mod link;
mod outcome;
mod soundness;
mod token;

// Rooms that speak SQL.
mod address_lock;
mod directory;
mod index_lookup;
mod invalidation;
mod issuance;
mod ledger;
mod lifecycle;
mod limits;
mod redemption;
mod scan;
mod session_switch;
mod statements;
mod table;
mod token_lock;

// What stands between us and PostgreSQL.
mod datum;
mod doors;
mod fmgr;
mod memory_reserve;
mod raise;
mod server_version;
mod settings;
mod system;

// The unit tests' own program is no server.
#[cfg(not(test))]
mod allocator;

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };
::pgrx::pg_module_magic!(name = c"magic_link", version = VERSION);

::pgrx::extension_sql_file!("../sql/schema.sql", name = "schema", bootstrap);
::pgrx::extension_sql_file!(
    "../sql/functions.sql",
    name = "functions",
    requires = ["schema"]
);
::pgrx::extension_sql_file!(
    "../sql/tables.sql",
    name = "tables",
    requires = ["functions"]
);
::pgrx::extension_sql_file!("../sql/views.sql", name = "views", requires = ["tables"]);
::pgrx::extension_sql_file!("../sql/privileges.sql", name = "privileges", finalize);

#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    raise::set_memory_aside();
}

#[cfg(test)]
#[path = "../fuzz/properties.rs"]
mod properties;

/// What `cargo pgrx test` asks of the crate's root.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}

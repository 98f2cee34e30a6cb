//! `magic_link`: one-time tokens, kept and redeemed inside PostgreSQL.
//!
//! What is installed, in this order: the schema, the functions, the tables (one of which is checked by a
//! function), the views over them, and last who may do what.
//!
//! Dependencies run one way: functions → operations → tables → postgres. All may use `domain`, a crate of its own,
//! which uses nothing of ours. `unsafe` is in `postgres` alone.

#![deny(unsafe_code)]

use std::ffi::CStr;

use pgrx::pg_guard;

mod functions;
mod operations;
#[allow(unsafe_code)]
mod postgres;

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
    postgres::settings::define();
    postgres::ereport::set_memory_aside();
}

/// What `cargo pgrx test` asks of the crate's root.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}

//! What differs between the versions of PostgreSQL that we are built for. Nothing else asks which one it is.

use std::ffi::c_int;

use pgrx::pg_sys;

/// The server's settings, those of extensions included, and how many there are.
#[cfg(feature = "pg15")]
pub fn settings() -> (*mut *mut pg_sys::config_generic, c_int) {
    // SAFETY: both read what the server has had since it started.
    unsafe { (pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions()) }
}

/// The server's settings, those of extensions included, and how many there are.
#[cfg(not(feature = "pg15"))]
pub fn settings() -> (*mut *mut pg_sys::config_generic, c_int) {
    let mut count = 0;
    // SAFETY: it reads what the server has had since it started, and writes the number to where we say.
    let settings = unsafe { pg_sys::get_guc_variables(&mut count) };
    (settings, count)
}

//! Entry points: the C functions that `sql/functions.sql` declares.
//!
//! They are V1 functions of our own and not `#[pg_extern]`s, whose C names have a suffix that no released script has, and
//! whose errors know only PostgreSQL's own SQLSTATEs.

use pgrx::pg_sys::{self, Datum};

use super::call::{Call, declaration_mismatch};
use super::ereport::run_or_ereport;
use super::error::Error;

/// Exports a function of so many arguments to PostgreSQL as `magic_link_NAME`, where NAME is the function's own or another
/// (`NAME(n) = body`).
///
/// A session for which [`reject_refused_startup_setting`](super::startup_settings::reject_refused_startup_setting) is an
/// error is not served. `for anybody` serves it all the same: for what constraints call as whoever writes.
macro_rules! sql_function {
    ($body:ident($arguments:literal)) => {
        $crate::postgres::entry_point::sql_function!($body($arguments) = $body);
    };
    ($name:ident($arguments:literal) = $body:expr) => {
        $crate::postgres::entry_point::sql_function!(
            $name,
            $arguments,
            $crate::postgres::startup_settings::reject_refused_startup_setting,
            $body
        );
    };
    ($body:ident($arguments:literal) for anybody) => {
        $crate::postgres::entry_point::sql_function!($body, $arguments, || Ok(()), $body);
    };
    ($name:ident, $arguments:literal, $admit:expr, $body:expr) => {
        #[allow(unsafe_code)]
        const _: () = {
            #[unsafe(export_name = concat!("magic_link_", stringify!($name)))]
            extern "C-unwind" fn entry_point(
                fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
            ) -> ::pgrx::pg_sys::Datum {
                // SAFETY: PostgreSQL calls this by its V1 convention; `fcinfo` is valid for the
                // call, and this frame holds nothing that needs dropping.
                unsafe { $crate::postgres::entry_point::run(fcinfo, $arguments, $admit, $body) }
            }

            #[unsafe(export_name = concat!("pg_finfo_magic_link_", stringify!($name)))]
            extern "C" fn info() -> *const ::pgrx::pg_sys::Pg_finfo_record {
                static V1: ::pgrx::pg_sys::Pg_finfo_record =
                    ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &V1
            }
        };
    };
}
pub(crate) use sql_function;

/// Runs the body of a SQL function; None is NULL.
///
/// # Safety
/// `fcinfo` is what PostgreSQL passed, and no frame above needs dropping (see [`run_or_ereport`]).
pub unsafe fn run(
    fcinfo: pg_sys::FunctionCallInfo,
    arguments: i16,
    admit: fn() -> Result<(), Error>,
    body: fn(&Call) -> Result<Option<Datum>, Error>,
) -> Datum {
    // SAFETY: as the caller promises.
    unsafe {
        let result = run_or_ereport(|| {
            if (*fcinfo).nargs != arguments {
                return Err(declaration_mismatch());
            }
            admit()?;
            body(&Call::new(fcinfo))
        });
        (*fcinfo).isnull = result.is_none();
        result.unwrap_or(Datum::null())
    }
}

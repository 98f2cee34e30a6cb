//! What a client may not ask for in its startup packet.
//!
//! Until the library is loaded PostgreSQL takes any value for its settings, also in place of what the server's files, the
//! database and the role say. When the library defines a setting it drops a value that the client may not set, but the
//! others' values are lost by then. So a session whose client tried that is served nothing.

use std::ffi::CStr;
use std::sync::OnceLock;

use pgrx::pg_sys;

use super::error::{Error, SqlState};
use super::server_version;

/// The setting that the client asked for and was not given, if there is one.
static REFUSED_STARTUP_SETTING: OnceLock<&CStr> = OnceLock::new();

/// Runs `define`, which defines these settings, and remembers whether PostgreSQL then drops a value of the client's.
pub fn watch_definition(settings: &[&'static CStr], define: impl FnOnce()) {
    let asked_for: Vec<_> = settings
        .iter()
        .filter(|name| was_set_by_client(name))
        .collect();
    define();
    if let Some(name) = asked_for.into_iter().find(|name| !was_set_by_client(name)) {
        REFUSED_STARTUP_SETTING.get_or_init(|| name);
    }
}

/// 42501 where the client asked, as it connected, for a value that it may not set or that is none.
pub fn reject_refused_startup_setting() -> Result<(), Error> {
    let Some(name) = REFUSED_STARTUP_SETTING.get() else {
        return Ok(());
    };
    let message = format!(
        "the value that the connection asked for \"{}\" was refused",
        name.to_string_lossy()
    );
    let hint =
        "Connect without asking for it, or with a value that is valid and that the role may set.";
    Err(Error::new(SqlState::INSUFFICIENT_PRIVILEGE, message).hint(hint))
}

/// Whether a setting, which need not be defined yet, is as the client asked for when it connected.
fn was_set_by_client(name: &CStr) -> bool {
    let (variables, count) = server_version::settings();
    // SAFETY: as many pointers to settings of the server as it says, each with a zero-terminated name;
    // nothing defines another one while we look.
    unsafe {
        std::slice::from_raw_parts(variables, count as usize)
            .iter()
            .map(|variable| &**variable)
            .filter(|variable| variable.reset_source == pg_sys::GucSource::PGC_S_CLIENT)
            .map(|variable| CStr::from_ptr(variable.name).to_bytes())
            // As PostgreSQL compares them: a client may write them in any case.
            .any(|asked| asked.eq_ignore_ascii_case(name.to_bytes()))
    }
}

//! Settings that a call overrides for its own length.

use std::ffi::{CStr, c_int};

use pgrx::{PgLogLevel, pg_sys};

use super::settings::{PROMPT, SESSION_EMAIL};

/// Runs `body` with a session account and a prompt of its own; None leaves the prompt that is set.
pub fn with_session<T>(session_email: &str, prompt: Option<&str>, body: impl FnOnce() -> T) -> T {
    let prompt = prompt.map(|prompt| (PROMPT, prompt));
    let session = [(SESSION_EMAIL, session_email)].into_iter().chain(prompt);
    with_local_settings(session, body)
}

/// Runs `body`, which plans statements and runs none, so that their rows are found by an index. What is run may fire a
/// trigger of the application's, whose own statements are to be planned as its settings say.
pub fn with_index_plans_only<T>(body: impl FnOnce() -> T) -> T {
    let settings = [
        (c"enable_seqscan", "off"),
        (c"enable_bitmapscan", "off"),
        (c"enable_indexscan", "on"),
    ];
    with_local_settings(settings, body)
}

/// Runs `body` without the custom plans that the session may ask for. A custom plan has the parameters in
/// it, and so a token's hash in the log of who has plans logged; and each call would make one. A session
/// that does not ask for them keeps its setting, and whatever a trigger makes of it.
pub fn without_custom_plans<T>(body: impl FnOnce() -> T) -> T {
    const CUSTOM: c_int = pg_sys::PlanCacheMode::PLAN_CACHE_MODE_FORCE_CUSTOM_PLAN as c_int;
    // SAFETY: the variable behind the setting.
    if unsafe { pg_sys::plan_cache_mode } != CUSTOM {
        return body();
    }
    with_local_settings([(c"plan_cache_mode", "auto")], body)
}

/// Runs `body` with settings of its own.
fn with_local_settings<'s, T>(
    settings: impl IntoIterator<Item = (&'s CStr, &'s str)>,
    body: impl FnOnce() -> T,
) -> T {
    // SAFETY: the level is closed below, or, after an error of PostgreSQL's, by the end of the transaction.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    for (name, value) in settings {
        set_for_level(name, value);
    }
    let answer = body();
    // SAFETY: the level that was opened above; its settings go back to what they were.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
    answer
}

fn set_for_level(name: &CStr, value: &str) {
    // SAFETY: a setting that any role may set; the strings are zero-terminated and copied. The value, which
    // may be a caller's, is in PostgreSQL's memory: Rust's would end the session where it is too large.
    unsafe {
        let value = pg_sys::pnstrdup(value.as_ptr().cast(), value.len());
        pg_sys::set_config_option(
            name.as_ptr(),
            value,
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            PgLogLevel::ERROR as c_int,
            false,
        );
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::with_session;

    fn session() -> (String, String) {
        let setting = |name: &str| {
            let value = Spi::get_one(&format!("SELECT current_setting('magic_link.{name}')"));
            value.unwrap().unwrap()
        };
        (setting("session_email"), setting("prompt"))
    }

    fn pair(session_email: &str, prompt: &str) -> (String, String) {
        (session_email.to_owned(), prompt.to_owned())
    }

    #[pg_test]
    fn a_call_overrides_the_session_for_its_length_alone() {
        Spi::run("SELECT set_config('magic_link.session_email', 'ada@example.com', true)").unwrap();
        let inside = with_session("eve@example.com", Some("login"), session);
        assert_eq!(inside, pair("eve@example.com", "login"));
        assert_eq!(session(), pair("ada@example.com", ""));
        let inside = with_session("", None, session);
        assert_eq!(inside, pair("", ""));
        assert_eq!(session(), pair("ada@example.com", ""));
    }
}

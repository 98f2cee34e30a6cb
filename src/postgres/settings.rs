//! The extension's settings (GUCs): their definitions, and their values in this session.

use std::ffi::{CStr, CString};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

use super::startup_settings;

/// As PostgreSQL shows it, 7 days.
const DEFAULT_MAX_EXPIRES_IN: i32 = 604_800;
pub(super) const SESSION_EMAIL: &CStr = c"magic_link.session_email";
pub(super) const PROMPT: &CStr = c"magic_link.prompt";

static MAX_EXPIRES_IN: GucSetting<i32> = GucSetting::<i32>::new(DEFAULT_MAX_EXPIRES_IN);
static REVOKE_PREVIOUS: GucSetting<bool> = GucSetting::<bool>::new(false);
static MAX_ACTIVE_TOKENS: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_FAILED_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(5);
static REPLAY_WINDOW: GucSetting<i32> = GucSetting::<i32>::new(0);
// Read by the view `session_switch`, with current_setting().
static SESSION_EMAIL_VALUE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c""));
static PROMPT_VALUE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Those that guard security.
const GUARDED: [&CStr; 5] = [
    c"magic_link.max_expires_in",
    c"magic_link.revoke_previous",
    c"magic_link.max_active_tokens",
    c"magic_link.max_failed_attempts",
    c"magic_link.replay_window",
];

/// Defines the settings; called when the library is loaded.
pub fn define() {
    startup_settings::watch_definition(&GUARDED, define_guarded_settings);
    GucRegistry::define_string_guc(
        SESSION_EMAIL,
        c"Sets the e-mail address that the browser is signed in as.",
        c"The view magic_link.session_switch decides by it; empty means nobody.",
        &SESSION_EMAIL_VALUE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        PROMPT,
        c"Sets the prompt parameter of the authentication request.",
        c"A list of words as in OpenID Connect; with the word login the session is replaced without asking.",
        &PROMPT_VALUE,
        GucContext::Userset,
        GucFlags::default(),
    );
    // SAFETY: a static name, in _PG_init.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"magic_link".as_ptr()) };
}

fn define_guarded_settings() {
    const WHO: &CStr = c"Only a superuser, or a role granted SET on it, may change it.";
    let define_integer = |name, description, setting, least, unit| {
        let context = GucContext::Suset;
        GucRegistry::define_int_guc(
            name,
            description,
            WHO,
            setting,
            least,
            i32::MAX,
            context,
            unit,
        );
    };
    let (seconds, number) = (GucFlags::UNIT_S, GucFlags::default());
    define_integer(
        c"magic_link.max_expires_in",
        c"Sets the longest life that a caller may ask for a one-time token.",
        &MAX_EXPIRES_IN,
        1,
        seconds,
    );
    define_integer(
        c"magic_link.max_active_tokens",
        c"Sets how many active one-time tokens an address may have; 0 is any number.",
        &MAX_ACTIVE_TOKENS,
        0,
        number,
    );
    define_integer(
        c"magic_link.max_failed_attempts",
        c"Sets how often a one-time token may be presented with a wrong address before it is revoked; 0 is any number.",
        &MAX_FAILED_ATTEMPTS,
        0,
        number,
    );
    define_integer(
        c"magic_link.replay_window",
        c"Sets for how long redeeming a one-time token once more gives the first answer again.",
        &REPLAY_WINDOW,
        0,
        seconds,
    );
    GucRegistry::define_bool_guc(
        c"magic_link.revoke_previous",
        c"Creating a one-time token revokes the active ones of the same address and event.",
        WHO,
        &REVOKE_PREVIOUS,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// In seconds.
pub fn max_expires_in() -> i32 {
    MAX_EXPIRES_IN.get()
}

pub fn revoke_previous() -> bool {
    REVOKE_PREVIOUS.get()
}

/// None for any number.
pub fn max_active_tokens() -> Option<i32> {
    Some(MAX_ACTIVE_TOKENS.get()).filter(|limit| *limit > 0)
}

/// Whether a setting asks for an address to be locked before its tokens are counted or ended.
pub fn limit_addresses() -> bool {
    revoke_previous() || max_active_tokens().is_some()
}

/// 0 for any number.
pub fn max_failed_attempts() -> i32 {
    MAX_FAILED_ATTEMPTS.get()
}

/// In seconds; None where nothing is replayed.
pub fn replay_window() -> Option<i32> {
    Some(REPLAY_WINDOW.get()).filter(|seconds| *seconds > 0)
}

/// Runs `body` with the session account as it was set; empty for nobody. Not a copy, since a setting may
/// be as long as its session likes.
pub fn read_session_email<T>(body: impl FnOnce(&str) -> T) -> T {
    // SAFETY: PostgreSQL's own string, null or zero-terminated, which stays until the setting is changed.
    let setting = unsafe {
        let setting = pg_sys::GetConfigOption(SESSION_EMAIL.as_ptr(), true, false);
        (!setting.is_null()).then(|| CStr::from_ptr(setting).to_bytes())
    };
    // What is no text is no address either.
    body(str::from_utf8(setting.unwrap_or_default()).unwrap_or("\u{FFFD}"))
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::max_expires_in;

    #[pg_test]
    fn the_longest_life_is_a_week() {
        assert_eq!(max_expires_in(), 7 * 24 * 60 * 60);
    }
}

//! The settings, and how a call overrides some of them for its own length.

use std::ffi::{CStr, CString, c_int};
use std::sync::OnceLock;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PgLogLevel, pg_sys};

use crate::postgres::error::{Error, SqlState};
use crate::postgres::server_version;

/// As PostgreSQL shows it, 7 days.
const DEFAULT_MAX_EXPIRES_IN: i32 = 604_800;
const SESSION_EMAIL: &CStr = c"magic_link.session_email";
const PROMPT: &CStr = c"magic_link.prompt";

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

/// The guarded setting that the client asked for as it connected and was not given, if there is one.
static WITHHELD: OnceLock<&CStr> = OnceLock::new();

/// Defines the settings; called when the library is loaded.
pub fn define() {
    let asked = GUARDED.into_iter().filter(is_by_client).collect::<Vec<_>>();
    define_guarded_settings();
    if let Some(name) = asked.into_iter().find(|name| !is_by_client(name)) {
        WITHHELD.get_or_init(|| name);
    }
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

/// 42501 where the client asked, as it connected, for what it may not set, or what is no value.
///
/// Until the library is loaded PostgreSQL takes any value for its settings, and what a client asks for
/// in place of what the server's files, the database and the role say. When the library comes it
/// withholds the value, but what the others said is lost. So whoever tries that is served nothing.
pub fn check_client() -> Result<(), Error> {
    let Some(name) = WITHHELD.get() else {
        return Ok(());
    };
    let message = format!(
        "the value that the connection asked for \"{}\" was refused",
        name.to_string_lossy()
    );
    Err(Error::new(SqlState::INSUFFICIENT_PRIVILEGE, message).hint(
        "Connect without asking for it, or with a value that is valid and that the role may set.",
    ))
}

/// Whether a setting, which need not be defined yet, is as the client asked for when it connected.
fn is_by_client(name: &&CStr) -> bool {
    let (variables, count) = server_version::settings();
    // SAFETY: as many pointers to settings of the server as it says, each with a zero-terminated name;
    // nothing defines another one while we look. A backend has one thread.
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

/// Runs `body` with a session account and a prompt of its own; None leaves the prompt that is set.
pub fn with_session<T>(session_email: &str, prompt: Option<&str>, body: impl FnOnce() -> T) -> T {
    let prompt = prompt.map(|prompt| (PROMPT, prompt));
    let session = [(SESSION_EMAIL, session_email)].into_iter().chain(prompt);
    with(session, body)
}

/// Runs `body`, which plans statements and runs none, so that their rows are found by an index. What is run may fire a
/// trigger of the application's, whose own statements are to be planned as its settings say.
pub fn with_index_plans_only<T>(body: impl FnOnce() -> T) -> T {
    let settings = [
        (c"enable_seqscan", "off"),
        (c"enable_bitmapscan", "off"),
        (c"enable_indexscan", "on"),
    ];
    with(settings, body)
}

/// Runs `body` without the custom plans that the session may ask for. A custom plan has the parameters in
/// it, and so a token's hash in the log of who has plans logged; and each call would make one. A session
/// that does not ask for them keeps its setting, and whatever a trigger makes of it.
pub fn without_custom_plans<T>(body: impl FnOnce() -> T) -> T {
    const CUSTOM: c_int = pg_sys::PlanCacheMode::PLAN_CACHE_MODE_FORCE_CUSTOM_PLAN as c_int;
    // SAFETY: the variable behind the setting; a backend has one thread.
    if unsafe { pg_sys::plan_cache_mode } != CUSTOM {
        return body();
    }
    with([(c"plan_cache_mode", "auto")], body)
}

/// Runs `body` with settings of its own.
fn with<'s, T>(
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

    use super::*;

    fn session() -> (String, String) {
        let text =
            |setting: &GucSetting<Option<CString>>| setting.get().unwrap().into_string().unwrap();
        (text(&SESSION_EMAIL_VALUE), text(&PROMPT_VALUE))
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

    #[pg_test]
    fn the_longest_life_is_a_week() {
        assert_eq!(max_expires_in(), 7 * 24 * 60 * 60);
    }
}

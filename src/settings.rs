//! The settings, and how a call overrides some of them for its own length.

use std::ffi::{CStr, CString, c_int};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PgLogLevel, pg_sys};

use crate::raise::{Failure, Report};

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

/// Those that guard security, and what each is where nobody has set it.
const GUARDED: &[(&CStr, &CStr)] = &[
    (c"magic_link.max_expires_in", c"604800"),
    (c"magic_link.revoke_previous", c"off"),
    (c"magic_link.max_active_tokens", c"0"),
    (c"magic_link.max_failed_attempts", c"5"),
    (c"magic_link.replay_window", c"0"),
];

/// Defines the settings; called when the library is loaded.
pub fn define() {
    let was_set: Vec<_> = GUARDED
        .iter()
        .filter(|(name, _)| value(name).is_some())
        .collect();
    define_security_settings();
    let lost = |(name, default): &(&CStr, &CStr)| value(name).as_deref() == Some(*default);
    if was_set.into_iter().any(lost) {
        read_again();
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

/// The value of a setting; None where the server knows of none.
fn value(name: &CStr) -> Option<CString> {
    // SAFETY: the name is zero-terminated; the value is null, or a string that is copied at once.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_owned())
    }
}

/// Has the server read again what its files, its database and its role say of the settings.
///
/// Until the library is loaded PostgreSQL takes any value from anybody. What a client asks for as it
/// connects stands before all these; when the library is loaded and the client may not set it, it is
/// dropped, and the setting would be as if nobody had ever set it.
fn read_again() {
    unsafe extern "C-unwind" {
        fn ApplySetting(
            snapshot: pg_sys::Snapshot,
            databaseid: pg_sys::Oid,
            roleid: pg_sys::Oid,
            relsetting: pg_sys::Relation,
            source: pg_sys::GucSource::Type,
        );
    }
    /// The same in every version of PostgreSQL.
    const PG_DB_ROLE_SETTING: u32 = 2964;
    use pg_sys::GucSource::{PGC_S_DATABASE, PGC_S_DATABASE_USER, PGC_S_GLOBAL, PGC_S_USER};
    // SAFETY: as PostgreSQL does at SIGHUP, and as a session begins; the table is read within a
    // transaction, and the snapshot is registered as long as it is used. A value that stands
    // is not replaced by one of a source that comes behind its own.
    unsafe {
        if !pg_sys::IsUnderPostmaster || !pg_sys::IsTransactionState() {
            return;
        }
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        let (table, database, nobody) = (
            pg_sys::Oid::from(PG_DB_ROLE_SETTING),
            pg_sys::MyDatabaseId,
            pg_sys::InvalidOid,
        );
        let role = pg_sys::GetAuthenticatedUserId();
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as c_int);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetCatalogSnapshot(table));
        for (database, role, source) in [
            (database, role, PGC_S_DATABASE_USER),
            (nobody, role, PGC_S_USER),
            (database, nobody, PGC_S_DATABASE),
            (nobody, nobody, PGC_S_GLOBAL),
        ] {
            ApplySetting(snapshot, database, role, relation, source);
        }
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as c_int);
    }
}

fn define_security_settings() {
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

/// 0 for any number.
pub fn max_failed_attempts() -> i32 {
    MAX_FAILED_ATTEMPTS.get()
}

/// In seconds; None where nothing is replayed.
pub fn replay_window() -> Option<i32> {
    Some(REPLAY_WINDOW.get()).filter(|seconds| *seconds > 0)
}

/// As it was set; empty for nobody.
pub fn session_email() -> String {
    let setting = SESSION_EMAIL_VALUE.get().unwrap_or_default();
    setting.to_string_lossy().into_owned()
}

/// Runs `body` with a session account and a prompt of its own; None leaves the prompt that is set.
pub fn with_session<T>(
    session_email: &str,
    prompt: Option<&str>,
    body: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    // SAFETY: the level is closed below, or, after a failure, by the end of the transaction.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    set_for_level(SESSION_EMAIL, session_email)?;
    if let Some(prompt) = prompt {
        set_for_level(PROMPT, prompt)?;
    }
    let answer = body()?;
    // SAFETY: the level that was opened above; its settings go back to what they were.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
    Ok(answer)
}

fn set_for_level(name: &CStr, value: &str) -> Result<(), Failure> {
    let value = CString::new(value).map_err(|error| Report::invalid("setting", error))?;
    // SAFETY: a setting of ours, which any role may set; the strings are zero-terminated and copied.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            PgLogLevel::ERROR as c_int,
            false,
        );
    }
    Ok(())
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
        let inside = with_session("eve@example.com", Some("login"), || Ok(session()));
        assert_eq!(inside.unwrap(), pair("eve@example.com", "login"));
        assert_eq!(session(), pair("ada@example.com", ""));
        let inside = with_session("", None, || Ok(session()));
        assert_eq!(inside.unwrap(), pair("", ""));
        assert_eq!(session(), pair("ada@example.com", ""));
    }

    #[pg_test]
    fn the_longest_life_is_a_week() {
        assert_eq!(max_expires_in(), 7 * 24 * 60 * 60);
    }
}

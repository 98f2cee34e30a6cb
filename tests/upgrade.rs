//! ALTER EXTENSION UPDATE from every release to this version: no data is lost, and the catalogue is that of a fresh install.
//! tests/upgrade/ has the scripts of the releases, and `make test` installs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use magic_link_harness::postgres::Client;
use magic_link_harness::{
    APPLICATION_SCHEMA, Application, Calls, Catalogue, Cluster, Database, ExpectSqlState,
};
use serde_json::json;

const OURS: &str = "magic_link";

/// A value for each setting of the extension with which it does what it does not by default; the declarations of the first
/// release have to bear with all of them. One that the library has and the list has not fails a test.
const SETTINGS: &[(&str, &str)] = &[
    ("magic_link.max_expires_in", "1h"),
    ("magic_link.revoke_previous", "on"),
    ("magic_link.max_active_tokens", "2"),
    ("magic_link.max_failed_attempts", "1"),
    ("magic_link.replay_window", "1min"),
    ("magic_link.session_email", "eve@example.com"),
    ("magic_link.prompt", "login"),
];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The releases before this version, oldest first.
fn releases() -> Vec<String> {
    let current = current_version();
    let kept = scripts_in(&project().join("tests/upgrade"));
    let mut releases: Vec<_> = kept
        .iter()
        .map(|name| name["magic_link--".len()..name.len() - ".sql".len()].to_owned())
        .filter(|version| *version != current)
        .collect();
    let number = |part: &str| part.parse::<u32>().expect("a version of numbers");
    releases.sort_by_cached_key(|version| version.split('.').map(number).collect::<Vec<_>>());
    assert_eq!(releases.first().map(String::as_str), Some("0.1.0"));
    releases
}

fn current_version() -> String {
    Database::bare(Cluster::shared(), "").value(
        "SELECT default_version FROM pg_available_extensions WHERE name = 'magic_link'",
        &[],
    )
}

/// Where the server looks for the scripts.
fn servers_scripts() -> PathBuf {
    let pg_config = std::env::var("PG_CONFIG").expect("PG_CONFIG");
    let answer = Command::new(pg_config).arg("--sharedir").output();
    let folder = String::from_utf8(answer.expect("no pg_config").stdout).expect("UTF-8");
    Path::new(folder.trim_end()).join("extension")
}

/// A bare database of the shared cluster with the extension as a release made it.
fn database_of(release: &str) -> Database<'static> {
    let db = Database::bare(Cluster::shared(), "");
    db.sql(&format!("CREATE EXTENSION magic_link VERSION '{release}'"));
    db
}

#[track_caller]
fn update(db: &Database) {
    db.sql("ALTER EXTENSION magic_link UPDATE");
}

#[track_caller]
fn assert_as_fresh(release: &str, updated: &Database, fresh: &Database, schemas: &[&str]) {
    let read = |db: &Database| Catalogue::read(&mut db.superuser(), schemas);
    let difference = read(updated).difference(
        &format!("after the update from {release}"),
        &read(fresh),
        "after a fresh install",
    );
    assert!(difference.is_empty(), "\n{difference}");
}

/// A script that an older build left behind could let the other tests pass, or fail, by accident.
#[test]
fn the_server_finds_the_scripts_that_are_kept_and_no_other() {
    let generated = format!("magic_link--{}.sql", current_version());
    let kept = scripts_in(&project().join("tests/upgrade"));
    let updates = scripts_in(&project().join("sql"));
    let found = scripts_in(&servers_scripts());
    let expected: BTreeSet<_> = kept.iter().chain(&updates).chain([&generated]).collect();
    assert_eq!(found.iter().collect::<BTreeSet<_>>(), expected);
    for release in releases() {
        let name = format!("magic_link--{release}.sql");
        let [installed, kept] = [servers_scripts(), project().join("tests/upgrade")]
            .map(|folder| fs::read(folder.join(&name)).expect("no such script"));
        assert!(installed == kept, "{name}");
    }
}

/// The names of the scripts of the extension in a folder.
fn scripts_in(folder: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(folder).expect("no folder");
    let names = files.map(|file| {
        file.expect("no file")
            .file_name()
            .into_string()
            .expect("UTF-8")
    });
    names
        .filter(|name| name.starts_with("magic_link--") && name.ends_with(".sql"))
        .collect()
}

/// Whoever installed it has what is in that script: what changes after a release needs a version of its own.
#[test]
fn the_script_of_a_release_stays_as_it_is() {
    let name = format!("magic_link--{}.sql", current_version());
    let generated = fs::read_to_string(servers_scripts().join(&name)).expect("not installed");
    // Until the release is made there is nothing to keep.
    if let Ok(kept) = fs::read_to_string(project().join("tests/upgrade").join(&name)) {
        for (was, is) in zip_lines(&kept, &generated) {
            assert_eq!(was, is, "{name} is released: a change needs a new version");
        }
    }
}

/// Two scripts, line by line to the end of the longer one, without the places, which move with every change of lib.rs.
fn zip_lines<'a>(kept: &'a str, generated: &'a str) -> Vec<(Option<&'a str>, Option<&'a str>)> {
    let [mut kept, mut generated] = [kept, generated].map(|script| {
        script
            .lines()
            .filter(|line| !line.starts_with("-- src/lib.rs:"))
    });
    std::iter::from_fn(|| Some((kept.next(), generated.next())))
        .take_while(|pair| *pair != (None, None))
        .collect()
}

#[test]
fn of_a_script_the_places_alone_are_passed_over() {
    let released = "-- src/lib.rs:42\n-- bootstrap\nCREATE SCHEMA magic_link;\n";
    let differs = |generated: &str| {
        let lines = zip_lines(released, generated);
        lines.iter().any(|(was, is)| was != is)
    };
    assert!(!differs(&released.replace("42", "43")));
    assert!(differs(&released.replace("bootstrap", "")));
    assert!(differs(&released.replace("SCHEMA", "ROLE")));
    assert!(differs(
        &released.replace("CREATE SCHEMA magic_link;\n", "")
    ));
    assert!(differs(&format!("{released}-- more\n")));
}

#[test]
fn an_updated_database_is_as_a_fresh_one() {
    for release in releases() {
        let updated = database_of(&release);
        update(&updated);
        let fresh = Database::bare(Cluster::shared(), "");
        fresh.sql("CREATE EXTENSION magic_link");
        assert_as_fresh(&release, &updated, &fresh, &[OURS]);
    }
}

/// What whoever installs has granted by default stays away from what an update creates, as it does in an install.
#[test]
fn default_privileges_make_no_difference_to_an_update() {
    for release in releases() {
        let [updated, fresh] = [(); 2].map(|()| Database::bare(Cluster::shared(), ""));
        for db in [&updated, &fresh] {
            db.sql(
                "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, pg_monitor;
                 ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC, pg_monitor;
                 ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC, pg_monitor;
                 ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO pg_monitor;
                 ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC, pg_monitor",
            );
        }
        updated.sql(&format!("CREATE EXTENSION magic_link VERSION '{release}'"));
        update(&updated);
        fresh.sql("CREATE EXTENSION magic_link");
        assert_as_fresh(&release, &updated, &fresh, &[OURS]);
    }
}

#[test]
fn an_application_goes_on_after_an_update() {
    for release in releases() {
        let db = database_of(&release);
        Application::make_roles(&db);
        let application = Application::move_in(&db);
        let columns = db.columns(&[OURS, APPLICATION_SCHEMA]);
        let mut backend = db.backend();
        let before = db.rows(&columns);
        let held_before = privileges(&db);
        // A session that has plans of its own from before.
        assert_eq!(
            backend.check_in(None, "0", "a@example.com").unwrap(),
            "token_not_found"
        );

        update(&db);

        assert_eq!(db.rows(&columns), before, "from {release}");
        let held = privileges(&db);
        let lost: Vec<_> = held_before
            .iter()
            .filter(|held_one| !held.contains(held_one))
            .collect();
        assert!(lost.is_empty(), "from {release}: {lost:?}");
        application.assert_goes_on_with(&db, &mut backend);
    }
}

/// Who may do what with the extension's objects, beside their owner.
fn privileges(db: &Database) -> Vec<String> {
    let catalogue = Catalogue::read(&mut db.superuser(), &[OURS]).to_string();
    let privilege = |line: &&str| line.contains(": privilege: ");
    catalogue
        .lines()
        .filter(privilege)
        .map(str::to_owned)
        .collect()
}

/// What was granted before an update, or made to depend on the extension, leaves no trace in how its objects are installed:
/// pg_dump would take a grant that an update made its own for a part of the extension, and leave it out.
#[test]
fn an_application_leaves_no_trace_in_what_an_update_installs() {
    for release in releases() {
        let updated = database_of(&release);
        Application::make_roles(&updated);
        let fresh_name = format!("{}_fresh", updated.name());
        updated.sql(&format!("CREATE DATABASE {fresh_name}"));
        let fresh = updated.with_roles_of_this(Cluster::shared(), &fresh_name);
        fresh.sql("CREATE EXTENSION magic_link");
        for db in [&updated, &fresh] {
            Application::move_in(db);
        }
        update(&updated);
        // As after every update, for the functions that are new.
        let grant = format!(
            "SELECT magic_link.grant_backend('{}')",
            updated.backend_role()
        );
        updated.sql(&grant);
        assert_as_fresh(&release, &updated, &fresh, &[OURS, APPLICATION_SCHEMA]);
    }
}

/// Between installing the library and ALTER EXTENSION UPDATE, which may be long, and may be never.
#[test]
fn the_declarations_of_a_release_work_with_this_library() {
    for release in releases() {
        let db = database_of(&release);
        assert_first_release_works(&db);
    }
}

/// The first release alone: a later one may have answers of its own to a setting.
#[test]
fn the_declarations_of_the_first_release_work_with_every_setting() {
    let db = database_of(&releases()[0]);
    let present = settings(&db);
    let without_value: Vec<_> = present
        .iter()
        .filter(|name| !SETTINGS.iter().any(|(known, _)| known == name))
        .collect();
    assert!(without_value.is_empty(), "SETTINGS lacks {without_value:?}");
    for (setting, value) in SETTINGS {
        if present.iter().any(|name| name == setting) {
            db.sql(&format!(
                "ALTER DATABASE {} SET {setting} = '{value}'",
                db.name()
            ));
        }
    }
    assert_first_release_works(&db);
}

fn settings(db: &Database) -> Vec<String> {
    let mut superuser = db.superuser();
    superuser.batch_execute("LOAD 'magic_link'").unwrap();
    let rows = superuser
        .query(
            "SELECT name FROM pg_settings WHERE name LIKE 'magic\\_link.%'",
            &[],
        )
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// All that 0.1.0 could do, through its declarations, as the backend role.
#[track_caller]
fn assert_first_release_works(db: &Database) {
    Application::make_roles(db);
    db.sql(&format!(
        "SELECT magic_link.grant_backend('{}')",
        db.backend_role()
    ));
    db.organization("acme", &["member"]);
    db.organization("globex", &["member"]);
    db.roles(&["admin"]);
    let mut backend = db.backend();
    assert_redeeming(&mut backend);
    assert_outcomes(db, &mut backend);
    assert_session_switch(&mut backend);
    assert_issuing(db, &mut backend);
    assert_pure_functions(&mut backend);
}

fn assert_redeeming(backend: &mut Client) {
    let context = r#"{"jitOrganizationIds": ["globex", "acme"], "organizationRoleIds": {"acme": ["admin"]}, "n": 1}"#;
    let issued = backend.create(" Ada@Example.com", context).unwrap();
    assert_eq!(
        (issued.email.as_str(), issued.status.as_str()),
        ("ada@example.com", "active")
    );
    assert_eq!(
        backend
            .check_in(None, &issued.token, &issued.email)
            .unwrap(),
        "ok"
    );
    let redeemed = backend.redeem(&issued.token, &issued.email).unwrap();
    assert_eq!(
        (redeemed.token_id, redeemed.user_created, redeemed.replayed),
        (issued.id, true, false)
    );
    assert_eq!(redeemed.context, issued.context);
    assert_eq!(
        redeemed.memberships,
        json!([
            {"organizationId": "acme", "status": "added", "roleIds": ["admin"]},
            {"organizationId": "globex", "status": "added", "roleIds": ["member"]},
        ])
    );
    backend
        .redeem(&issued.token, &issued.email)
        .expect_sqlstate("OT003");

    let issued = backend
        .create("ada@example.com", r#"{"jitOrganizationIds": ["acme"]}"#)
        .unwrap();
    let (outcome, redeemed) = backend
        .try_redeem_in(None, &issued.token, &issued.email)
        .unwrap();
    assert_eq!(outcome, "ok");
    let memberships = redeemed.expect("a row").memberships;
    assert_eq!(
        memberships,
        json!([{"organizationId": "acme", "status": "already_member", "roleIds": ["admin", "member"]}])
    );
}

/// Each outcome, as all three ways of asking tell it.
fn assert_outcomes(db: &Database, backend: &mut Client) {
    let register = r#"{"interactionEvent": "Register"}"#;
    let mut issue = |email: &str, context: &str| backend.create(email, context).unwrap().token;
    let [consumed, revoked, expired] = ["consumed", "revoked", "expired"]
        .map(|end| issue(&format!("{end}@example.com"), register));
    let active = issue("active@example.com", register);
    let sign_in = issue("nobody@example.com", r#"{"interactionEvent": "SignIn"}"#);
    backend
        .redeem_in(Some("Register"), &consumed, "consumed@example.com")
        .unwrap();
    db.sql(
        "UPDATE magic_link.one_time_tokens SET revoked_at = clock_timestamp() WHERE email = 'revoked@example.com';
         UPDATE magic_link.one_time_tokens SET created_at = created_at - interval '1 day', expires_at = created_at
          WHERE email = 'expired@example.com'",
    );
    for (token, email, event, code, expected) in [
        (
            &"0".repeat(32),
            "active@example.com",
            "Register",
            "OT001",
            "token_not_found",
        ),
        (
            &active,
            "eve@example.com",
            "Register",
            "OT002",
            "email_mismatch",
        ),
        (
            &consumed,
            "consumed@example.com",
            "Register",
            "OT003",
            "token_consumed",
        ),
        (
            &revoked,
            "revoked@example.com",
            "Register",
            "OT004",
            "token_revoked",
        ),
        (
            &expired,
            "expired@example.com",
            "Register",
            "OT005",
            "token_expired",
        ),
        (
            &active,
            "active@example.com",
            "SignIn",
            "OT006",
            "interaction_event_mismatch",
        ),
        (
            &sign_in,
            "nobody@example.com",
            "SignIn",
            "OT007",
            "user_not_found",
        ),
    ] {
        let event = Some(event);
        assert_eq!(backend.check_in(event, token, email).unwrap(), expected);
        let (outcome, row) = backend.try_redeem_in(event, token, email).unwrap();
        assert_eq!((outcome.as_str(), row), (expected, None));
        backend.redeem_in(event, token, email).expect_sqlstate(code);
    }
    let (outcome, _) = backend
        .try_redeem_in(Some("Register"), &active, "active@example.com")
        .unwrap();
    assert_eq!(outcome, "ok");
}

fn assert_session_switch(backend: &mut Client) {
    let (email, other) = ("switch@example.com", "other@example.com");
    let issued = backend.create(email, "{}").unwrap();
    for (session_email, prompt, expected) in [
        ("", "", "redeem"),
        (email, "", "redeem"),
        (other, "consent", "ask"),
        (other, "login consent", "switch"),
    ] {
        let (decision, reason) = backend
            .decide(&issued.token, email, Some(session_email), Some(prompt))
            .unwrap();
        assert_eq!((decision.as_str(), reason), (expected, None));
        let seen = decision_in_view(backend, &issued.token, session_email, prompt);
        assert_eq!(seen, ("active".to_owned(), expected.to_owned()));
    }
    let (decision, reason) = backend
        .decide(&issued.token, other, Some(""), Some(""))
        .unwrap();
    assert_eq!(
        (decision.as_str(), reason.as_deref()),
        ("refuse", Some("email_mismatch"))
    );
    backend.redeem(&issued.token, email).unwrap();
    let (decision, _) = backend
        .decide(&issued.token, email, Some(email), Some(""))
        .unwrap();
    assert_eq!(decision, "continue");
    let seen = decision_in_view(backend, &issued.token, email, "");
    assert_eq!(seen, ("consumed".to_owned(), "continue".to_owned()));
}

/// The status and the decision that the view session_switch has for a token.
fn decision_in_view(
    backend: &mut Client,
    token: &str,
    session_email: &str,
    prompt: &str,
) -> (String, String) {
    let mut transaction = backend.transaction().unwrap();
    transaction
        .query(
            "SELECT set_config('magic_link.session_email', $1, true), set_config('magic_link.prompt', $2, true)",
            &[&session_email, &prompt],
        )
        .unwrap();
    let row = transaction
        .query_one(
            "SELECT status, decision FROM magic_link.session_switch WHERE token_id = magic_link.one_time_token_id($1)",
            &[&token],
        )
        .unwrap();
    (row.get(0), row.get(1))
}

fn assert_issuing(db: &Database, backend: &mut Client) {
    // Twice for one address: the newer token is good, whatever a setting does to the older one.
    let email = "twice@example.com";
    backend.create(email, "{}").unwrap();
    let newer = backend.create_for(email, Some(60), None).unwrap();
    backend.redeem(&newer.token, email).unwrap();
    backend
        .create(email, r#"{"jitOrganizationIds": ["nowhere"]}"#)
        .expect_sqlstate("23503");
    backend
        .create(email, r#"{"jitOrganizationIds": "acme"}"#)
        .expect_sqlstate("22023");
    backend
        .create_for(email, Some(0), None)
        .expect_sqlstate("22023");
    let status = "SELECT status FROM magic_link.one_time_token_status WHERE id = $1";
    assert_eq!(db.value::<String>(status, &[&newer.id]), "consumed");
}

fn assert_pure_functions(backend: &mut Client) {
    let issued = backend.create("pure@example.com", "{}").unwrap();
    let row = backend
        .query_one(
            "SELECT magic_link.normalize_email(' Zoë@BÜCHER.example '), magic_link.one_time_token_id($1) = $2,
                    magic_link.compose_magic_link('https://example.com/?a=1#top', $1, 'a+b@example.com', '{\"c\": true}')",
            &[&issued.token, &issued.id],
        )
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "zoë@xn--bcher-kva.example");
    assert!(row.get::<_, bool>(1));
    let link = format!(
        "https://example.com/?a=1&c=true&token={}&email=a%2Bb%40example.com#top",
        issued.token
    );
    assert_eq!(row.get::<_, &str>(2), link);
}

/// What an update grants holds nobody who was granted something before: roles can be dropped as ever.
#[test]
fn a_role_that_was_granted_before_an_update_can_be_dropped_after_it() {
    let db = Database::bare(Cluster::shared(), "");
    db.sql("CREATE EXTENSION magic_link VERSION '0.3.0'");
    let role = db.role("some", "LOGIN");
    db.sql(&format!(
        "SELECT magic_link.grant_backend('{role}');
         GRANT EXECUTE ON FUNCTION magic_link.normalize_email(text) TO {role} WITH GRANT OPTION;
         ALTER EXTENSION magic_link UPDATE"
    ));
    db.sql(&format!("DROP OWNED BY {role}"));
    db.sql(&format!("DROP ROLE {role}"));
    let public = "SELECT count(*) FROM pg_proc AS p, aclexplode(p.proacl) AS a
                   WHERE p.oid = 'magic_link.normalize_email(text)'::regprocedure AND a.grantee = 0";
    assert_eq!(db.value::<i64>(public, &[]), 1);
}

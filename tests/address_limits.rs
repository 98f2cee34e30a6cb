//! The settings that limit the tokens of an address, `magic_link.revoke_previous` and `magic_link.max_active_tokens`: each alone,
//! both together, with concurrent connections, at every isolation level, and who may set them.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use magic_link_harness::postgres::{Client, Error, NoTls};
use magic_link_harness::{
    Calls, Cluster, Database, ExpectSqlState, Issued, concurrently, process_id, while_blocked,
};

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";
const SIGN_IN: &str = r#"{"interactionEvent": "SignIn"}"#;
const REGISTER: &str = r#"{"interactionEvent": "Register"}"#;

/// From REPEATABLE READ on, 40001 is an answer too: to be tried again.
const LEVELS: &[&str] = &["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

fn limited(limit: i32) -> Database<'static> {
    let db = Database::new();
    db.set("max_active_tokens", limit);
    db
}

fn replacing() -> Database<'static> {
    let db = Database::new();
    db.set("revoke_previous", "on");
    db
}

fn active(db: &Database) -> i64 {
    db.count("magic_link.one_time_token_status WHERE status = 'active'")
}

/// The seconds of `Try again in … seconds.`
#[track_caller]
fn try_again_in(answer: Result<Issued, Error>) -> i64 {
    let error = answer.expect_sqlstate("OT008");
    let hint = error.hint().unwrap();
    let seconds = hint
        .strip_prefix("Try again in ")
        .and_then(|hint| hint.strip_suffix(" seconds."));
    seconds.and_then(|number| number.parse().ok()).expect(hint)
}

#[test]
fn without_the_settings_nothing_is_limited() {
    let db = Database::new();
    let mut backend = db.backend();
    for _ in 0..20 {
        backend.create(ADA, "{}").unwrap();
    }
    assert_eq!(active(&db), 20);
    // Nor is the address held: a transaction that issues keeps nobody waiting.
    backend.batch_execute("BEGIN").unwrap();
    backend.create(ADA, "{}").unwrap();
    let mut another = db.backend();
    another.batch_execute("SET lock_timeout = '1ms'").unwrap();
    assert!(another.create(ADA, "{}").is_ok());
}

#[test]
fn a_new_token_revokes_the_previous_of_its_address_and_event_alone() {
    let contexts = ["{}", SIGN_IN, REGISTER];
    for (new, context) in contexts.iter().enumerate() {
        for many in [false, true] {
            let db = Database::new();
            let mut before = db.backend();
            let previous =
                contexts.map(|context| [(); 2].map(|()| before.create(ADA, context).unwrap()));
            let others = [EVE, "ada@mail.example.com", "ada+1@example.com"];
            let others = others.map(|email| before.create(email, context).unwrap());
            let consumed = before.create(ADA, context).unwrap();
            db.change(
                consumed.id,
                "consumed_at = clock_timestamp(), consumed_by = 'somebody'",
            );
            let expired = before.create(ADA, context).unwrap();
            db.change(
                expired.id,
                "created_at = created_at - interval '1 day', expires_at = expires_at - interval '1 day'",
            );
            db.set("revoke_previous", "on");

            let typed = " Ada@EXAMPLE.com";
            let issued = match many {
                true => db
                    .backend()
                    .create_all(&["bob@example.com", typed], context)
                    .unwrap()
                    .remove(1),
                false => db.backend().create(typed, context).unwrap(),
            };

            for (event, tokens) in previous.iter().enumerate() {
                for token in tokens {
                    let expected = ["active", "revoked"][usize::from(event == new)];
                    assert_eq!(db.status_of(token), expected, "{event} {context}");
                }
            }
            for other in others.iter().chain([&issued]) {
                assert_eq!(db.status_of(other), "active", "{context}");
            }
            assert_eq!(db.status_of(&consumed), "consumed");
            assert_eq!(db.status_of(&expired), "expired");
            let by: Vec<String> = db.value(
                "SELECT array_agg(DISTINCT revoked_by) FROM magic_link.one_time_tokens WHERE revoked_at IS NOT NULL",
                &[],
            );
            assert_eq!(by, ["magic_link.revoke_previous"]);
            let event = context.contains("SignIn").then_some("SignIn");
            let event = event.or(context.contains("Register").then_some("Register"));
            let old = &previous[new][0];
            db.backend()
                .redeem_in(event, &old.token, ADA)
                .expect_sqlstate("OT004");
        }
    }
}

/// A link that does not come to be must not take the one before it along.
#[test]
fn a_token_that_is_not_issued_revokes_nothing() {
    let db = replacing();
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap();
    let before = db.contents();
    backend
        .create_for(ADA, Some(0), None)
        .expect_sqlstate("22023");
    backend
        .create(ADA, r#"{"jitOrganizationIds": ["nowhere"]}"#)
        .expect_sqlstate("23503");
    backend
        .create_all(&[ADA, EVE, "x"], "{}")
        .expect_sqlstate("22023");
    let mut transaction = backend.transaction().unwrap();
    transaction.create(ADA, "{}").unwrap();
    transaction.rollback().unwrap();
    assert_eq!(db.contents(), before);
    assert!(backend.redeem(&token.token, ADA).is_ok());
}

#[test]
fn past_the_limit_creating_is_refused_and_nothing_changes() {
    for limit in [1, 3] {
        let db = limited(limit);
        let mut backend = db.backend();
        // Whatever their events: the limit is the address's.
        for context in ["{}", SIGN_IN, REGISTER].iter().take(limit as usize) {
            backend.create(ADA, context).unwrap();
        }
        let before = db.contents();
        for context in ["{}", SIGN_IN] {
            let error = backend
                .create(" ADA@example.com", context)
                .expect_sqlstate("OT008");
            assert_eq!(
                error.message(),
                "the address has too many active one-time tokens"
            );
            let detail = format!("magic_link.max_active_tokens allows {limit}.");
            assert_eq!(error.detail(), Some(detail.as_str()));
        }
        assert_eq!(db.contents(), before);
        backend.create(EVE, "{}").unwrap();
        backend.create("ada@mail.example.com", "{}").unwrap();
    }
}

/// A token that has ended, in whichever way, no longer counts.
#[test]
fn a_token_that_has_ended_does_not_count() {
    let db = limited(2);
    type End = fn(&Database, &Issued);
    let ends: [(&str, End); 6] = [
        ("redeemed", |db, token| {
            drop(db.backend().redeem(&token.token, ADA).unwrap())
        }),
        ("revoked", |db, token| {
            drop(db.admin().revoke(token.id).unwrap())
        }),
        ("revoked by address", |db, _| {
            assert_eq!(db.admin().revoke_all(ADA, None).unwrap(), 2)
        }),
        ("deleted", |db, token| {
            assert!(db.admin().delete(token.id).unwrap())
        }),
        ("expired", |db, token| db.wait_until_expired(token.id)),
        ("revoked for its failed attempts", |db, token| {
            for _ in 0..5 {
                db.backend().try_redeem_in(None, &token.token, EVE).unwrap();
            }
        }),
    ];
    for (how, end) in ends {
        db.sql("DELETE FROM magic_link.one_time_tokens");
        let mut backend = db.backend();
        let lifetime = (how == "expired").then_some(2);
        let token = backend.create_for(ADA, lifetime, None).unwrap();
        backend.create(ADA, "{}").unwrap();
        if lifetime.is_none() {
            backend.create(ADA, "{}").expect_sqlstate("OT008");
        }
        end(&db, &token);
        assert!(backend.create(ADA, "{}").is_ok(), "{how}");
    }
}

/// The hint is the moment from which one token fewer than the limit is active, to the second.
#[test]
fn the_hint_says_when_the_next_token_can_be_created() {
    let db = Database::new();
    let mut issuer = db.backend();
    let lifetimes = [300, 100, 500, 200, 400];
    let tokens = lifetimes.map(|seconds| issuer.create_for(ADA, Some(seconds), None).unwrap());
    // Others' tokens, and ended ones, are no part of it.
    issuer.create_for(EVE, Some(10), None).unwrap();
    let ended = issuer.create_for(ADA, Some(10), None).unwrap();
    db.admin().revoke(ended.id).unwrap();
    // With five active and a limit of n, 6 - n have to end first.
    for (limit, end) in [(5, 100), (4, 200), (3, 300), (2, 400), (1, 500)] {
        db.set("max_active_tokens", limit);
        let mut backend = db.backend();
        let now = || db.value::<SystemTime>("SELECT clock_timestamp()", &[]);
        let before = now();
        let seconds = try_again_in(backend.create(ADA, "{}"));
        let after = now();
        let place = lifetimes
            .iter()
            .position(|lifetime| *lifetime == end)
            .unwrap();
        let room_at = tokens[place].expires_at;
        let wait = Duration::from_secs(seconds as u64);
        assert!(after + wait >= room_at, "{limit}: too soon");
        assert!(
            before + wait < room_at + Duration::from_secs(1),
            "{limit}: too late"
        );
    }
    db.set("max_active_tokens", 6);
    assert!(db.backend().create(ADA, "{}").is_ok());
}

#[test]
fn revoking_the_previous_comes_before_counting() {
    let db = Database::new();
    db.set("max_active_tokens", 2);
    db.set("revoke_previous", "on");
    let mut backend = db.backend();
    // One of each of two events; each is replaced, however often.
    for _ in 0..5 {
        backend.create(ADA, SIGN_IN).unwrap();
        backend.create(ADA, REGISTER).unwrap();
    }
    assert_eq!(active(&db), 2);
    let before = db.contents();
    backend.create(ADA, "{}").expect_sqlstate("OT008");
    backend
        .create_all(&[EVE, ADA], "{}")
        .expect_sqlstate("OT008");
    assert_eq!(db.contents(), before);
    backend.create_all(&[EVE, ADA], SIGN_IN).unwrap();
    assert_eq!(active(&db), 3);
}

/// Runs `rounds` creations in a transaction each, at this level, tried again as long as they are told
/// to; the others' codes are what they end with.
fn create_in(backend: &mut Client, level: &str, rounds: usize) -> Vec<Result<Issued, Error>> {
    let create = |backend: &mut Client| loop {
        backend
            .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))
            .unwrap();
        let created = backend
            .query("SELECT 1", &[])
            .and_then(|_| backend.create(ADA, "{}"));
        let ended = backend.batch_execute(if created.is_ok() {
            "COMMIT"
        } else {
            "ROLLBACK"
        });
        let answer = created.and_then(|issued| ended.map(|()| issued));
        let again = |error: &Error| error.code().is_some_and(|code| code.code() == "40001");
        if !answer.as_ref().err().is_some_and(again) || level == "READ COMMITTED" {
            return answer;
        }
    };
    (0..rounds).map(|_| create(backend)).collect()
}

#[test]
fn concurrent_calls_never_exceed_the_limit() {
    for level in LEVELS {
        let db = limited(3);
        let backends: Vec<_> = (0..16).map(|_| db.backend()).collect();
        let answers = concurrently(backends, |mut backend| create_in(&mut backend, level, 3));
        let (issued, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().flatten().partition(Result::is_ok);
        assert_eq!((issued.len(), refused.len()), (3, 45), "{level}");
        for answer in refused {
            answer.expect_sqlstate("OT008");
        }
        assert_eq!(db.count("magic_link.one_time_tokens"), 3, "{level}");
    }
}

#[test]
fn concurrent_calls_leave_one_token_active() {
    for level in LEVELS {
        let db = replacing();
        let backends: Vec<_> = (0..16).map(|_| db.backend()).collect();
        let answers = concurrently(backends, |mut backend| create_in(&mut backend, level, 3));
        let issued: HashSet<_> = answers
            .into_iter()
            .flatten()
            .map(|answer| answer.unwrap().id)
            .collect();
        assert_eq!(issued.len(), 48, "{level}");
        assert_eq!(db.count("magic_link.one_time_tokens"), 48, "{level}");
        assert_eq!(active(&db), 1, "{level}");
    }
}

#[test]
fn one_and_many_at_once_keep_the_limit() {
    let db = limited(2);
    let backends: Vec<_> = (0..12).map(|n| (n, db.backend())).collect();
    let answers = concurrently(backends, |(n, mut backend)| match n % 2 {
        0 => backend.create(ADA, "{}").map(drop),
        _ => backend
            .create_all(&[&format!("person-{n}@example.com"), ADA], "{}")
            .map(drop),
    });
    let refused: Vec<_> = answers.into_iter().filter(Result::is_err).collect();
    assert_eq!(refused.len(), 10);
    for answer in refused {
        answer.expect_sqlstate("OT008");
    }
    let of_ada = format!("magic_link.one_time_tokens WHERE email = '{ADA}'");
    assert_eq!(db.count(&of_ada), 2);
}

/// Creates a token at this isolation level while another transaction that has created one for the same
/// address is open, and waits for its end.
fn create_behind(db: &Database, level: &str, end: &str) -> Result<Issued, Error> {
    let mut holding = db.backend();
    holding.batch_execute("BEGIN").unwrap();
    holding.create(ADA, "{}").unwrap();
    let mut waiting = db.backend();
    waiting
        .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1"))
        .unwrap();
    let create = |waiting: &mut Client| {
        let answer = waiting.create(ADA, "{}");
        waiting.batch_execute("COMMIT").map(|()| answer)
    };
    while_blocked(db, waiting, create, || holding.batch_execute(end).unwrap()).unwrap()
}

/// Whoever waits sees what the one before has done, or has not.
#[test]
fn whoever_waits_for_the_address_counts_what_was_committed() {
    let db = limited(1);
    for (end, code) in [("COMMIT", Some("OT008")), ("ROLLBACK", None)] {
        for level in LEVELS {
            db.sql("DELETE FROM magic_link.one_time_tokens");
            let answer = create_behind(&db, level, end);
            match code {
                Some(code) => drop(answer.expect_sqlstate(code)),
                None => drop(answer.expect(level)),
            }
            assert_eq!(active(&db), 1, "{level}");
        }
    }
}

/// All who wait for one address go on when it is let go, one after the other.
#[test]
fn a_rollback_frees_all_who_wait() {
    let db = limited(2);
    let mut holding = db.backend();
    holding.batch_execute("BEGIN").unwrap();
    holding.create(ADA, "{}").unwrap();
    holding.create(ADA, "{}").unwrap();
    let backends: Vec<_> = (0..4).map(|_| db.backend()).collect();
    let answers = std::thread::scope(|scope| {
        let waiting: Vec<_> = backends
            .into_iter()
            .map(|mut backend| {
                let waiter = process_id(&mut backend);
                let answer = scope.spawn(move || backend.create(ADA, "{}"));
                db.wait_until_blocked(waiter);
                answer
            })
            .collect();
        holding.batch_execute("ROLLBACK").unwrap();
        let answers = waiting.into_iter().map(|answer| answer.join().unwrap());
        answers.collect::<Vec<_>>()
    });
    let (issued, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((issued.len(), refused.len()), (2, 2));
    assert_eq!(active(&db), 2);
}

/// A snapshot that is older than another's commit does not hide its token: it is counted.
#[test]
fn an_older_snapshot_counts_the_newer_tokens() {
    for level in LEVELS {
        let db = limited(2);
        let mut older = db.backend();
        let begin = format!("BEGIN ISOLATION LEVEL {level}; SELECT FROM magic_link.session_switch");
        older.batch_execute(&begin).unwrap();
        db.backend().create(ADA, "{}").unwrap();
        older.create(ADA, "{}").unwrap();
        older.create(ADA, "{}").expect_sqlstate("OT008");
        older.batch_execute("ROLLBACK").unwrap();

        older.batch_execute(&begin).unwrap();
        db.backend().create(ADA, "{}").unwrap();
        older.create(ADA, "{}").expect_sqlstate("OT008");
        older.batch_execute("ROLLBACK").unwrap();
        assert_eq!(active(&db), 2, "{level}");
    }
}

/// To revoke a token that the transaction should not see is 40001, and never an active one too many;
/// whether or not there is also one that it may see, and that has changed since.
#[test]
fn an_older_snapshot_does_not_leave_a_newer_token_active() {
    for level in LEVELS {
        for with_an_older_token in [false, true] {
            let db = replacing();
            if with_an_older_token {
                db.backend().create(ADA, "{}").unwrap();
            }
            let mut older = db.backend();
            older
                .batch_execute(&format!(
                    "BEGIN ISOLATION LEVEL {level}; SELECT FROM magic_link.session_switch"
                ))
                .unwrap();
            let newer = db.backend().create(ADA, "{}").unwrap();
            let answer = older.create(ADA, "{}");
            if *level == "READ COMMITTED" {
                answer.unwrap();
                older.batch_execute("COMMIT").unwrap();
                assert_eq!(db.status_of(&newer), "revoked", "{level}");
            } else {
                answer.expect_sqlstate("40001");
                older.batch_execute("ROLLBACK").unwrap();
                assert_eq!(db.status_of(&newer), "active", "{level}");
            }
            assert_eq!(active(&db), 1, "{level}");
        }
    }
}

/// Whoever waits for the address takes the place of the token that was committed meanwhile, or is to
/// try again where its snapshot does not have it.
#[test]
fn whoever_waits_for_the_address_leaves_one_token_active() {
    for level in LEVELS {
        for end in ["COMMIT", "ROLLBACK"] {
            let db = replacing();
            let answer = create_behind(&db, level, end);
            if end == "COMMIT" && *level != "READ COMMITTED" {
                answer.expect_sqlstate("40001");
            } else {
                answer.expect(level);
            }
            assert_eq!(active(&db), 1, "{level} {end}");
        }
    }
}

/// A redemption that is under way is waited for, and its token is not revoked but consumed.
#[test]
fn a_new_token_waits_for_the_redemption_of_the_previous() {
    let db = replacing();
    let token = db.backend().create(ADA, "{}").unwrap();
    let mut redeeming = db.backend();
    redeeming.batch_execute("BEGIN").unwrap();
    redeeming.redeem(&token.token, ADA).unwrap();
    let create = |backend: &mut Client| backend.create(ADA, "{}");
    let issued = while_blocked(&db, db.backend(), create, || {
        redeeming.batch_execute("COMMIT").unwrap();
    });
    assert_eq!(db.status_of(&token), "consumed");
    assert_eq!(db.status_of(&issued.unwrap()), "active");
}

/// A DBA who revokes by address counts no less than a backend: neither misses the other's tokens.
#[test]
fn a_revocation_by_address_waits_for_who_issues() {
    let db = replacing();
    let mut issuing = db.backend();
    issuing.batch_execute("BEGIN").unwrap();
    issuing.create(ADA, "{}").unwrap();
    let revoke = |admin: &mut Client| admin.revoke_all(ADA, None);
    let revoked = while_blocked(&db, db.admin(), revoke, || {
        issuing.batch_execute("COMMIT").unwrap();
    });
    assert_eq!(revoked.unwrap(), 1);
    assert_eq!(active(&db), 0);
}

/// Each setting, a value of a superuser's, and one that a backend would like better.
const SETTINGS: &[(&str, &str, &str)] = &[
    ("max_active_tokens", "1", "0"),
    ("revoke_previous", "on", "off"),
    ("max_failed_attempts", "1", "0"),
    ("replay_window", "0", "600"),
];

/// Whether the setting stands as the superuser wanted it, seen by what the functions do.
fn stands(db: &Database, backend: &mut Client, setting: &str) -> bool {
    db.sql("DELETE FROM magic_link.one_time_tokens");
    let Ok(token) = backend.create(ADA, "{}") else {
        panic!("{setting}: the first token is always issued");
    };
    match setting {
        "max_active_tokens" => backend.create(ADA, "{}").is_err(),
        "revoke_previous" => {
            backend.create(ADA, "{}").unwrap();
            db.status_of(&token) == "revoked"
        }
        "max_failed_attempts" => {
            backend.try_redeem_in(None, &token.token, EVE).unwrap();
            db.status_of(&token) == "revoked"
        }
        _ => {
            backend.redeem(&token.token, ADA).unwrap();
            backend.redeem(&token.token, ADA).is_err()
        }
    }
}

/// In sessions that have not loaded the library before, as those of a pool are at first.
#[test]
fn a_superuser_sets_them_for_a_role_a_database_or_both() {
    for (setting, value, opposite) in SETTINGS {
        let db = Database::new();
        let (role, name) = (db.backend_role(), db.name());
        let set = |whom: &str, value: &str| {
            db.sql(&format!(
                "ALTER {whom} SET magic_link.{setting} = '{value}'"
            ));
        };
        let database = format!("DATABASE {name}");
        let role_there = format!("ROLE {role} IN DATABASE {name}");
        let everywhere = format!("ROLE {role}");
        for (whom, value, expected) in [
            (&database, value, true),
            (&everywhere, opposite, false),
            (&role_there, value, true),
            (&everywhere, value, true),
            (&role_there, opposite, false),
        ] {
            set(whom, value);
            assert_eq!(
                stands(&db, &mut db.backend(), setting),
                expected,
                "{setting} {whom}"
            );
        }
    }
}

#[test]
fn a_superuser_sets_them_for_a_session() {
    for (setting, value, opposite) in SETTINGS {
        let db = Database::new();
        db.set(setting, opposite);
        let mut superuser = db.superuser();
        assert!(!stands(&db, &mut superuser, setting), "{setting}");
        superuser
            .batch_execute(&format!("SET magic_link.{setting} = '{value}'"))
            .unwrap();
        assert!(stands(&db, &mut superuser, setting), "{setting}");
        superuser.batch_execute("RESET ALL").unwrap();
        assert!(!stands(&db, &mut superuser, setting), "{setting}");
    }
}

#[test]
fn set_local_ends_with_its_transaction() {
    let db = Database::new();
    let mut superuser = db.superuser();
    superuser
        .batch_execute("BEGIN; SET LOCAL magic_link.max_active_tokens = 1")
        .unwrap();
    superuser.create(ADA, "{}").unwrap();
    superuser.batch_execute("SAVEPOINT s").unwrap();
    superuser.create(ADA, "{}").expect_sqlstate("OT008");
    superuser.batch_execute("ROLLBACK TO s; COMMIT").unwrap();
    assert!(superuser.create(ADA, "{}").is_ok());
}

#[test]
fn a_backend_cannot_set_them_whenever_the_library_is_loaded() {
    for (setting, value, opposite) in SETTINGS {
        let db = Database::new();
        db.set(setting, value);
        let role = db.backend_role();
        let set = format!("SET magic_link.{setting} = '{opposite}'");
        let set_local = format!("SET LOCAL magic_link.{setting} = '{opposite}'");
        let set_config = format!("SELECT set_config('magic_link.{setting}', '{opposite}', false)");

        let mut backend = db.backend();
        assert!(stands(&db, &mut backend, setting), "{setting}");
        for statement in [&set, &set_local, &set_config] {
            backend.batch_execute(statement).expect_sqlstate("42501");
        }
        assert!(stands(&db, &mut backend, setting), "{setting}");

        // Before the library is loaded PostgreSQL knows nothing of the setting: whether or not it
        // lets it be set, no call runs with it.
        for statement in [&set, &set_config] {
            let mut backend = db.backend();
            let _ = backend.batch_execute(statement);
            assert!(stands(&db, &mut backend, setting), "{statement}");
        }
        let mut backend = db.backend();
        let _ = backend.batch_execute("BEGIN");
        let _ = backend.batch_execute(&set_local);
        let token = backend.create("first@example.com", "{}");
        assert!(token.is_ok(), "{set_local}: {token:?}");
        backend.batch_execute("COMMIT").unwrap();
        assert!(stands(&db, &mut backend, setting), "{set_local}");
        for whom in [role.clone(), format!("{role} IN DATABASE {}", db.name())] {
            let alter = format!("ALTER ROLE {whom} SET magic_link.{setting} = '{opposite}'");
            db.backend().batch_execute(&alter).expect_sqlstate("42501");
        }
        let alter = format!(
            "ALTER DATABASE {} SET magic_link.{setting} = '{opposite}'",
            db.name()
        );
        db.backend().batch_execute(&alter).expect_sqlstate("42501");
        assert!(stands(&db, &mut db.backend(), setting), "{setting}");
        // An admin is no superuser either.
        db.admin()
            .batch_execute(&format!("LOAD 'magic_link'; {set}"))
            .unwrap_err();
    }
}

#[test]
fn a_role_that_was_granted_a_setting_can_change_it() {
    for (setting, value, opposite) in SETTINGS {
        let db = Database::new();
        db.set(setting, value);
        let role = db.backend_role();
        db.sql(&format!(
            "LOAD 'magic_link'; GRANT SET ON PARAMETER magic_link.{setting} TO {role}"
        ));
        let mut backend = db.backend();
        assert!(stands(&db, &mut backend, setting), "{setting}");
        backend
            .batch_execute(&format!("SET magic_link.{setting} = '{opposite}'"))
            .unwrap();
        assert!(!stands(&db, &mut backend, setting), "{setting}");
        let _ = backend.batch_execute("RESET ALL");
        assert!(stands(&db, &mut backend, setting), "{setting}");
        // The one that was granted, and no other.
        for (other, _, value) in SETTINGS.iter().filter(|(other, ..)| other != setting) {
            let set = format!("SET magic_link.{other} = '{value}'");
            backend.batch_execute(&set).expect_sqlstate("42501");
        }
        // What is no value of it is refused whoever sets it.
        let nonsense = format!("SET magic_link.{setting} = '-1'");
        backend.batch_execute(&nonsense).expect_sqlstate("22023");
        db.sql(&format!(
            "LOAD 'magic_link'; REVOKE SET ON PARAMETER magic_link.{setting} FROM {role}"
        ));
    }
}

/// What a client asks for as it connects comes before what others have set, also while the library is
/// not loaded and nobody can say whether it may. It is not given it, and it cannot work without either.
#[test]
fn a_backend_cannot_undo_them_as_it_connects() {
    for (setting, value, opposite) in SETTINGS {
        let db = Database::new();
        db.set(setting, value);
        connect_with(&db, &setting.to_uppercase(), opposite)
            .create(ADA, "{}")
            .expect_sqlstate("42501");
        let mut backend = connect_with(&db, setting, opposite);
        for _ in 0..2 {
            let error = backend.create(ADA, "{}").expect_sqlstate("42501");
            assert!(error.message().contains(setting), "{error:?}");
            backend.batch_execute("DISCARD ALL").unwrap();
        }
        // What constraints call serves whoever writes.
        backend
            .query_one("SELECT magic_link.normalize_email($1)", &[&ADA])
            .unwrap();
        // Nor by undoing the transaction in which the library was loaded.
        let mut backend = connect_with(&db, setting, opposite);
        backend.batch_execute("BEGIN").unwrap();
        backend.check_in(None, "0", ADA).expect_sqlstate("42501");
        backend.batch_execute("ROLLBACK").unwrap();
        backend.create(ADA, "{}").expect_sqlstate("42501");
        // The others go on, and so does who only tries to change them later, in vain.
        let mut backend = db.backend();
        let _ = backend.batch_execute(&format!("SET magic_link.{setting} = '{opposite}'"));
        assert!(stands(&db, &mut backend, setting), "{setting}");
    }
}

/// Also where the library is preloaded for each session: that is after what the client asked for was taken.
#[test]
fn a_backend_cannot_undo_them_where_the_library_is_preloaded() {
    let (setting, value, opposite) = SETTINGS[0];
    let cluster = Cluster::start(&[("session_preload_libraries", "magic_link")]);
    let db = Database::of(&cluster);
    db.set(setting, value);
    assert!(stands(&db, &mut db.backend(), setting));
    connect_with(&db, setting, opposite)
        .create(ADA, "{}")
        .expect_sqlstate("42501");
}

/// Who may set them may do so as it connects.
#[test]
fn a_role_that_was_granted_a_setting_can_ask_for_it_as_it_connects() {
    let db = Database::new();
    let (setting, value, opposite) = SETTINGS[0];
    db.set(setting, value);
    let grant = format!("SET ON PARAMETER magic_link.{setting}");
    let role = db.backend_role();
    db.sql(&format!("LOAD 'magic_link'; GRANT {grant} TO {role}"));
    assert!(!stands(
        &db,
        &mut connect_with(&db, setting, opposite),
        setting
    ));
    db.sql(&format!("LOAD 'magic_link'; REVOKE {grant} FROM {role}"));
}

/// A backend that asks for a value of its own as it connects.
fn connect_with(db: &Database, setting: &str, value: &str) -> Client {
    let mut config = db.cluster().config(db.name(), &db.backend_role());
    let config = config.options(&format!("-c magic_link.{setting}={value}"));
    config.connect(NoTls).unwrap()
}

/// A DBA may set expires_at to infinity. The limit holds, and the HINT names no time.
#[test]
fn a_token_that_never_expires_counts() {
    let db = limited(1);
    let mut backend = db.backend();
    let issued = backend.create(ADA, "{}").unwrap();
    db.change(issued.id, "expires_at = 'infinity'");
    let error = backend.create(ADA, "{}").expect_sqlstate("OT008");
    assert_eq!(error.hint(), Some("They never expire: revoke them."));
    assert_eq!(backend.check_in(None, &issued.token, ADA).unwrap(), "ok");
    backend.redeem(&issued.token, ADA).unwrap();
    backend.create(ADA, "{}").unwrap();
}

/// Whatever counts or ends an address's tokens waits for who has its lock, and nobody else's address is held up.
#[test]
fn whoever_counts_or_ends_tokens_waits_for_the_address() {
    type Call = fn(&mut Client, &Issued);
    let backends: [Call; 2] = [
        |backend, token| drop(backend.redeem(&token.token, ADA).unwrap()),
        |backend, token| drop(backend.try_redeem_in(None, &token.token, EVE).unwrap()),
    ];
    let admins: [Call; 3] = [
        |admin, token| drop(admin.revoke(token.id).unwrap()),
        |admin, token| assert!(admin.delete(token.id).unwrap()),
        |admin, _| assert_eq!(admin.revoke_all(ADA, None).unwrap(), 2),
    ];
    let calls = backends.map(|call| ("backend", call)).into_iter();
    for (role, call) in calls.chain(admins.map(|call| ("admin", call))) {
        let db = limited(5);
        let token = db.backend().create(ADA, "{}").unwrap();
        let of_eve = db.backend().create(EVE, "{}").unwrap();
        let mut holding = db.backend();
        holding.batch_execute("BEGIN").unwrap();
        holding.create(ADA, "{}").unwrap();
        db.backend().redeem(&of_eve.token, EVE).unwrap();
        let waiting = match role {
            "backend" => db.backend(),
            _ => db.admin(),
        };
        while_blocked(
            &db,
            waiting,
            |client| call(client, &token),
            || {
                holding.batch_execute("COMMIT").unwrap();
            },
        );
    }
}

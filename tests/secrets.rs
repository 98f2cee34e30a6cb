//! What no error and no log line shows, whatever is sent: a token, its hash, a backtrace, or an internal error.

use std::sync::OnceLock;
use std::thread;

use magic_link_harness::postgres::{Client, Error};
use magic_link_harness::{Calls, Cluster, Database, Issued, wait_until, while_blocked};
use sha2::{Digest, Sha256};

const ADA: &str = "ada@example.com";

/// A cluster whose log tells as much as an operator may ask for, parameters of failed statements
/// included, short of logging every statement.
fn verbose_cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::start(&[
            ("log_error_verbosity", "verbose"),
            ("log_min_error_statement", "error"),
            ("log_parameter_max_length_on_error", "-1"),
            ("log_lock_waits", "on"),
            ("deadlock_timeout", "10ms"),
        ])
        .until_exit()
    })
}

/// The ways in which a token, or what leads back to it, could be written.
fn spellings(token: &str) -> Vec<(&'static str, String)> {
    let mut spellings = spellings_but_base64(token);
    spellings.push(("the hash in base64", base64(&Sha256::digest(token))));
    spellings
}

/// Those that need no server to spell them.
fn spellings_but_base64(token: &str) -> Vec<(&'static str, String)> {
    let hash = Sha256::digest(token);
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    vec![
        ("the token", token.to_owned()),
        ("the token in hexadecimal", hex(token.as_bytes())),
        ("the random part of the token", token[8..].to_owned()),
        // PostgreSQL cuts long values off where it shows a row.
        ("the hash in hexadecimal", hex(&hash[..16])),
    ]
}

/// By PostgreSQL itself, so that the test brings no codec of its own.
fn base64(bytes: &[u8]) -> String {
    let mut client = verbose_cluster().connect("postgres", "postgres");
    client
        .query_one("SELECT encode($1, 'base64')", &[&bytes])
        .unwrap()
        .get(0)
}

#[track_caller]
fn assert_keeps(secrets: &[(&str, String)], what: &str, text: &str) {
    let lower_case = text.to_lowercase();
    for (name, secret) in secrets {
        let found = text.contains(secret) || lower_case.contains(&secret.to_lowercase());
        assert!(!found, "{what} holds {name}: {text}");
    }
}

/// The words of an error, without the CONTEXT, in which PostgreSQL may repeat what was sent.
fn words(error: &Error) -> String {
    let error = error.as_db_error().expect("the connection failed");
    [Some(error.message()), error.detail(), error.hint()]
        .map(Option::unwrap_or_default)
        .concat()
}

/// Everything that an error carries to the client.
fn told(error: &Error) -> String {
    let error = error.as_db_error().expect("the connection failed");
    assert_ne!(error.code().code(), "XX000", "{error:?}");
    format!("{error:?}")
}

/// A token in every state, for misuse.
fn tokens(db: &Database) -> Vec<Issued> {
    let mut backend = db.backend();
    let mut create = |context: &str| backend.create(ADA, context).unwrap();
    let tokens = vec![
        create("{}"),
        create("{}"),
        create("{}"),
        create("{}"),
        create(r#"{"interactionEvent": "Register"}"#),
    ];
    backend.redeem(&tokens[1].token, ADA).unwrap();
    let update = "UPDATE magic_link.one_time_tokens SET";
    db.sql(&format!(
        "{update} revoked_at = clock_timestamp() WHERE id = '{}';
         {update} created_at = created_at - interval '1 day', expires_at = created_at WHERE id = '{}'",
        tokens[2].id, tokens[3].id
    ));
    tokens
}

/// Calls that fail in every way that a caller can bring about; `$` stands for the token.
const MISUSE: &[&str] = &[
    "magic_link.redeem_one_time_token('$', 'eve@example.com')",
    "magic_link.redeem_one_time_token('$', 'ada@example.com', 'SignIn2')",
    "magic_link.redeem_one_time_token('$', 'nobody@example.com', 'SignIn')",
    "magic_link.redeem_one_time_token('$', NULL)",
    "magic_link.redeem_one_time_token('$', 'not an address')",
    "magic_link.redeem_one_time_token('$', '$')",
    "magic_link.redeem_one_time_token('$', 'ada@example.com', '$$$')",
    "magic_link.redeem_one_time_token('$', 'ada@example.com', 'not an event $')",
    "magic_link.redeem_one_time_token('$x', 'ada@example.com')",
    "magic_link.redeem_one_time_token(' $ ', 'ada@example.com')",
    "magic_link.redeem_one_time_token(lower('$'), 'ada@example.com')",
    "magic_link.try_redeem_one_time_token('$', NULL)",
    "magic_link.try_redeem_one_time_token('$', 'not an address $')",
    "magic_link.check_one_time_token('$', NULL)",
    "magic_link.check_one_time_token('$', 'not an address $')",
    "magic_link.session_switch_decision('$', NULL)",
    "magic_link.session_switch_decision('$', 'ada@example.com', 'not an address $')",
    "magic_link.compose_magic_link('not a url $', '$', 'ada@example.com')",
    "magic_link.compose_magic_link('https://example.com?token=$', '$', 'ada@example.com')",
    "magic_link.compose_magic_link('https://example.com', '$$', 'ada@example.com')",
    "magic_link.compose_magic_link('https://example.com', '$', 'not an address')",
    "magic_link.compose_magic_link('https://example.com', '$', 'ada@example.com', '{\"token\": \"$\"}')",
    "magic_link.compose_magic_link('https://example.com', '$', 'ada@example.com', '{\"a\": [\"$\"]}')",
    "magic_link.compose_magic_link('https://example.com', '$', 'ada@example.com', '{}', '$', '$')",
    "magic_link.one_time_token_id('$$')",
    "magic_link.normalize_email('$')",
    "magic_link.create_one_time_token('$')",
    "magic_link.create_one_time_token('ada@example.com', 0, '{\"a\": \"$\"}')",
    "magic_link.create_one_time_token('ada@example.com', 600, '[\"$\"]')",
    "magic_link.create_one_time_token('ada@example.com', 600, '{\"interactionEvent\": \"$ $\"}')",
    "magic_link.create_one_time_tokens(NULL)",
    "magic_link.create_one_time_tokens('{$}')",
    "magic_link.create_one_time_tokens('{ada@example.com, \"not an address $\"}')",
    "magic_link.create_one_time_tokens('{ada@example.com, ADA@example.com}', 600, '{\"a\": \"$\"}')",
    "magic_link.create_one_time_tokens('{ada@example.com}', 600, '[\"$\"]')",
    "magic_link.create_one_time_tokens('{ada@example.com}', 0, '{\"a\": \"$\"}')",
];

/// The lines of the log that are of a test's own database, and those that continue them.
fn own_log(db: &Database) -> String {
    let mut mine = false;
    let of_mine = format!(" {} ", db.name());
    let log = db.cluster().log();
    let own = log.lines().filter(|line| {
        let begins = line.as_bytes().get(5) == Some(&b' ');
        if begins {
            mine = line[5..].starts_with(&of_mine);
        }
        mine
    });
    let own: Vec<_> = own.collect();
    assert!(!own.is_empty(), "a log that tells nothing proves nothing");
    own.join("\n")
}

/// Each call as a literal, from within PL/pgSQL, in a read-only transaction, and with parameters bound.
fn misuse(client: &mut Client, token: &str) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut run = |statement: &str| errors.extend(client.batch_execute(statement).err());
    for call in MISUSE {
        let call = call.replace('$', token);
        run(&format!("SELECT * FROM {call}"));
        run(&format!("DO $do$ BEGIN PERFORM * FROM {call}; END $do$"));
        run(&format!(
            "DO $do$ DECLARE r record; BEGIN r := {call}; END $do$"
        ));
        run(&format!(
            "DO $do$ BEGIN EXECUTE $q$ SELECT * FROM {call} $q$; END $do$"
        ));
        run(&format!("BEGIN READ ONLY; SELECT * FROM {call}"));
        run("ROLLBACK");
        run(&format!("PREPARE p AS SELECT * FROM {call}; EXECUTE p"));
        run("DEALLOCATE ALL");
    }
    let bound = [
        client.redeem(token, "eve@example.com").err(),
        client.redeem(token, "not an address").err(),
        client.redeem(&format!("{token}0"), ADA).err(),
        client
            .decide(token, ADA, Some("not an address"), None)
            .err(),
        client.create(token, "{}").err(),
    ];
    errors.extend(bound.into_iter().flatten());
    assert!(
        errors.len() > MISUSE.len() * 4,
        "most of it should have failed"
    );
    errors
}

/// Errors that PostgreSQL, or an application, raises while it works for us.
fn errors_of_others(db: &Database, token: &str) -> Vec<Error> {
    let literal = format!("SELECT * FROM magic_link.redeem_one_time_token('{token}', '{ADA}')");
    let nested = format!("DO $$ BEGIN PERFORM FROM ({literal}) AS r; END $$");
    let fail = |sqlstate: &str| {
        let mut backend = db.backend();
        let errors = [
            backend.batch_execute(&literal).unwrap_err(),
            backend.batch_execute(&nested).unwrap_err(),
            backend.redeem(token, ADA).unwrap_err(),
        ];
        for error in &errors {
            assert_eq!(
                error.code().map(|code| code.code()),
                Some(sqlstate),
                "{error:?}"
            );
        }
        errors
    };
    let mut errors = Vec::new();

    db.sql(
        "DELETE FROM magic_link.users;
         CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'AB001', MESSAGE = 'no: ' || NEW; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON magic_link.users
             FOR EACH ROW EXECUTE FUNCTION public.refuse()",
    );
    errors.extend(fail("AB001"));
    db.sql("DROP TRIGGER refuse ON magic_link.users");

    db.sql(
        "ALTER TABLE magic_link.one_time_tokens ADD CONSTRAINT never CHECK (consumed_at IS NULL) NOT VALID",
    );
    errors.extend(fail("23514"));
    db.sql("ALTER TABLE magic_link.one_time_tokens DROP CONSTRAINT never");

    db.sql(&format!(
        "ALTER ROLE {} SET lock_timeout = '1ms'",
        db.backend_role()
    ));
    let mut superuser = db.superuser();
    let mut holding = superuser.transaction().unwrap();
    holding
        .execute("SELECT FROM magic_link.one_time_tokens FOR UPDATE", &[])
        .unwrap();
    errors.extend(fail("55P03"));
    errors
}

#[test]
fn misuse_shows_no_token_in_an_error_or_the_log() {
    let db = Database::of(verbose_cluster());
    let issued = tokens(&db);
    let secrets: Vec<_> = issued
        .iter()
        .flat_map(|issued| spellings(&issued.token))
        .collect();
    let mut backend = db.backend();
    for issued in &issued {
        for error in misuse(&mut backend, &issued.token) {
            assert_keeps(&secrets, "an error", &words(&error));
        }
    }
    assert_keeps(&secrets, "the log", &own_log(&db));
}

#[test]
fn errors_of_others_show_no_token_nor_does_the_log() {
    let db = Database::of(verbose_cluster());
    let issued = db.backend().create(ADA, "{}").unwrap();
    let secrets = spellings(&issued.token);
    for error in errors_of_others(&db, &issued.token) {
        assert_keeps(&secrets, "an error", &words(&error));
    }
    assert_keeps(&secrets, "the log", &own_log(&db));
}

/// PostgreSQL tells the log what each party to a deadlock was running.
#[test]
fn a_deadlock_shows_no_token() {
    let db = Database::of(verbose_cluster());
    let [first, second] = [(); 2].map(|()| db.backend().create(ADA, "{}").unwrap().token);
    let redeem = |client: &mut Client, token: &str| {
        client.batch_execute(&format!(
            "SELECT magic_link.redeem_one_time_token('{token}', '{ADA}')"
        ))
    };
    db.sql(&format!(
        "INSERT INTO magic_link.users (email) VALUES ('{ADA}')"
    ));
    let [mut one, mut other] = [(); 2].map(|()| db.backend());
    for (client, token) in [(&mut one, &first), (&mut other, &second)] {
        client.batch_execute("BEGIN").unwrap();
        redeem(client, token).unwrap();
    }
    // Whoever is chosen to end gives the other one way.
    let answers = thread::scope(|scope| {
        let crossing = scope.spawn(|| redeem(&mut one, &second));
        let answer = redeem(&mut other, &first);
        [crossing.join().unwrap(), answer]
    });
    let victims = answers.iter().filter_map(|answer| answer.as_ref().err());
    let victims: Vec<_> = victims.collect();
    assert_eq!(victims.len(), 1);
    let secrets = [spellings(&first), spellings(&second)].concat();
    assert_eq!(victims[0].code().unwrap().code(), "40P01");
    assert_keeps(&secrets, "an error", &words(victims[0]));
    assert_keeps(&secrets, "the log", &own_log(&db));
}

/// A server that says that a call waits, or ends it, says so itself and not through an error of ours.
#[test]
fn neither_waiting_nor_being_ended_shows_a_token() {
    let db = Database::of(verbose_cluster());
    let token = db.backend().create(ADA, "{}").unwrap().token;
    let mut superuser = db.superuser();
    let mut holding = superuser.transaction().unwrap();
    holding
        .execute("SELECT FROM magic_link.one_time_tokens FOR UPDATE", &[])
        .unwrap();
    let mut backend = db.backend();
    let redeem = format!("SELECT magic_link.redeem_one_time_token('{token}', '{ADA}')");
    thread::scope(|scope| {
        let waiting = scope.spawn(move || backend.batch_execute(&redeem));
        wait_until("the log says that it waits", || {
            let waits = format!(" {} LOG:  00000: process", db.name());
            db.cluster().log().contains(&waits)
        });
        let ended: bool = db.value(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND usename = $1",
            &[&db.backend_role()],
        );
        assert!(ended);
        waiting.join().unwrap().unwrap_err();
    });
    let log = own_log(&db);
    assert!(
        log.contains("FATAL:  57P01: terminating connection"),
        "{log}"
    );
    assert_keeps(&spellings(&token), "the log", &own_log(&db));
}

/// An error that quoted a row of one_time_tokens would show its hash. None of these errors does.
#[test]
fn an_error_of_a_row_that_is_written_or_deleted_shows_no_hash() {
    let db = Database::of(verbose_cluster());
    let token = db.backend().create(ADA, "{}").unwrap();
    db.sql(
        "ALTER TABLE magic_link.one_time_tokens
             ADD CONSTRAINT never_revoked CHECK (revoked_at IS NULL) NOT VALID,
             ADD CONSTRAINT never_tried CHECK (failed_attempts = 0) NOT VALID,
             ADD CONSTRAINT never_eve CHECK (email <> 'eve@example.com') NOT VALID;
         CREATE TABLE public.mails (token_id uuid REFERENCES magic_link.one_time_tokens);
         INSERT INTO public.mails SELECT id FROM magic_link.one_time_tokens",
    );
    let before = db.contents();
    let (mut admin, mut backend) = (db.admin(), db.backend());
    let errors = [
        ("23514", admin.revoke(token.id).unwrap_err()),
        ("23514", admin.revoke_all(ADA, None).unwrap_err()),
        ("23503", admin.delete(token.id).unwrap_err()),
        (
            "23514",
            backend.create("eve@example.com", "{}").unwrap_err(),
        ),
        (
            "23514",
            backend
                .create_all(&["bob@example.com", "eve@example.com"], "{}")
                .unwrap_err(),
        ),
        (
            "23514",
            backend
                .try_redeem_in(None, &token.token, "eve@example.com")
                .unwrap_err(),
        ),
    ];
    let hashes = format!("{before}{}", db.contents());
    assert_eq!(db.contents(), before);
    let secrets = spellings(&token.token);
    for (sqlstate, error) in &errors {
        assert_eq!(error.code().unwrap().code(), *sqlstate, "{error:?}");
        assert_keeps(&secrets, "an error", &words(error));
        // The tokens that were not issued nobody knows: a hash of theirs would be a bytea.
        assert!(!words(error).contains("\\x"), "{error:?}");
    }
    let log = own_log(&db);
    assert_keeps(&secrets, "the log", &log);
    assert!(
        hashes.contains("\\x"),
        "the tables show what a hash looks like"
    );
    assert!(!log.contains("\\x"), "{log}");
}

/// Tokens that were issued are in the answer alone, whatever happens to the transaction.
#[test]
fn issuing_many_tokens_shows_none_in_the_log() {
    let db = Database::of(verbose_cluster());
    db.set("max_active_tokens", 2);
    db.set("revoke_previous", "on");
    let mut backend = db.backend();
    let emails: Vec<_> = (0..50).map(|n| format!("person-{n}@example.com")).collect();
    let emails: Vec<_> = emails.iter().map(String::as_str).collect();
    let mut issued = backend.create_all(&emails, "{}").unwrap();
    let mut transaction = backend.transaction().unwrap();
    issued.extend(transaction.create_all(&emails, "{}").unwrap());
    transaction.batch_execute("SELECT 1 / 0").unwrap_err();
    transaction.rollback().unwrap();
    // Waiting for an address, which the log is told.
    let mut holding = db.backend();
    holding.batch_execute("BEGIN").unwrap();
    issued.extend(holding.create_all(&emails, "{}").unwrap());
    let create = |backend: &mut Client| backend.create_all(&emails, "{}");
    let answer = while_blocked(&db, db.backend(), create, || {
        wait_until("the log says that it waits", || {
            let waits = format!(" {} LOG:  00000: process", db.name());
            db.cluster().log().contains(&waits)
        });
        holding.batch_execute("COMMIT").unwrap();
    });
    issued.extend(answer.unwrap());
    assert_eq!(issued.len(), 200);
    let log = own_log(&db);
    for issued in &issued {
        let all = spellings_but_base64(&issued.token);
        assert_keeps(&all, "the log", &log);
    }
}

/// PL/pgSQL quotes its statement in the CONTEXT of an error, and a portal its parameters.
#[test]
fn the_context_of_an_error_shows_no_token() {
    let db = Database::of(verbose_cluster());
    let mut backend = db.backend();
    let [first, second] = [(); 2].map(|()| backend.create(ADA, "{}").unwrap().token);
    let mut errors = misuse(&mut backend, &first);
    errors.extend(errors_of_others(&db, &second));
    for error in errors {
        let context = error.as_db_error().unwrap().where_().unwrap_or_default();
        for token in [&first, &second] {
            assert_keeps(&spellings(token), "the context of an error", context);
        }
    }
}

/// The hash is in its own column, and nothing else of a token is anywhere.
#[test]
fn no_table_holds_a_token() {
    let db = Database::of(verbose_cluster());
    db.organization("acme", &["member"]);
    let mut backend = db.backend();
    let issued: Vec<_> = (0..3)
        .map(|_| {
            backend
                .create(ADA, r#"{"jitOrganizationIds": ["acme"]}"#)
                .unwrap()
        })
        .collect();
    backend.redeem(&issued[0].token, ADA).unwrap();
    backend
        .try_redeem_in(None, &issued[1].token, "eve@example.com")
        .unwrap();
    backend
        .decide(&issued[2].token, ADA, Some(ADA), None)
        .unwrap();
    let mut contents = db.contents();
    for issued in &issued {
        let hash: Vec<u8> = db.value(
            "SELECT token_hash FROM magic_link.one_time_tokens WHERE id = $1",
            &[&issued.id],
        );
        assert_eq!(hash, Sha256::digest(&issued.token).as_slice());
        let in_its_column: String = db.value("SELECT $1::bytea::text", &[&hash]);
        assert_eq!(
            contents
                .matches(in_its_column.trim_start_matches('\\'))
                .count(),
            1
        );
        contents = contents.replacen(in_its_column.trim_start_matches('\\'), "", 1);
    }
    for issued in &issued {
        assert_keeps(&spellings(&issued.token), "a table", &contents);
    }
}

/// Strings that break what was not made for them.
fn hostile_strings() -> Vec<String> {
    let mut strings: Vec<_> = [
        "",
        " ",
        "'",
        "\"",
        "\\",
        "'; DROP TABLE magic_link.users; --",
        "$1",
        "$$",
        "%s%n%d%1$s%",
        "{}",
        "\u{1}\u{8}\u{b}\u{1b}[31m\u{7f}\u{85}",
        "a\nb\r\nc",
        "\u{feff}\u{200b}\u{202e}\u{2066}",
        "e\u{301}\u{301}\u{301}",
        "😀👩‍👩‍👧‍👦",
        "\u{10ffff}\u{fffd}\u{e000}",
        "ß@ß.ß",
        "a@xn--",
        "a@xn--0.com",
        "a@[127.0.0.1]",
        "@@@@",
        "%00",
        "javascript:alert(1)",
        "https://user:pass@[::1]:99999/",
        "0000000000000000000000000000000\u{e9}",
        "infinity",
    ]
    .map(str::to_owned)
    .to_vec();
    strings.push("a".repeat(1 << 20));
    strings.push("é@".repeat(1 << 18));
    strings.push(format!("{}@example.com", "\u{301}".repeat(1 << 16)));
    strings.push("0".repeat(32));
    strings.push("z".repeat(32));
    strings
}

fn hostile_jsons() -> Vec<String> {
    let nested =
        |open: &str, close: &str, depth: usize| open.repeat(depth) + "1" + &close.repeat(depth);
    let mut jsons: Vec<_> = hostile_strings()
        .iter()
        .flat_map(|text| {
            let text = serde_json::Value::from(text.as_str());
            [
                format!(r#"{{"jitOrganizationIds": [{text}]}}"#),
                format!(r#"{{"interactionEvent": {text}}}"#),
                format!("{{{text}: {text}}}"),
            ]
        })
        .collect();
    for value in [
        "null",
        "1e400",
        "-0",
        "\"\"",
        "[]",
        "{}",
        "[1]",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "\"\\u0000\"",
    ] {
        jsons.push(value.to_owned());
        for key in [
            "a",
            "jitOrganizationIds",
            "organizationRoleIds",
            "interactionEvent",
            "token",
        ] {
            jsons.push(format!(r#"{{"{key}": {value}}}"#));
        }
    }
    jsons.push(nested("[", "]", 5000));
    jsons.push(format!(r#"{{"a": {}}}"#, nested("{\"a\":", "}", 2000)));
    jsons.push(format!(
        r#"{{"jitOrganizationIds": {}}}"#,
        nested("[", "]", 5000)
    ));
    jsons.push(format!(
        r#"{{"organizationRoleIds": {}}}"#,
        nested("{\"a\":", "}", 1000)
    ));
    jsons
}

/// Calls whose `$1` takes a hostile string; the rest of them is in order.
const TEXT_ARGUMENTS: &[&str] = &[
    "normalize_email($1)",
    "one_time_token_id($1)",
    "create_one_time_token($1)",
    "create_one_time_tokens(ARRAY['bob@example.com', $1])",
    "revoke_one_time_tokens($1)",
    "revoke_one_time_tokens('ada@example.com', $1)",
    "redeem_one_time_token($1, 'ada@example.com')",
    "redeem_one_time_token(repeat('0', 32), $1)",
    "redeem_one_time_token(repeat('0', 32), 'ada@example.com', $1)",
    "try_redeem_one_time_token($1, 'ada@example.com')",
    "try_redeem_one_time_token(repeat('0', 32), $1)",
    "try_redeem_one_time_token(repeat('0', 32), 'ada@example.com', $1)",
    "check_one_time_token($1, 'ada@example.com')",
    "check_one_time_token(repeat('0', 32), $1)",
    "check_one_time_token(repeat('0', 32), 'ada@example.com', $1)",
    "session_switch_decision($1, 'ada@example.com')",
    "session_switch_decision(repeat('0', 32), $1)",
    "session_switch_decision(repeat('0', 32), 'ada@example.com', $1)",
    "session_switch_decision(repeat('0', 32), 'ada@example.com', NULL, $1)",
    "compose_magic_link($1, repeat('0', 32), 'ada@example.com')",
    "compose_magic_link('https://example.com', $1, 'ada@example.com')",
    "compose_magic_link('https://example.com', repeat('0', 32), $1)",
    "compose_magic_link('https://example.com', repeat('0', 32), 'ada@example.com', NULL, $1)",
    "compose_magic_link('https://example.com', repeat('0', 32), 'ada@example.com', NULL, NULL, $1)",
];

const JSON_ARGUMENTS: &[&str] = &[
    "create_one_time_token('ada@example.com', 600, $1::text::jsonb)",
    "compose_magic_link('https://example.com', repeat('0', 32), 'ada@example.com', $1::text::jsonb)",
];

#[test]
fn no_input_is_an_internal_error() {
    let db = Database::of(verbose_cluster());
    db.sql(&format!(
        "SELECT magic_link.grant_admin('{}')",
        db.backend_role()
    ));
    let mut backend = db.backend();
    let strings = hostile_strings();
    let jsons = hostile_jsons();
    let calls = TEXT_ARGUMENTS.iter().map(|call| (call, &strings));
    for (call, inputs) in calls.chain(JSON_ARGUMENTS.iter().map(|call| (call, &jsons))) {
        let statement = backend
            .prepare(&format!("SELECT * FROM magic_link.{call}"))
            .unwrap();
        for input in inputs {
            let shown: String = input.chars().take(80).collect();
            if let Err(error) = backend.query(&statement, &[input]) {
                let told = told(&error);
                let code = error.code().unwrap().code().to_owned();
                let expected = code.starts_with("22") || code.starts_with("OT") || code == "23503";
                assert!(expected, "{call} {shown:?}: {told:.500}");
                assert!(words(&error).len() < 1000, "{call} {shown:?}: {told:.5000}");
                assert!(
                    !told.contains("panicked") && !told.contains("stack backtrace"),
                    "{told}"
                );
            }
        }
    }
    // The setting that the view reads is an argument too.
    for input in &strings {
        backend
            .execute(
                "SELECT set_config('magic_link.session_email', $1, false)",
                &[input],
            )
            .unwrap();
        if let Err(error) = backend.query("SELECT * FROM magic_link.session_switch", &[]) {
            assert_eq!(error.code().unwrap().code(), "22023", "{}", told(&error));
        }
    }
}

/// The words of an error are the extension's own: what a caller sent is quoted in part, if at all.
#[test]
fn messages_hold_no_control_characters() {
    let db = Database::of(verbose_cluster());
    let mut backend = db.backend();
    for text in ["a\nb", "\u{1b}[31mred", "\u{7}bell", "line\r\nLOG: forged"] {
        let context = serde_json::json!({"jitOrganizationIds": [text]}).to_string();
        let errors = [
            backend.create(ADA, &context).unwrap_err(),
            backend.create(text, "{}").unwrap_err(),
            backend
                .redeem_in(Some(text), &"0".repeat(32), ADA)
                .unwrap_err(),
            backend
                .decide(&"0".repeat(32), ADA, Some(text), None)
                .unwrap_err(),
        ];
        for error in errors {
            let words = words(&error);
            assert!(!words.chars().any(char::is_control), "{words:?}");
        }
    }
}

//! The session switch: what to do when a link is opened in a browser that is signed in already. Every row of the documented
//! table, through the view and through the function.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Calls, Database, ExpectSqlState, Issued};

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";

fn decision(decision: &str, reason: Option<&str>) -> (String, Option<String>) {
    (decision.to_owned(), reason.map(str::to_owned))
}

/// A database with a token in each state; `known` has a user.
struct Tokens {
    db: Database<'static>,
    redeemable: Issued,
    consumed: Issued,
    revoked: Issued,
    expired: Issued,
    sign_in_of_nobody: Issued,
    sign_in_of_somebody: Issued,
    registration: Issued,
}

impl Tokens {
    fn new() -> Self {
        let db = Database::new();
        let mut backend = db.backend();
        let mut create = |email: &str, context: &str| backend.create(email, context).unwrap();
        let known = "known@example.com";
        let tokens = Self {
            redeemable: create(ADA, "{}"),
            consumed: create(ADA, "{}"),
            revoked: create(ADA, "{}"),
            expired: create(ADA, "{}"),
            sign_in_of_nobody: create("nobody@example.com", r#"{"interactionEvent": "SignIn"}"#),
            sign_in_of_somebody: create(known, r#"{"interactionEvent": "SignIn"}"#),
            registration: create("new@example.com", r#"{"interactionEvent": "Register"}"#),
            db,
        };
        backend.redeem(&tokens.consumed.token, ADA).unwrap();
        let update = "UPDATE magic_link.one_time_tokens SET";
        tokens.db.sql(&format!(
            "INSERT INTO magic_link.users (email) VALUES ('{known}');
             {update} revoked_at = clock_timestamp() WHERE id = '{}';
             {update} created_at = created_at - interval '1 day', expires_at = created_at WHERE id = '{}'",
            tokens.revoked.id, tokens.expired.id
        ));
        tokens
    }
}

#[test]
fn every_row_of_the_table() {
    let tokens = Tokens::new();
    let mut backend = tokens.db.backend();
    let t = &tokens;
    // token, session account, prompt, decision, reason
    #[rustfmt::skip]
    let rows = [
        (&t.redeemable, "", "", "redeem", None),
        (&t.redeemable, "", "login", "redeem", None),
        (&t.redeemable, "  ", "", "redeem", None),
        (&t.redeemable, ADA, "", "redeem", None),
        (&t.redeemable, ADA, "login", "redeem", None),
        (&t.redeemable, "  Ada@EXAMPLE.com ", "", "redeem", None),
        (&t.redeemable, EVE, "", "ask", None),
        (&t.redeemable, EVE, "consent", "ask", None),
        (&t.redeemable, EVE, "login", "switch", None),
        (&t.consumed, ADA, "", "continue", None),
        (&t.consumed, ADA, "login", "continue", None),
        (&t.consumed, " ADA@example.COM", "", "continue", None),
        (&t.consumed, "", "", "refuse", Some("token_consumed")),
        (&t.consumed, EVE, "", "refuse", Some("token_consumed")),
        (&t.consumed, EVE, "login", "refuse", Some("token_consumed")),
        (&t.revoked, "", "", "refuse", Some("token_revoked")),
        (&t.revoked, ADA, "", "refuse", Some("token_revoked")),
        (&t.revoked, EVE, "login", "refuse", Some("token_revoked")),
        (&t.expired, "", "", "refuse", Some("token_expired")),
        (&t.expired, ADA, "", "refuse", Some("token_expired")),
        (&t.expired, EVE, "login", "refuse", Some("token_expired")),
        (&t.sign_in_of_nobody, "", "", "refuse", Some("user_not_found")),
        (&t.sign_in_of_nobody, "nobody@example.com", "", "refuse", Some("user_not_found")),
        (&t.sign_in_of_nobody, EVE, "login", "refuse", Some("user_not_found")),
        (&t.sign_in_of_somebody, "", "", "redeem", None),
        (&t.sign_in_of_somebody, EVE, "", "ask", None),
        (&t.registration, "", "", "redeem", None),
        (&t.registration, EVE, "login", "switch", None),
    ];
    for (issued, session_email, prompt, expected, reason) in rows {
        let row = format!("{} {session_email:?} {prompt:?} {expected}", issued.email);
        let expected = decision(expected, reason);
        assert_eq!(
            backend
                .decide_by_view(issued.id, session_email, prompt)
                .unwrap(),
            expected,
            "view: {row}"
        );
        let answer = backend.decide(
            &issued.token,
            &issued.email,
            Some(session_email),
            Some(prompt),
        );
        assert_eq!(answer.unwrap(), expected, "function: {row}");
    }
}

#[test]
fn only_the_exact_word_login_counts() {
    let tokens = Tokens::new();
    let mut backend = tokens.db.backend();
    let rows = [
        ("login", "switch"),
        ("consent login", "switch"),
        ("login consent", "switch"),
        ("login  consent", "switch"),
        ("consent  login", "switch"),
        (" login ", "switch"),
        ("none login select_account", "switch"),
        ("relogin", "ask"),
        ("logins", "ask"),
        ("Login", "ask"),
        ("LOGIN", "ask"),
        ("", "ask"),
        (" ", "ask"),
        ("consent", "ask"),
        ("login,consent", "ask"),
        ("consent\tlogin", "ask"),
        ("log in", "ask"),
        ("%login%", "ask"),
    ];
    for (prompt, expected) in rows {
        let expected = decision(expected, None);
        assert_eq!(
            backend
                .decide_by_view(tokens.redeemable.id, EVE, prompt)
                .unwrap(),
            expected,
            "view: {prompt:?}"
        );
        let answer = backend.decide(&tokens.redeemable.token, ADA, Some(EVE), Some(prompt));
        assert_eq!(answer.unwrap(), expected, "function: {prompt:?}");
    }
}

#[test]
fn the_function_tells_a_wrong_address_from_an_unknown_token() {
    let tokens = Tokens::new();
    let mut backend = tokens.db.backend();
    let token = tokens.redeemable.token.as_str();
    let rows = [
        ("malformed", ADA, "token_not_found"),
        ("", ADA, "token_not_found"),
        (&"0".repeat(32), ADA, "token_not_found"),
        (token, EVE, "email_mismatch"),
        (&tokens.consumed.token, EVE, "email_mismatch"),
        (&tokens.sign_in_of_nobody.token, EVE, "email_mismatch"),
    ];
    for (token, email, reason) in rows {
        for (session_email, prompt) in [
            (None, None),
            (Some(email), None),
            (Some(ADA), Some("login")),
        ] {
            let answer = backend.decide(token, email, session_email, prompt).unwrap();
            assert_eq!(answer, decision("refuse", Some(reason)));
        }
    }
}

#[test]
fn null_means_what_is_set_and_empty_means_nobody_and_no_prompt() {
    let tokens = Tokens::new();
    let token = tokens.redeemable.token.as_str();
    let mut backend = tokens.db.backend();
    let mut ask = |session_email: Option<&str>, prompt: Option<&str>| {
        backend.decide(token, ADA, session_email, prompt).unwrap().0
    };
    assert_eq!(ask(None, None), "redeem");
    assert_eq!(ask(None, Some("login")), "redeem");

    backend
        .batch_execute("SET magic_link.session_email = 'Eve@example.com'; SET magic_link.prompt = 'consent login'")
        .unwrap();
    let mut ask = |session_email: Option<&str>, prompt: Option<&str>| {
        backend.decide(token, ADA, session_email, prompt).unwrap().0
    };
    assert_eq!(ask(None, None), "switch");
    assert_eq!(ask(None, Some("")), "ask");
    assert_eq!(ask(Some(""), None), "redeem");
    assert_eq!(ask(Some(ADA), None), "redeem");
    assert_eq!(ask(Some("mallory@example.com"), None), "switch");
    assert_eq!(ask(Some("mallory@example.com"), Some("none")), "ask");
}

/// A setting that is no address is nobody's session, and not nobody; the error says where it is from.
#[test]
fn a_session_account_that_is_no_address_is_named() {
    let db = Database::new();
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap().token;
    let view = "SELECT decision FROM magic_link.session_switch";
    let set = "SELECT set_config('magic_link.session_email', $1, false)";

    backend.execute(set, &[&"nonsense"]).unwrap();
    let error = backend
        .decide(&token, ADA, None, None)
        .expect_sqlstate("22023");
    assert_eq!(error.message(), "invalid magic_link.session_email");
    backend.query(view, &[]).expect_sqlstate("22023");
    let error = backend.decide(&token, ADA, Some("nonsense"), None);
    assert_eq!(
        error.expect_sqlstate("22023").message(),
        "invalid session_email"
    );

    for blank in ["", " ", " \t\r\n"] {
        backend.execute(set, &[&blank]).unwrap();
        let seen: String = backend.query_one(view, &[]).unwrap().get(0);
        let decided = backend.decide(&token, ADA, None, None).unwrap();
        assert_eq!(
            (seen, decided),
            ("redeem".to_owned(), decision("redeem", None))
        );
    }
}

#[test]
fn an_operator_can_make_the_settings_for_a_role() {
    let tokens = Tokens::new();
    tokens.db.sql(&format!(
        "ALTER ROLE {} SET magic_link.session_email = '{EVE}'",
        tokens.db.backend_role()
    ));
    let answer = tokens
        .db
        .backend()
        .decide(&tokens.redeemable.token, ADA, None, None);
    assert_eq!(answer.unwrap(), decision("ask", None));
}

/// In a session that has not called the extension yet, too.
#[test]
fn the_function_leaves_the_settings_as_they_were() {
    let tokens = Tokens::new();
    let token = tokens.redeemable.token.as_str();
    let settings = "SELECT current_setting('magic_link.session_email', true), current_setting('magic_link.prompt', true)";
    let read = |client: &mut Client| -> (Option<String>, Option<String>) {
        let row = client.query_one(settings, &[]).unwrap();
        (row.get(0), row.get(1))
    };

    let mut fresh = tokens.db.backend();
    fresh.decide(token, ADA, Some(EVE), Some("login")).unwrap();
    let (session_email, prompt) = read(&mut fresh);
    assert_eq!(
        session_email.unwrap_or_default() + &prompt.unwrap_or_default(),
        ""
    );

    let mut backend = tokens.db.backend();
    backend
        .batch_execute(
            "SET magic_link.session_email = 'set@example.com'; SET magic_link.prompt = 'set'",
        )
        .unwrap();
    let set = (Some("set@example.com".to_owned()), Some("set".to_owned()));
    backend
        .decide(token, ADA, Some(EVE), Some("login"))
        .unwrap();
    assert_eq!(read(&mut backend), set);
    backend
        .decide(token, ADA, Some("not an address"), Some("login"))
        .expect_sqlstate("22023");
    assert_eq!(read(&mut backend), set);

    // Within a transaction a failure must not outlive its savepoint either.
    backend.batch_execute("BEGIN; SAVEPOINT s").unwrap();
    backend
        .decide(token, ADA, Some("not an address"), Some("login"))
        .expect_sqlstate("22023");
    backend.batch_execute("ROLLBACK TO s").unwrap();
    assert_eq!(read(&mut backend), set);
    backend
        .decide(token, ADA, Some(EVE), Some("login"))
        .unwrap();
    assert_eq!(read(&mut backend), set);
    backend.batch_execute("COMMIT").unwrap();
    assert_eq!(read(&mut backend), set);
}

#[test]
fn null_and_malformed_arguments_are_misuse() {
    let tokens = Tokens::new();
    let token = tokens.redeemable.token.as_str();
    let mut backend = tokens.db.backend();
    let mut call = |token: Option<&str>, email: Option<&str>, session_email: Option<&str>| {
        backend.query(
            "SELECT * FROM magic_link.session_switch_decision($1, $2, $3)",
            &[&token, &email, &session_email],
        )
    };
    call(None, Some(ADA), None).expect_sqlstate("22004");
    call(Some(token), None, None).expect_sqlstate("22004");
    call(Some(token), Some("ada"), None).expect_sqlstate("22023");
    for session_email in ["ada", "@", "a b@example.com", "\"ada\"@example.com"] {
        for token in [token, "malformed", &"0".repeat(32)] {
            let error = call(Some(token), Some(ADA), Some(session_email)).expect_sqlstate("22023");
            assert!(format!("{error:?}").contains("session_email"), "{error:?}");
        }
    }
    assert!(call(Some(token), Some(ADA), None).is_ok());

    // The setting is free text; who reads it is told.
    backend
        .batch_execute("SET magic_link.session_email = 'ada'")
        .unwrap();
    backend
        .query("SELECT * FROM magic_link.session_switch", &[])
        .expect_sqlstate("22023");
    backend
        .decide(token, ADA, None, None)
        .expect_sqlstate("22023");
}

#[test]
fn the_view_tells_what_it_decided_by() {
    let tokens = Tokens::new();
    let mut backend = tokens.db.backend();
    let query = "SELECT token_email, status, interaction_event, session_email, prompt
                   FROM magic_link.session_switch WHERE token_id = $1";
    let read = |client: &mut Client, issued: &Issued| -> [Option<String>; 5] {
        let row = client.query_one(query, &[&issued.id]).unwrap();
        [0, 1, 2, 3, 4].map(|column| row.get(column))
    };
    let text = |texts: [Option<&str>; 5]| texts.map(|text| text.map(str::to_owned));
    let statuses = [
        (&tokens.redeemable, "active"),
        (&tokens.consumed, "consumed"),
        (&tokens.revoked, "revoked"),
        (&tokens.expired, "expired"),
    ];
    for (issued, status) in statuses {
        let expected = text([Some(ADA), Some(status), None, None, None]);
        assert_eq!(read(&mut backend, issued), expected);
    }
    backend
        .batch_execute(
            "SET magic_link.session_email = ' Eve@example.com'; SET magic_link.prompt = 'consent'",
        )
        .unwrap();
    let expected = [
        Some("new@example.com"),
        Some("active"),
        Some("Register"),
        Some(EVE),
        Some("consent"),
    ];
    assert_eq!(read(&mut backend, &tokens.registration), text(expected));
    let rows = backend
        .query("SELECT * FROM magic_link.session_switch", &[])
        .unwrap();
    assert_eq!(rows.len(), 7);
}

/// The status is computed, so filters on it are right at any moment.
#[test]
fn the_status_for_people_is_never_stale() {
    let tokens = Tokens::new();
    let counts: String = tokens.db.value(
        "SELECT string_agg(status || ' ' || n, ', ' ORDER BY status)
           FROM (SELECT status, count(*) AS n FROM magic_link.one_time_token_status GROUP BY 1) AS s",
        &[],
    );
    assert_eq!(counts, "active 4, consumed 1, expired 1, revoked 1");
}

/// By the clock on the wall, also within a transaction that began before.
#[test]
fn a_token_that_expires_in_a_transaction_is_seen_to() {
    let db = Database::new();
    let mut backend = db.backend();
    let issued = backend.create_for(ADA, Some(1), None).unwrap();
    let mut superuser = db.superuser();
    let mut transaction = superuser.transaction().unwrap();
    let seen = "SELECT s.status, t.status, s.decision, s.reason
                  FROM magic_link.session_switch AS s
                  JOIN magic_link.one_time_token_status AS t ON t.id = s.token_id";
    transaction.query_one(seen, &[]).unwrap();
    db.wait_until_expired(issued.id);
    let row = transaction.query_one(seen, &[]).unwrap();
    let columns = [0, 1, 2, 3].map(|column| row.get::<_, String>(column));
    assert_eq!(columns, ["expired", "expired", "refuse", "token_expired"]);
    let decided = transaction.decide(&issued.token, ADA, None, None).unwrap();
    assert_eq!(decided, decision("refuse", Some("token_expired")));
}

/// On two days a year the calendar's day has 23 or 25 hours: the window is as long as ever, for the view and
/// for the functions.
#[test]
fn the_replay_window_is_as_long_on_the_day_on_which_clocks_change() {
    let db = Database::new();
    db.set("replay_window", "1d");
    let issued = db.backend().create(ADA, "{}").unwrap();
    db.backend().redeem(&issued.token, ADA).unwrap();
    // A time zone whose clocks went forward, or back, twelve hours ago.
    let zone = |summer_begins_in: i32, summer_ends_in: i32| -> String {
        db.value(
            "SELECT format('WINTER0SUMMER-1,%s/%s,%s/%s', extract(doy FROM b)::int - 1, extract(hour FROM b)::int,
                           extract(doy FROM e)::int - 1, extract(hour FROM e)::int)
               FROM (SELECT (now() AT TIME ZONE 'UTC') + make_interval(hours => $1),
                            (now() AT TIME ZONE 'UTC') + make_interval(hours => $2)) AS t (b, e)",
            &[&summer_begins_in, &summer_ends_in],
        )
    };
    for (zone, calendar_day) in [(zone(-12, 2400), 23), (zone(-2400, -12), 25)] {
        for (seconds, outcome) in [(85_800, "ok"), (87_000, "token_consumed")] {
            db.change(
                issued.id,
                &format!(
                    "consumed_at = clock_timestamp() - make_interval(secs => {seconds}),
                     created_at = '2020-01-01', expires_at = 'infinity'"
                ),
            );
            let mut backend = db.backend();
            backend
                .batch_execute(&format!("SET TIME ZONE '{zone}'"))
                .unwrap();
            let day =
                "SELECT (extract(epoch FROM now() - (now() - interval '1 day')) / 3600)::integer";
            let hours: i32 = backend.query_one(day, &[]).unwrap().get(0);
            assert_eq!(hours, calendar_day, "{zone}");
            let checked = backend.check_in(None, &issued.token, ADA).unwrap();
            let row = backend
                .query_one("SELECT reason FROM magic_link.session_switch", &[])
                .unwrap();
            let reason: Option<String> = row.get(0);
            let seen = reason.unwrap_or_else(|| "ok".to_owned());
            assert_eq!(
                (checked.as_str(), seen.as_str()),
                (outcome, outcome),
                "{zone}"
            );
        }
    }
}

//! Redeeming a token, trying to, and checking it: each outcome through all three functions.

use std::time::SystemTime;

use magic_link_harness::postgres::{Client, GenericClient, IsolationLevel};
use magic_link_harness::{Calls, Database, ExpectSqlState, Issued};
use serde_json::json;

const ADA: &str = "ada@example.com";

/// Outcomes and the SQLSTATE of each.
const SQLSTATES: &[(&str, &str)] = &[
    ("token_not_found", "OT001"),
    ("email_mismatch", "OT002"),
    ("token_consumed", "OT003"),
    ("token_revoked", "OT004"),
    ("token_expired", "OT005"),
    ("interaction_event_mismatch", "OT006"),
    ("user_not_found", "OT007"),
];

fn sqlstate(outcome: &str) -> &'static str {
    let row = SQLSTATES.iter().find(|(name, _)| *name == outcome);
    row.unwrap_or_else(|| panic!("{outcome} is no refusal")).1
}

/// What has become of a token before it is presented.
#[derive(Debug, Clone, Copy)]
enum State {
    Active,
    Consumed,
    Revoked,
    Expired,
    ConsumedAndExpired,
    RevokedAndExpired,
}

fn bring_into(db: &Database, state: State, issued: &Issued) {
    let consumed = "consumed_at = clock_timestamp(), consumed_by = 'somebody'";
    let revoked = "revoked_at = clock_timestamp()";
    let expired =
        "created_at = created_at - interval '1 day', expires_at = expires_at - interval '1 day'";
    let change = match state {
        State::Active => return,
        State::Consumed => consumed.to_owned(),
        State::Revoked => revoked.to_owned(),
        State::Expired => expired.to_owned(),
        State::ConsumedAndExpired => format!("{consumed}, {expired}"),
        State::RevokedAndExpired => format!("{revoked}, {expired}"),
    };
    db.sql(&format!(
        "UPDATE magic_link.one_time_tokens SET {change} WHERE id = '{}'",
        issued.id
    ));
}

/// In the tables below an empty word is no interaction event.
fn event(word: &str) -> Option<&str> {
    (!word.is_empty()).then_some(word)
}

fn context_of(word: &str) -> String {
    event(word)
        .map_or(json!({}), |event| json!({"interactionEvent": event}))
        .to_string()
}

/// What somebody presents, asked of all three functions: they agree, and a refusal changes nothing;
/// but trying with the wrong address is counted, see failed_attempts.rs.
#[track_caller]
fn assert_refused(
    db: &Database,
    backend: &mut Client,
    claim: (Option<&str>, &str, &str),
    outcome: &str,
) {
    let (event, token, email) = claim;
    let before = db.contents();
    assert_eq!(backend.check_in(event, token, email).unwrap(), outcome);
    let error = backend
        .redeem_in(event, token, email)
        .expect_sqlstate(sqlstate(outcome));
    let message = error.message();
    assert!(
        !message.starts_with(char::is_uppercase) && !message.ends_with('.'),
        "{message}"
    );
    assert_eq!(db.contents(), before);
    assert_eq!(
        backend.try_redeem_in(event, token, email).unwrap(),
        (outcome.to_owned(), None)
    );
    if outcome != "email_mismatch" {
        assert_eq!(db.contents(), before);
    }
}

#[test]
fn redeeming_creates_the_user_and_answers_everything() {
    let db = Database::new();
    db.organization("acme", &["member", "billing"]);
    let mut backend = db.backend();
    let context = r#"{"returnTo": "/inbox", "jitOrganizationIds": ["acme"]}"#;
    let issued = backend.create(ADA, context).unwrap();

    let redeemed = backend.redeem(&issued.token, " ADA@Example.com").unwrap();

    assert_eq!(redeemed.token_id, issued.id);
    assert_eq!(redeemed.email, ADA);
    assert_eq!(redeemed.context, issued.context);
    assert!(redeemed.user_created);
    assert!(!redeemed.replayed);
    let expected =
        json!([{"organizationId": "acme", "status": "added", "roleIds": ["billing", "member"]}]);
    assert_eq!(redeemed.memberships, expected);
    let user: String = db.value(
        "SELECT id::text FROM magic_link.users WHERE email = $1",
        &[&ADA],
    );
    assert_eq!(redeemed.user_id, user);
    let row = db
        .superuser()
        .query_one(
            "SELECT consumed_at, consumed_by FROM magic_link.one_time_tokens",
            &[],
        )
        .unwrap();
    assert_eq!(row.get::<_, SystemTime>(0), redeemed.redeemed_at);
    assert_eq!(row.get::<_, String>(1), redeemed.user_id);
    assert!((issued.created_at..issued.expires_at).contains(&redeemed.redeemed_at));
}

#[test]
fn a_second_token_finds_the_user() {
    let db = Database::new();
    let mut backend = db.backend();
    let mut redeem = || {
        let issued = backend.create(ADA, "{}").unwrap();
        backend.redeem(&issued.token, ADA).unwrap()
    };
    let (first, second) = (redeem(), redeem());
    assert_eq!((first.user_created, second.user_created), (true, false));
    assert_eq!(first.user_id, second.user_id);
    assert_eq!(first.memberships, json!([]));
    assert_eq!(db.count("magic_link.users"), 1);
}

#[test]
fn trying_answers_the_same_row_after_the_outcome() {
    let db = Database::new();
    let mut backend = db.backend();
    let issued = backend.create(ADA, r#"{"a": 1}"#).unwrap();
    assert_eq!(backend.check_in(None, &issued.token, ADA).unwrap(), "ok");

    let (outcome, redeemed) = backend.try_redeem_in(None, &issued.token, ADA).unwrap();

    let redeemed = redeemed.unwrap();
    assert_eq!(outcome, "ok");
    assert_eq!(redeemed.token_id, issued.id);
    assert_eq!(
        (redeemed.email.as_str(), redeemed.context.as_str()),
        (ADA, r#"{"a": 1}"#)
    );
    assert_eq!((redeemed.user_created, redeemed.replayed), (true, false));
    assert_refused(
        &db,
        &mut backend,
        (None, &issued.token, ADA),
        "token_consumed",
    );
}

#[test]
fn each_outcome_has_its_code_and_changes_nothing() {
    let db = Database::new();
    let mut backend = db.backend();
    let wrong = "eve@example.com";
    #[rustfmt::skip]
    let rows = [
        (State::Active, "", "", wrong, "email_mismatch"),
        (State::Consumed, "", "", ADA, "token_consumed"),
        (State::Revoked, "", "", ADA, "token_revoked"),
        (State::Expired, "", "", ADA, "token_expired"),
        (State::Active, "Register", "", ADA, "interaction_event_mismatch"),
        (State::Active, "SignIn", "SignIn", ADA, "user_not_found"),
        // Where several reasons stand against a token, the first in the order of the contract counts.
        (State::ConsumedAndExpired, "SignIn", "", wrong, "email_mismatch"),
        (State::RevokedAndExpired, "SignIn", "", wrong, "email_mismatch"),
        (State::ConsumedAndExpired, "SignIn", "", ADA, "token_consumed"),
        (State::RevokedAndExpired, "SignIn", "", ADA, "token_revoked"),
        (State::Expired, "Register", "SignIn", ADA, "token_expired"),
        (State::Expired, "SignIn", "SignIn", ADA, "token_expired"),
        (State::Active, "Register", "SignIn", wrong, "email_mismatch"),
        (State::Active, "Register", "SignIn", ADA, "interaction_event_mismatch"),
    ];
    for (state, of_token, of_caller, email, outcome) in rows {
        let issued = backend.create(ADA, &context_of(of_token)).unwrap();
        bring_into(&db, state, &issued);
        let claim = (event(of_caller), issued.token.as_str(), email);
        assert_refused(&db, &mut backend, claim, outcome);
    }
}

#[test]
fn what_was_never_issued_is_not_found() {
    let db = Database::new();
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap().token;
    let last = token.chars().last().unwrap();
    let another = if last == '0' { '1' } else { '0' };
    let swapped_case: String = token
        .chars()
        .map(|c| {
            if c.is_uppercase() {
                c.to_ascii_lowercase()
            } else {
                c.to_ascii_uppercase()
            }
        })
        .collect();
    for altered in [
        format!("{}{another}", &token[..31]),
        swapped_case,
        token[..31].to_owned(),
        format!("{token}0"),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{}-", &token[..31]),
        format!("{}é", &token[..30]),
        "0".repeat(32),
        "z".repeat(32),
        String::new(),
        "' OR true --".to_owned(),
    ] {
        assert_refused(&db, &mut backend, (None, &altered, ADA), "token_not_found");
        assert_refused(
            &db,
            &mut backend,
            (Some("SignIn"), &altered, "eve@example.com"),
            "token_not_found",
        );
    }
    assert!(backend.redeem(&token, ADA).is_ok());
}

#[test]
fn an_interaction_event_guards_the_token_and_the_users() {
    let db = Database::new();
    let mut backend = db.backend();
    let (known, unknown) = ("known@example.com", "unknown@example.com");
    db.sql(&format!(
        "INSERT INTO magic_link.users (email) VALUES ('{known}')"
    ));
    #[rustfmt::skip]
    let rows = [
        ("", "", unknown, "ok"),
        ("", "Register", unknown, "ok"),
        ("", "Invite", unknown, "ok"),
        // The caller's event is what counts where the token has none.
        ("", "SignIn", unknown, "user_not_found"),
        ("", "ForgotPassword", unknown, "user_not_found"),
        ("", "SignIn", known, "ok"),
        ("SignIn", "SignIn", unknown, "user_not_found"),
        ("SignIn", "SignIn", known, "ok"),
        ("SignIn", "", known, "interaction_event_mismatch"),
        ("SignIn", "Register", known, "interaction_event_mismatch"),
        ("SignIn", "signin", known, "interaction_event_mismatch"),
        ("ForgotPassword", "ForgotPassword", unknown, "user_not_found"),
        ("ForgotPassword", "ForgotPassword", known, "ok"),
        ("ForgotPassword", "SignIn", known, "interaction_event_mismatch"),
        ("Register", "Register", unknown, "ok"),
        ("Register", "Register", known, "ok"),
        ("Register", "", unknown, "interaction_event_mismatch"),
        ("Invite", "Invite", unknown, "ok"),
    ];
    for (of_token, of_caller, email, outcome) in rows {
        let row = format!("{of_token:?} {of_caller:?} {email}");
        let issued = backend.create(email, &context_of(of_token)).unwrap();
        let claim = (event(of_caller), issued.token.as_str(), email);
        if outcome == "ok" {
            assert_eq!(
                backend.check_in(claim.0, claim.1, claim.2).unwrap(),
                "ok",
                "{row}"
            );
            let redeemed = backend.redeem_in(claim.0, claim.1, claim.2).expect(&row);
            assert_eq!(redeemed.user_created, email == unknown, "{row}");
            db.sql(&format!(
                "DELETE FROM magic_link.users WHERE email = '{unknown}'"
            ));
        } else {
            assert_refused(&db, &mut backend, claim, outcome);
        }
    }
}

/// The refusal for want of a user leaves the token for when there is one.
#[test]
fn a_token_without_a_user_waits_for_one() {
    let db = Database::new();
    let mut backend = db.backend();
    let issued = backend
        .create(ADA, r#"{"interactionEvent": "SignIn"}"#)
        .unwrap();
    backend
        .redeem_in(Some("SignIn"), &issued.token, ADA)
        .expect_sqlstate("OT007");
    db.sql(&format!(
        "INSERT INTO magic_link.users (email) VALUES ('{ADA}')"
    ));
    let redeemed = backend
        .redeem_in(Some("SignIn"), &issued.token, ADA)
        .unwrap();
    assert!(!redeemed.user_created);
}

#[test]
fn null_and_malformed_arguments_are_misuse_and_no_outcome() {
    let db = Database::new();
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap().token;
    let before = db.contents();
    for function in [
        "redeem_one_time_token",
        "try_redeem_one_time_token",
        "check_one_time_token",
    ] {
        let mut call = |token: Option<&str>, email: Option<&str>, event: Option<&str>| {
            let query = format!("SELECT * FROM magic_link.{function}($1, $2, $3)");
            backend.query(&query, &[&token, &email, &event])
        };
        let named = [
            (
                call(None, Some(ADA), None).expect_sqlstate("22004"),
                "token",
            ),
            (
                call(Some(&token), None, None).expect_sqlstate("22004"),
                "email",
            ),
        ];
        for (error, argument) in named {
            assert!(error.message().contains(argument), "{error:?}");
        }
        for email in ["", "ada", "ada@", "a\nb@example.com", &"x".repeat(1 << 20)] {
            call(Some(&token), Some(email), None).expect_sqlstate("22023");
            call(Some("malformed"), Some(email), None).expect_sqlstate("22023");
        }
        for event in ["", "Sign In", "1SignIn", "SignIn;", "é", &"x".repeat(65)] {
            let error = call(Some(&token), Some(ADA), Some(event)).expect_sqlstate("22023");
            assert!(format!("{error:?}").contains("interaction"), "{error:?}");
        }
    }
    assert_eq!(db.contents(), before);
}

#[test]
fn the_interaction_event_can_be_left_out() {
    let db = Database::new();
    let mut backend = db.backend();
    let issued = backend.create(ADA, "{}").unwrap();
    let mut answer = |call: &str| -> String {
        backend
            .query_one(call, &[&issued.token, &ADA])
            .unwrap()
            .get(0)
    };
    assert_eq!(
        answer("SELECT magic_link.check_one_time_token($1, $2)"),
        "ok"
    );
    assert_eq!(
        answer("SELECT outcome FROM magic_link.try_redeem_one_time_token($1, $2)"),
        "ok"
    );
    assert_eq!(
        answer("SELECT magic_link.check_one_time_token($1, $2, NULL)"),
        "token_consumed"
    );
    backend
        .query(
            "SELECT * FROM magic_link.redeem_one_time_token($1, $2)",
            &[&issued.token, &ADA],
        )
        .expect_sqlstate("OT003");
}

#[test]
fn a_transaction_lives_on_after_a_refused_try() {
    let db = Database::new();
    let mut backend = db.backend();
    let mut transaction = backend.transaction().unwrap();
    for _ in 0..3 {
        let (outcome, _) = transaction
            .try_redeem_in(None, &"0".repeat(32), ADA)
            .unwrap();
        assert_eq!(outcome, "token_not_found");
    }
    let issued = transaction.create(ADA, "{}").unwrap();
    let (outcome, _) = transaction
        .try_redeem_in(None, &issued.token, "eve@example.com")
        .unwrap();
    assert_eq!(outcome, "email_mismatch");
    transaction.commit().unwrap();

    assert!(backend.redeem(&issued.token, ADA).is_ok());
}

#[test]
fn a_refused_redemption_ends_the_transaction_as_any_error_does() {
    let db = Database::new();
    let mut backend = db.backend();
    let mut transaction = backend.transaction().unwrap();
    transaction
        .redeem(&"0".repeat(32), ADA)
        .expect_sqlstate("OT001");
    transaction
        .check_in(None, &"0".repeat(32), ADA)
        .expect_sqlstate("25P02");
}

/// A check may come from a mail scanner, a thousand times a day: it costs no transaction id.
#[test]
fn checking_writes_nothing() {
    let db = Database::new();
    let mut backend = db.backend();
    let issued = backend
        .create(ADA, r#"{"interactionEvent": "SignIn"}"#)
        .unwrap();
    let before = db.contents();
    let mut transaction = backend.transaction().unwrap();
    for (event, token, email) in [
        (Some("SignIn"), issued.token.as_str(), ADA),
        (None, issued.token.as_str(), ADA),
        (None, issued.token.as_str(), "eve@example.com"),
        (None, "malformed", ADA),
    ] {
        transaction.check_in(event, token, email).unwrap();
        transaction
            .decide(token, email, Some("eve@example.com"), Some("login"))
            .unwrap();
    }
    assert_eq!(assigned_transaction_id(&mut transaction), None);
    transaction.commit().unwrap();
    assert_eq!(db.contents(), before);
}

fn assigned_transaction_id(client: &mut impl GenericClient) -> Option<String> {
    let row = client.query_one("SELECT pg_current_xact_id_if_assigned()::text", &[]);
    row.unwrap().get(0)
}

#[test]
fn a_read_only_transaction_checks_and_neither_creates_nor_redeems() {
    let db = Database::new();
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap().token;
    let before = db.contents();
    let mut read_only = db.backend();
    read_only
        .batch_execute("SET default_transaction_read_only = on")
        .unwrap();

    assert_eq!(read_only.check_in(None, &token, ADA).unwrap(), "ok");
    assert_eq!(
        read_only.check_in(None, "malformed", ADA).unwrap(),
        "token_not_found"
    );
    assert_eq!(
        read_only.decide(&token, ADA, None, None).unwrap().0,
        "redeem"
    );

    read_only.create(ADA, "{}").expect_sqlstate("25006");
    for presented in [token.as_str(), &"0".repeat(32), "malformed"] {
        for email in [ADA, "eve@example.com"] {
            read_only.redeem(presented, email).expect_sqlstate("25006");
            read_only
                .try_redeem_in(None, presented, email)
                .expect_sqlstate("25006");
        }
    }
    assert_eq!(db.contents(), before);
    let mut transaction = backend.build_transaction().read_only(true).start().unwrap();
    transaction.redeem(&token, ADA).expect_sqlstate("25006");
}

#[test]
fn a_token_can_expire_while_a_transaction_is_open() {
    let db = Database::new();
    let issued = db.backend().create_for(ADA, Some(1), None).unwrap();
    let mut clients = [(); 3].map(|()| db.backend());
    let mut transactions = Vec::new();
    let levels = [
        IsolationLevel::ReadCommitted,
        IsolationLevel::RepeatableRead,
        IsolationLevel::Serializable,
    ];
    for (client, level) in clients.iter_mut().zip(levels) {
        let mut transaction = client
            .build_transaction()
            .isolation_level(level)
            .start()
            .unwrap();
        // The snapshot and the transaction's own clock are from before the end.
        transaction
            .query("SELECT now() FROM magic_link.session_switch", &[])
            .unwrap();
        transactions.push(transaction);
    }
    db.wait_until_expired(issued.id);
    for mut transaction in transactions {
        let token = &issued.token;
        assert_eq!(
            transaction.check_in(None, token, ADA).unwrap(),
            "token_expired"
        );
        let (outcome, _) = transaction.try_redeem_in(None, token, ADA).unwrap();
        assert_eq!(outcome, "token_expired");
        transaction.redeem(token, ADA).expect_sqlstate("OT005");
    }
}

#[test]
fn a_token_issued_in_a_transaction_can_be_redeemed_there() {
    let db = Database::new();
    let mut backend = db.backend();
    let mut transaction = backend.transaction().unwrap();
    let issued = transaction.create(ADA, "{}").unwrap();
    assert!(transaction.redeem(&issued.token, ADA).is_ok());
    let (outcome, _) = transaction.try_redeem_in(None, &issued.token, ADA).unwrap();
    assert_eq!(outcome, "token_consumed");
    transaction.commit().unwrap();
    backend.redeem(&issued.token, ADA).expect_sqlstate("OT003");
}

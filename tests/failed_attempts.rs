//! Failed attempts: which wrong addresses are counted, and when the token is revoked.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Calls, Database, ExpectSqlState, Issued, concurrently, while_blocked};

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";

/// How often trying has failed, and who has revoked the token.
fn record(db: &Database, token: &Issued) -> (i32, Option<String>) {
    let row = db
        .superuser()
        .query_one(
            "SELECT failed_attempts, revoked_by FROM magic_link.one_time_token_status WHERE id = $1",
            &[&token.id],
        )
        .unwrap();
    (row.get(0), row.get(1))
}

#[track_caller]
fn guess(backend: &mut Client, token: &Issued) {
    let (outcome, _) = backend.try_redeem_in(None, &token.token, EVE).unwrap();
    assert_eq!(outcome, "email_mismatch");
}

const BY_SETTING: &str = "magic_link.max_failed_attempts";

/// Each guess is told the same, so that nobody learns from the answer that the token is gone.
#[test]
fn the_last_guess_that_is_allowed_revokes_the_token() {
    for limit in [None, Some(1), Some(3)] {
        let db = Database::new();
        if let Some(limit) = limit {
            db.set("max_failed_attempts", limit);
        }
        let limit = limit.unwrap_or(5);
        let mut backend = db.backend();
        let [token, other] = [(); 2].map(|()| backend.create(ADA, "{}").unwrap());
        for count in 1..=limit {
            assert_eq!(backend.check_in(None, &token.token, ADA).unwrap(), "ok");
            guess(&mut backend, &token);
            let revoked_by = (count == limit).then(|| BY_SETTING.to_owned());
            assert_eq!(record(&db, &token), (count, revoked_by));
        }
        // What is not active is not counted.
        guess(&mut backend, &token);
        assert_eq!(record(&db, &token).0, limit);
        backend.redeem(&token.token, ADA).expect_sqlstate("OT004");
        let (outcome, _) = backend.try_redeem_in(None, &token.token, ADA).unwrap();
        assert_eq!(outcome, "token_revoked");
        assert_eq!(record(&db, &other), (0, None));
        assert!(backend.redeem(&other.token, ADA).is_ok());
    }
}

#[test]
fn the_right_address_redeems_up_to_the_last_guess_but_one() {
    let db = Database::new();
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap();
    for _ in 0..4 {
        guess(&mut backend, &token);
    }
    assert!(backend.redeem(&token.token, ADA).is_ok());
    assert_eq!(record(&db, &token), (4, None));
    guess(&mut backend, &token);
    assert_eq!(record(&db, &token), (4, None));
}

#[test]
fn only_trying_an_active_token_with_another_address_is_counted() {
    let db = Database::new();
    db.set("max_failed_attempts", 1);
    let mut backend = db.backend();
    let event = r#"{"interactionEvent": "SignIn"}"#;
    let token = backend.create(ADA, event).unwrap();
    let before = db.contents();
    let mut other = token.token.clone();
    let last = if other.ends_with('0') { "1" } else { "0" };
    other.replace_range(31.., last);

    // Other functions.
    for event in [None, Some("SignIn"), Some("Register")] {
        backend
            .redeem_in(event, &token.token, EVE)
            .expect_sqlstate("OT002");
        let outcome = backend.check_in(event, &token.token, EVE).unwrap();
        assert_eq!(outcome, "email_mismatch");
        backend.decide(&token.token, EVE, None, None).unwrap();
    }
    // Other outcomes: another event, a user who is not there, another token.
    for (event, token, email, expected) in [
        (None, &token.token, ADA, "interaction_event_mismatch"),
        (
            Some("Register"),
            &token.token,
            ADA,
            "interaction_event_mismatch",
        ),
        (Some("SignIn"), &token.token, ADA, "user_not_found"),
        (Some("SignIn"), &other, EVE, "token_not_found"),
        (Some("SignIn"), &other, ADA, "token_not_found"),
    ] {
        let (outcome, _) = backend.try_redeem_in(event, token, email).unwrap();
        assert_eq!(outcome, expected);
    }
    backend
        .try_redeem_in(None, &token.token, "eve")
        .expect_sqlstate("22023");
    assert_eq!(db.contents(), before);

    // Whatever event a guess names, it is one.
    for named in [None, Some("SignIn"), Some("Register")] {
        let token = backend.create(ADA, event).unwrap();
        let (outcome, _) = backend.try_redeem_in(named, &token.token, EVE).unwrap();
        assert_eq!(outcome, "email_mismatch");
        assert_eq!(record(&db, &token), (1, Some(BY_SETTING.to_owned())));
    }
}

#[test]
fn a_token_that_has_ended_is_not_counted_for() {
    let db = Database::new();
    let mut backend = db.backend();
    let revoked = backend.create(ADA, "{}").unwrap();
    db.change(
        revoked.id,
        "revoked_at = clock_timestamp(), revoked_by = 'somebody'",
    );
    let consumed = backend.create(ADA, "{}").unwrap();
    backend.redeem(&consumed.token, ADA).unwrap();
    let expired = backend.create_for(ADA, Some(1), None).unwrap();
    db.wait_until_expired(expired.id);
    let before = db.contents();
    for token in [&revoked, &consumed, &expired] {
        for _ in 0..6 {
            guess(&mut backend, token);
        }
    }
    assert_eq!(db.contents(), before);
}

/// Another token whose id is the same is another token: the hash decides.
#[test]
fn a_token_whose_hash_does_not_match_is_not_counted_for() {
    let db = Database::new();
    db.set("max_failed_attempts", 1);
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap();
    db.change(token.id, "token_hash = sha256('another')");
    let before = db.contents();
    let (outcome, _) = backend.try_redeem_in(None, &token.token, EVE).unwrap();
    assert_eq!(outcome, "token_not_found");
    assert_eq!(db.contents(), before);
}

#[test]
fn where_0_are_allowed_they_are_counted_and_cost_nothing() {
    let db = Database::new();
    db.set("max_failed_attempts", 0);
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap();
    for _ in 0..20 {
        guess(&mut backend, &token);
    }
    assert_eq!(record(&db, &token), (20, None));
    // A limit that comes later, or is lowered, counts what was before; the next guess is one too many.
    db.set("max_failed_attempts", 3);
    assert_eq!(
        db.backend().check_in(None, &token.token, ADA).unwrap(),
        "ok"
    );
    guess(&mut db.backend(), &token);
    assert_eq!(record(&db, &token), (21, Some(BY_SETTING.to_owned())));
}

#[test]
fn a_full_count_is_no_error() {
    for limit in [0, i32::MAX] {
        let db = Database::new();
        db.set("max_failed_attempts", limit);
        let mut backend = db.backend();
        let token = backend.create(ADA, "{}").unwrap();
        db.change(token.id, "failed_attempts = 2147483646");
        guess(&mut backend, &token);
        let revoked_by = (limit > 0).then(|| BY_SETTING.to_owned());
        assert_eq!(record(&db, &token), (i32::MAX, revoked_by));
        guess(&mut backend, &token);
        assert_eq!(record(&db, &token).0, i32::MAX);
    }
}

/// However full the count is, a limit stands.
#[test]
fn a_limit_stands_against_a_full_count() {
    let db = Database::new();
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap();
    db.change(token.id, "failed_attempts = 2147483647");
    guess(&mut backend, &token);
    assert_eq!(record(&db, &token), (i32::MAX, Some(BY_SETTING.to_owned())));
}

#[test]
fn a_guess_that_was_rolled_back_was_never_made() {
    let db = Database::new();
    db.set("max_failed_attempts", 1);
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap();
    backend.batch_execute("BEGIN").unwrap();
    guess(&mut backend, &token);
    backend.batch_execute("ROLLBACK").unwrap();
    assert_eq!(record(&db, &token), (0, None));
    assert!(backend.redeem(&token.token, ADA).is_ok());
}

#[test]
fn guesses_at_once_are_counted_one_by_one() {
    let db = Database::new();
    db.set("max_failed_attempts", 0);
    let token = db.backend().create(ADA, "{}").unwrap();
    let backends: Vec<_> = (0..16).map(|_| db.backend()).collect();
    concurrently(backends, |mut backend| {
        for _ in 0..10 {
            guess(&mut backend, &token);
        }
    });
    assert_eq!(record(&db, &token), (160, None));
}

#[test]
fn guesses_at_once_are_never_more_than_allowed() {
    let db = Database::new();
    let token = db.backend().create(ADA, "{}").unwrap();
    let backends: Vec<_> = (0..16).map(|_| db.backend()).collect();
    concurrently(backends, |mut backend| guess(&mut backend, &token));
    assert_eq!(record(&db, &token), (5, Some(BY_SETTING.to_owned())));
}

/// The owner and a guess meet at the row: who comes first decides.
#[test]
fn a_guess_and_a_redemption_wait_for_each_other() {
    let db = Database::new();
    db.set("max_failed_attempts", 1);
    for commit in [true, false] {
        let end = ["ROLLBACK", "COMMIT"][usize::from(commit)];
        let [first, second] = [(); 2].map(|()| db.backend().create(ADA, "{}").unwrap());

        let mut holding = db.backend();
        holding.batch_execute("BEGIN").unwrap();
        holding.redeem(&first.token, ADA).unwrap();
        let late_guess = |backend: &mut Client| guess(backend, &first);
        while_blocked(&db, db.backend(), late_guess, || {
            holding.batch_execute(end).unwrap()
        });
        let counted = i32::from(!commit);
        assert_eq!(record(&db, &first).0, counted, "{end}");

        holding.batch_execute("BEGIN").unwrap();
        guess(&mut holding, &second);
        let redeem = |backend: &mut Client| backend.redeem(&second.token, ADA);
        let redeemed = while_blocked(&db, db.backend(), redeem, || {
            holding.batch_execute(end).unwrap()
        });
        match commit {
            true => drop(redeemed.expect_sqlstate("OT004")),
            false => assert!(redeemed.is_ok()),
        }
    }
}

//! `magic_link.replay_window`: a redemption is answered again after a double click or a lost reply.

use magic_link_harness::postgres::{Client, IsolationLevel};
use magic_link_harness::{Calls, Database, ExpectSqlState, Redeemed, concurrently, while_blocked};
use serde_json::json;

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";
const JOIN_ACME: &str = r#"{"returnTo": "/inbox", "jitOrganizationIds": ["acme"]}"#;

/// A database whose redemptions can be had again for ten minutes.
fn replaying() -> Database<'static> {
    let db = Database::new();
    db.set("replay_window", 600);
    db
}

/// The same answer through each of the three functions, and nothing written: not even a
/// transaction id is taken.
#[track_caller]
fn assert_replayed(db: &Database, event: Option<&str>, token: &str, first: &Redeemed) {
    assert!(!first.replayed);
    let again = Redeemed {
        replayed: true,
        ..first.clone()
    };
    let before = db.contents();
    let mut backend = db.backend();
    backend.batch_execute("BEGIN").unwrap();
    let redeemed = backend.redeem_in(event, token, " ADA@Example.com").unwrap();
    assert_eq!(redeemed, again);
    let tried = backend.try_redeem_in(event, token, ADA).unwrap();
    assert_eq!(tried, ("ok".to_owned(), Some(again)));
    assert_eq!(backend.check_in(event, token, ADA).unwrap(), "ok");
    let untouched = "SELECT pg_current_xact_id_if_assigned() IS NULL";
    let untouched: bool = backend.query_one(untouched, &[]).unwrap().get(0);
    assert!(untouched, "a replay took a transaction id");
    backend.batch_execute("COMMIT").unwrap();
    assert_eq!(db.contents(), before);
}

/// Consumed, whoever asks and by whichever function, and nothing written.
#[track_caller]
fn assert_consumed(db: &Database, event: Option<&str>, token: &str) {
    let before = db.contents();
    let mut backend = db.backend();
    backend
        .redeem_in(event, token, ADA)
        .expect_sqlstate("OT003");
    let tried = backend.try_redeem_in(event, token, ADA).unwrap();
    assert_eq!(tried, ("token_consumed".to_owned(), None));
    let checked = backend.check_in(event, token, ADA).unwrap();
    assert_eq!(checked, "token_consumed");
    assert_eq!(db.contents(), before);
}

#[test]
fn the_first_answer_is_given_again() {
    let db = replaying();
    db.organization("acme", &["member", "billing"]);
    db.organization("zoo", &[]);
    let context =
        r#"{"jitOrganizationIds": ["acme", "zoo"], "a": 1.50, "interactionEvent": "Register"}"#;
    // A new user, and then a known one; the last with an organization that is gone.
    for missing in [false, false, true] {
        let mut backend = db.backend();
        let token = backend.create(ADA, context).unwrap().token;
        if missing {
            db.sql("DELETE FROM magic_link.organizations WHERE id = 'zoo'");
        }
        let first = backend.redeem_in(Some("Register"), &token, ADA).unwrap();
        assert_eq!(first.memberships.as_array().unwrap().len(), 2);
        if missing {
            assert_eq!(first.memberships[1]["status"], "organization_missing");
        }
        assert_replayed(&db, Some("Register"), &token, &first);
        assert_replayed(&db, Some("Register"), &token, &first);
    }
    let created = db.count("magic_link.one_time_token_status WHERE user_created");
    assert_eq!(created, 1);
}

#[test]
fn a_first_answer_by_trying_is_given_again_too() {
    let db = replaying();
    let token = db.backend().create(ADA, "{}").unwrap().token;
    let (_, first) = db.backend().try_redeem_in(None, &token, ADA).unwrap();
    assert_replayed(&db, None, &token, &first.unwrap());
}

#[test]
fn the_window_closes() {
    let db = replaying();
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap();
    let first = backend.redeem(&token.token, ADA).unwrap();
    let earlier = "consumed_at = consumed_at - interval '500 seconds'";
    db.change(token.id, earlier);
    let answer = db.backend().redeem(&token.token, ADA).unwrap();
    assert_eq!((answer.replayed, answer.user_id), (true, first.user_id));
    db.change(token.id, earlier);
    assert_consumed(&db, None, &token.token);
    // The window that is open now counts, not the one at the time.
    db.set("replay_window", i32::MAX);
    assert!(db.backend().redeem(&token.token, ADA).unwrap().replayed);
    db.set("replay_window", 1);
    assert_consumed(&db, None, &token.token);
}

/// A token's own end is past by then: what was redeemed in time is answered in time.
#[test]
fn a_token_that_expired_since_is_answered_again() {
    let db = replaying();
    let mut backend = db.backend();
    let token = backend.create_for(ADA, Some(1), None).unwrap();
    let first = backend.redeem(&token.token, ADA).unwrap();
    db.wait_until_expired(token.id);
    assert_replayed(&db, None, &token.token, &first);
}

#[test]
fn another_address_or_event_is_told_what_it_was_told_before() {
    let db = replaying();
    let mut backend = db.backend();
    let event = r#"{"interactionEvent": "Register"}"#;
    let token = backend.create(ADA, event).unwrap().token;
    backend.redeem_in(Some("Register"), &token, ADA).unwrap();
    backend.create(EVE, "{}").unwrap();
    let before = db.contents();
    for event in [None, Some("SignIn"), Some("register")] {
        assert_consumed(&db, event, &token);
        backend
            .redeem_in(event, &token, EVE)
            .expect_sqlstate("OT002");
    }
    backend
        .redeem_in(Some("Register"), &token, EVE)
        .expect_sqlstate("OT002");
    let (outcome, _) = backend
        .try_redeem_in(Some("Register"), &token, EVE)
        .unwrap();
    assert_eq!(outcome, "email_mismatch");
    let mut altered = token.clone();
    let last = if altered.ends_with('0') { "1" } else { "0" };
    altered.replace_range(31.., last);
    backend
        .redeem_in(Some("Register"), &altered, ADA)
        .expect_sqlstate("OT001");
    assert_eq!(db.contents(), before);
}

/// There is nothing to answer again where nothing was kept.
#[test]
fn what_was_redeemed_before_the_setting_is_consumed() {
    let db = Database::new();
    let token = db.backend().create(ADA, "{}").unwrap().token;
    db.backend().redeem(&token, ADA).unwrap();
    let kept = "magic_link.one_time_token_status WHERE memberships IS NOT NULL OR user_created IS NOT NULL";
    assert_eq!(db.count(kept), 0);
    assert_consumed(&db, None, &token);
    db.set("replay_window", 600);
    assert_consumed(&db, None, &token);
    let token = db.backend().create(ADA, "{}").unwrap().token;
    db.backend().redeem(&token, ADA).unwrap();
    assert_eq!(db.count(kept), 1);
    db.set("replay_window", 0);
    assert_consumed(&db, None, &token);
}

#[test]
fn nobody_gets_an_answer_for_a_user_who_is_another_or_gone() {
    for since in [
        "DELETE FROM magic_link.users",
        "UPDATE magic_link.users SET email = 'lovelace@example.com'",
        "DELETE FROM magic_link.users; INSERT INTO magic_link.users (email) VALUES ('ada@example.com')",
        "UPDATE magic_link.users SET email = 'lovelace@example.com';
         INSERT INTO magic_link.users (email) VALUES ('ada@example.com')",
        "UPDATE magic_link.users SET id = gen_random_uuid()",
    ] {
        let db = replaying();
        db.organization("acme", &["member"]);
        let token = db.backend().create(ADA, JOIN_ACME).unwrap().token;
        let first = db.backend().redeem(&token, ADA).unwrap();
        assert_replayed(&db, None, &token, &first);
        db.sql(since);
        assert_consumed(&db, None, &token);
    }
}

/// An answer is words alone: who was removed since stays removed.
#[test]
fn a_replay_joins_nobody_again() {
    for since in [
        "DELETE FROM magic_link.organization_memberships",
        "DELETE FROM magic_link.organization_membership_roles",
        "DELETE FROM magic_link.organizations",
        "DELETE FROM magic_link.organization_roles",
    ] {
        let db = replaying();
        db.organization("acme", &["member"]);
        let token = db.backend().create(ADA, JOIN_ACME).unwrap().token;
        let first = db.backend().redeem(&token, ADA).unwrap();
        let expected =
            json!([{"organizationId": "acme", "status": "added", "roleIds": ["member"]}]);
        assert_eq!(first.memberships, expected);
        db.sql(since);
        assert_replayed(&db, None, &token, &first);
    }
}

#[test]
fn of_redemptions_at_once_one_is_the_first_and_all_succeed() {
    let db = replaying();
    db.organization("acme", &["member"]);
    let token = db.backend().create(ADA, JOIN_ACME).unwrap().token;
    let backends: Vec<_> = (0..8).map(|_| db.backend()).collect();
    let answers = concurrently(backends, |mut backend| backend.redeem(&token, ADA).unwrap());
    let first = answers.iter().find(|answer| !answer.replayed).unwrap();
    let replays = answers.iter().filter(|answer| answer.replayed);
    assert_eq!(replays.clone().count(), 7);
    for replay in replays {
        let expected = Redeemed {
            replayed: true,
            ..first.clone()
        };
        assert_eq!(*replay, expected);
    }
    assert_eq!(db.count("magic_link.users"), 1);
}

#[test]
fn whoever_waited_for_the_first_gets_its_answer() {
    let db = replaying();
    for commit in [true, false] {
        let token = db.backend().create(ADA, "{}").unwrap().token;
        let mut holding = db.backend();
        holding.batch_execute("BEGIN").unwrap();
        let first = holding.redeem(&token, ADA).unwrap();
        let redeem = |backend: &mut Client| backend.redeem(&token, ADA);
        let second = while_blocked(&db, db.backend(), redeem, || {
            let end = ["ROLLBACK", "COMMIT"][usize::from(commit)];
            holding.batch_execute(end).unwrap();
        });
        let second = second.unwrap();
        assert_eq!(second.replayed, commit);
        assert_eq!(second.redeemed_at == first.redeemed_at, commit);
    }
}

#[test]
fn in_a_read_only_transaction_checking_answers() {
    let db = replaying();
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap().token;
    backend.redeem(&token, ADA).unwrap();
    let mut read_only = backend
        .build_transaction()
        .read_only(true)
        .isolation_level(IsolationLevel::Serializable)
        .start()
        .unwrap();
    assert_eq!(read_only.check_in(None, &token, ADA).unwrap(), "ok");
    read_only.redeem(&token, ADA).expect_sqlstate("25006");
}

/// Where the first answer would be given again, a browser that has not got it is sent on to get it;
/// who is signed in as the token's address has nothing left to do.
#[test]
fn a_replay_is_redeemable_in_a_browser_too() {
    let refused = || ("refuse".to_owned(), Some("token_consumed".to_owned()));
    let decided = |decision: &str| (decision.to_owned(), None);
    for (window, decisions) in [
        (0, [refused(), refused(), refused(), decided("continue")]),
        (600, ["redeem", "ask", "switch", "continue"].map(decided)),
    ] {
        let db = Database::new();
        db.set("replay_window", window);
        let mut backend = db.backend();
        let token = backend.create(ADA, "{}").unwrap().token;
        backend.redeem(&token, ADA).unwrap();
        let decide = |(session, prompt): (&str, &str)| {
            let decision = backend.decide(&token, ADA, Some(session), Some(prompt));
            decision.unwrap()
        };
        let sessions = [("", ""), (EVE, ""), (EVE, "login"), (ADA, "")];
        assert_eq!(sessions.map(decide), decisions, "{window}");
        if window > 0 {
            db.sql("UPDATE magic_link.one_time_tokens SET consumed_at = consumed_at - interval '600 seconds'");
            let decision = backend.decide(&token, ADA, Some(""), None);
            assert_eq!(decision.unwrap(), refused());
            db.sql("UPDATE magic_link.one_time_tokens SET consumed_at = now(); DELETE FROM magic_link.users");
            let decision = backend.decide(&token, ADA, Some(""), None);
            assert_eq!(decision.unwrap(), refused());
        }
    }
}

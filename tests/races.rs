//! Several connections at once: one of them wins, none of them hangs, and nothing is left half done.

use std::sync::Barrier;
use std::thread;

use magic_link_harness::postgres::{Client, IsolationLevel, Transaction};
use magic_link_harness::{
    Calls, Database, Redeemed, Refused, at_once, behind, process_id, until, until_expired,
    until_waiting_for_lock,
};

const ADA: &str = "ada@example.com";

/// The context of an invitation.
const JOIN_ACME: &str = r#"{"jitOrganizationIds": ["acme"]}"#;

type Answer = Result<Redeemed, magic_link_harness::postgres::Error>;

/// Starts redeeming behind a transaction that holds the token, does `then`, and answers how it went.
fn redeem_behind(db: &Database, token: &str, then: impl FnOnce()) -> Answer {
    redeem_in_behind(db, None, token, then)
}

fn redeem_in_behind(
    db: &Database,
    interaction_event: Option<&str>,
    token: &str,
    then: impl FnOnce(),
) -> Answer {
    let redeem = |backend: &mut Client| backend.redeem_in(interaction_event, token, ADA);
    behind(db, db.backend(), redeem, then)
}

/// Redeems behind a transaction of a superuser that has run this statement, and then commits.
fn redeem_behind_commit(
    db: &Database,
    interaction_event: Option<&str>,
    token: &str,
    statement: &str,
) -> Answer {
    let mut superuser = db.superuser();
    let mut transaction = superuser.transaction().unwrap();
    transaction.execute(statement, &[]).unwrap();
    let commit = || transaction.commit().unwrap();
    redeem_in_behind(db, interaction_event, token, commit)
}

#[test]
fn of_64_redemptions_of_one_token_exactly_one_succeeds() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let issued = db.backend().create(ADA, JOIN_ACME).unwrap();
    let backends: Vec<_> = (0..64).map(|_| db.backend()).collect();

    let answers = at_once(backends, |mut backend| backend.redeem(&issued.token, ADA));

    let (successes, failures): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((successes.len(), failures.len()), (1, 63));
    for failure in failures {
        failure.refused("OT003");
    }
    for table in [
        "users",
        "organization_memberships",
        "organization_membership_roles",
    ] {
        assert_eq!(db.count(&format!("magic_link.{table}")), 1, "{table}");
    }
}

#[test]
fn of_64_tries_of_one_token_exactly_one_succeeds() {
    let db = Database::new();
    let issued = db.backend().create(ADA, "{}").unwrap();
    let backends: Vec<_> = (0..64).map(|_| db.backend()).collect();
    let mut outcomes = at_once(backends, |mut backend| {
        backend.try_redeem_in(None, &issued.token, ADA).unwrap().0
    });
    outcomes.sort();
    let mut expected = vec!["token_consumed"; 64];
    expected[0] = "ok";
    assert_eq!(outcomes, expected);
}

#[test]
fn many_tokens_of_one_new_address_make_one_user() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let mut backend = db.backend();
    let claims: Vec<_> = (0..32)
        .map(|_| {
            let issued = backend.create(ADA, JOIN_ACME).unwrap();
            (db.backend(), issued.token)
        })
        .collect();

    let answers = at_once(claims, |(mut backend, token)| {
        backend.redeem(&token, ADA).unwrap()
    });

    assert_eq!(
        answers
            .iter()
            .filter(|redeemed| redeemed.user_created)
            .count(),
        1
    );
    assert!(
        answers
            .iter()
            .all(|redeemed| redeemed.user_id == answers[0].user_id)
    );
    let added = |redeemed: &&Redeemed| redeemed.memberships[0]["status"] == "added";
    assert_eq!(answers.iter().filter(added).count(), 1);
    assert_eq!(db.count("magic_link.users"), 1);
    let consumers = db.count(&format!(
        "magic_link.one_time_tokens WHERE consumed_by = '{}'",
        answers[0].user_id
    ));
    assert_eq!(consumers, 32);
}

#[test]
fn organizations_named_in_any_order_never_deadlock() {
    let db = Database::new();
    db.organization("a", &["x", "y"]);
    db.organization("b", &["y", "x"]);
    let contexts = [
        r#"{"jitOrganizationIds": ["a", "b"], "organizationRoleIds": {"a": ["x", "y"]}}"#,
        r#"{"jitOrganizationIds": ["b", "a"], "organizationRoleIds": {"a": ["y", "x"]}}"#,
    ];
    let mut issuer = db.backend();
    let rounds: Vec<_> = (0..200)
        .map(|_| contexts.map(|context| issuer.create(ADA, context).unwrap().token))
        .collect();
    let together = Barrier::new(2);
    let answers = at_once(vec![0, 1], |connection| {
        let (mut backend, mut superuser) = (db.backend(), db.superuser());
        let redeem = |(round, tokens): (usize, &[String; 2])| {
            if connection == 0 {
                // The locks of an existing user's first membership are what could deadlock; now and
                // then both have to create the user as well.
                let forgotten = ["users", "organization_memberships"][usize::from(round % 4 > 0)];
                let forget = format!("DELETE FROM magic_link.{forgotten}");
                superuser.batch_execute(&forget).unwrap();
            }
            together.wait();
            // A panic here would leave the other one waiting for ever.
            let answer = backend.redeem(&tokens[connection], ADA);
            together.wait();
            answer
        };
        rounds.iter().enumerate().map(redeem).collect::<Vec<_>>()
    });
    for (first, second) in answers[0].iter().zip(&answers[1]) {
        let redeemed = [first.as_ref().unwrap(), second.as_ref().unwrap()];
        let memberships = |status: &str| {
            let all = redeemed.iter().map(|r| r.memberships.as_array().unwrap());
            all.flatten().filter(|m| m["status"] == status).count()
        };
        assert_eq!(
            (memberships("added"), memberships("already_member")),
            (2, 2)
        );
    }
    assert_eq!(db.count("magic_link.users"), 1);
    assert_eq!(db.count("magic_link.organization_memberships"), 2);
    assert_eq!(db.count("magic_link.organization_membership_roles"), 4);
}

#[test]
fn whoever_waited_gets_the_token_that_another_gave_back() {
    let db = Database::new();
    let issued = db.backend().create(ADA, "{}").unwrap();
    let mut first = db.backend();
    let mut transaction = first.transaction().unwrap();
    transaction.redeem(&issued.token, ADA).unwrap();
    let answer = redeem_behind(&db, &issued.token, || transaction.rollback().unwrap());
    assert!(answer.unwrap().user_created);
    assert_eq!(db.count("magic_link.users"), 1);
}

#[test]
fn whoever_waited_does_not_get_what_another_consumed() {
    let db = Database::new();
    let issued = db.backend().create(ADA, "{}").unwrap();
    let mut first = db.backend();
    let mut transaction = first.transaction().unwrap();
    transaction.redeem(&issued.token, ADA).unwrap();
    redeem_behind(&db, &issued.token, || transaction.commit().unwrap()).refused("OT003");
}

/// The clock goes on while one waits for a lock, also one that leaves the row as it was.
#[test]
fn whoever_waited_too_long_finds_the_token_expired() {
    let db = Database::new();
    let issued = db.backend().create_for(ADA, Some(1), None).unwrap();
    let mut superuser = db.superuser();
    let mut holding = superuser.transaction().unwrap();
    holding
        .execute("SELECT FROM magic_link.one_time_tokens FOR UPDATE", &[])
        .unwrap();
    let answer = redeem_behind(&db, &issued.token, || {
        until_expired(&db, issued.id);
        holding.rollback().unwrap();
    });
    answer.refused("OT005");
}

#[test]
fn whoever_waited_finds_the_token_revoked() {
    let db = Database::new();
    let issued = db.backend().create(ADA, "{}").unwrap();
    let revoke = "UPDATE magic_link.one_time_tokens SET revoked_at = clock_timestamp()";
    redeem_behind_commit(&db, None, &issued.token, revoke).refused("OT004");
}

/// An organization that is being deleted is either joined and then gone, or missing; never an error.
#[test]
fn an_organization_deleted_meanwhile_is_missing() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let issued = db.backend().create(ADA, JOIN_ACME).unwrap();
    let delete = "DELETE FROM magic_link.organizations";
    let redeemed = redeem_behind_commit(&db, None, &issued.token, delete).unwrap();
    assert_eq!(redeemed.memberships[0]["status"], "organization_missing");
    assert_eq!(db.count("magic_link.organization_memberships"), 0);
}

#[test]
fn a_role_deleted_meanwhile_is_passed_over() {
    let default_roles = JOIN_ACME;
    let named_roles = r#"{"jitOrganizationIds": ["acme"],
                          "organizationRoleIds": {"acme": ["gone", "kept"]}}"#;
    for context in [default_roles, named_roles] {
        let db = Database::new();
        db.organization("acme", &["gone", "kept"]);
        let issued = db.backend().create(ADA, context).unwrap();
        let delete = "DELETE FROM magic_link.organization_roles WHERE id = 'gone'";
        let redeemed = redeem_behind_commit(&db, None, &issued.token, delete).unwrap();
        let role_ids = &redeemed.memberships[0]["roleIds"];
        assert_eq!(role_ids, &serde_json::json!(["kept"]), "{context}");
    }
}

/// Whoever holds one role and wants another gets it: a redemption that waits has none of later order.
#[test]
fn roles_are_locked_in_the_order_of_their_ids() {
    let db = Database::new();
    db.organization("acme", &["z", "a"]);
    let token = db.backend().create(ADA, JOIN_ACME).unwrap().token;
    let mut superuser = db.superuser();
    let mut holding = superuser.transaction().unwrap();
    let lock = "SELECT FROM magic_link.organization_roles WHERE id = $1 FOR UPDATE NOWAIT";
    assert_eq!(holding.execute(lock, &[&"a"]).unwrap(), 1);
    let redeemed = redeem_behind(&db, &token, || {
        assert_eq!(holding.execute(lock, &[&"z"]).unwrap(), 1);
        holding.commit().unwrap();
    });
    let role_ids = redeemed.unwrap().memberships[0]["roleIds"].clone();
    assert_eq!(role_ids, serde_json::json!(["a", "z"]));
}

#[test]
fn a_membership_stays_while_roles_are_granted_to_it() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    db.roles(&["editor"]);
    let mut backend = db.backend();
    let one_more =
        r#"{"jitOrganizationIds": ["acme"], "organizationRoleIds": {"acme": ["editor"]}}"#;
    let [first, second] =
        [JOIN_ACME, one_more].map(|context| backend.create(ADA, context).unwrap().token);
    backend.redeem(&first, ADA).unwrap();

    let mut superuser = db.superuser();
    let mut holding = superuser.transaction().unwrap();
    let lock = "SELECT FROM magic_link.organization_roles FOR UPDATE";
    holding.execute(lock, &[]).unwrap();
    let mut deleter = db.superuser();
    let deleting = process_id(&mut deleter);
    let redeemed = redeem_behind(&db, &second, || {
        thread::scope(|scope| {
            let delete = "DELETE FROM magic_link.organization_memberships";
            let deletion = scope.spawn(move || deleter.execute(delete, &[]));
            until_waiting_for_lock(&db, deleting);
            holding.rollback().unwrap();
            assert_eq!(deletion.join().unwrap().unwrap(), 1);
        });
    });
    let redeemed = redeemed.unwrap();
    assert_eq!(redeemed.memberships[0]["status"], "already_member");
    assert_eq!(db.count("magic_link.organization_membership_roles"), 0);
}

/// A user created by another redemption that was rolled back is created by the one that waited.
#[test]
fn a_user_that_another_redemption_took_back_is_created() {
    let db = Database::new();
    let mut first = db.backend();
    let issue = || db.backend().create(ADA, "{}").unwrap().token;
    let (token, another) = (issue(), issue());
    let mut transaction = first.transaction().unwrap();
    transaction.redeem(&token, ADA).unwrap();
    let answer = redeem_behind(&db, &another, || transaction.rollback().unwrap());
    assert!(answer.unwrap().user_created);
}

/// An application may create the user itself in the same moment.
#[test]
fn a_user_that_the_application_created_meanwhile_is_found() {
    let db = Database::new();
    let issued = db.backend().create(ADA, "{}").unwrap();
    let create = format!("INSERT INTO magic_link.users (email) VALUES ('{ADA}')");
    let redeemed = redeem_behind_commit(&db, None, &issued.token, &create).unwrap();
    assert!(!redeemed.user_created);
    let consumer = "SELECT consumed_by FROM magic_link.one_time_tokens";
    assert_eq!(db.value::<String>(consumer, &[]), redeemed.user_id);
}

/// A known user, who is deleted while a redemption in this event waits for it.
fn redeem_while_the_user_is_deleted(event: &str) -> (Database<'static>, String, Answer) {
    let db = Database::new();
    db.organization("acme", &["member"]);
    db.sql(&format!(
        "INSERT INTO magic_link.users (email) VALUES ('{ADA}')"
    ));
    let token = db.backend().create(ADA, JOIN_ACME).unwrap().token;
    let delete = "DELETE FROM magic_link.users";
    let answer = redeem_behind_commit(&db, Some(event), &token, delete);
    (db, token, answer)
}

/// Nobody becomes a member who is gone: the user is created anew.
#[test]
fn a_user_deleted_meanwhile_is_created_anew() {
    let (db, _, answer) = redeem_while_the_user_is_deleted("Register");
    let redeemed = answer.unwrap();
    assert!(redeemed.user_created);
    assert_eq!(redeemed.memberships[0]["status"], "added");
    let user: String = db.value("SELECT id::text FROM magic_link.users", &[]);
    let consumer: String = db.value("SELECT consumed_by FROM magic_link.one_time_tokens", &[]);
    assert_eq!((&user, &consumer), (&redeemed.user_id, &redeemed.user_id));
}

/// Where a user may not be created, there is none, and the token is as it was.
#[test]
fn a_sign_in_of_a_user_deleted_meanwhile_finds_no_user() {
    let (db, _, answer) = redeem_while_the_user_is_deleted("SignIn");
    answer.refused("OT007");
    assert_eq!(
        db.count("magic_link.one_time_token_status WHERE status = 'active'"),
        1
    );
    assert_eq!(db.count("magic_link.users"), 0);
}

/// A transaction that sees all as it is now, whatever others do.
fn one_snapshot(client: &mut Client) -> Transaction<'_> {
    let mut transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .start()
        .unwrap();
    transaction
        .query_one("SELECT count(*) FROM magic_link.session_switch", &[])
        .unwrap();
    transaction
}

/// A serializable application gets its retry, not a second redemption.
#[test]
fn a_redemption_with_an_older_snapshot_is_to_be_tried_again() {
    let db = Database::new();
    let mut backend = db.backend();
    let issued = backend.create(ADA, "{}").unwrap();
    let mut older = db.backend();
    let mut transaction = one_snapshot(&mut older);
    backend.redeem(&issued.token, ADA).unwrap();
    transaction.redeem(&issued.token, ADA).refused("40001");
    transaction.rollback().unwrap();
    older.redeem(&issued.token, ADA).refused("OT003");
}

#[test]
fn a_backend_that_goes_away_leaves_the_token_as_it_was() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let issued = db.backend().create(ADA, JOIN_ACME).unwrap();
    let before = db.contents();
    let leave: [&dyn Fn(Client, i32); 2] = [&|client, _| drop(client), &|_client, process_id| {
        let killed: bool = db.value("SELECT pg_terminate_backend($1)", &[&process_id]);
        assert!(killed);
    }];
    for leave in leave {
        let mut backend = db.backend();
        let left = process_id(&mut backend);
        backend.batch_execute("BEGIN").unwrap();
        backend.redeem(&issued.token, ADA).unwrap();
        leave(backend, left);
        let mut observer = db.superuser();
        until("the backend is gone", || {
            observer
                .query_one(
                    "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)",
                    &[&left],
                )
                .unwrap()
                .get(0)
        });
        assert_eq!(db.contents(), before);
    }
    assert!(
        db.backend()
            .redeem(&issued.token, ADA)
            .unwrap()
            .user_created
    );
}

#[test]
fn a_redemption_that_is_cancelled_leaves_the_token_as_it_was() {
    let db = Database::new();
    let issued = db.backend().create(ADA, "{}").unwrap();
    let before = db.contents();
    let mut superuser = db.superuser();
    let mut holding = superuser.transaction().unwrap();
    holding
        .execute("SELECT FROM magic_link.one_time_tokens FOR UPDATE", &[])
        .unwrap();

    let cancel = || {
        let cancelled: i64 = db.value(
            "SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM pg_stat_activity
              WHERE datname = current_database() AND usename = $1",
            &[&db.backend_role()],
        );
        assert_eq!(cancelled, 1);
    };
    redeem_behind(&db, &issued.token, cancel).refused("57014");

    holding.rollback().unwrap();
    assert_eq!(db.contents(), before);
    assert!(db.backend().redeem(&issued.token, ADA).is_ok());
}

/// In one snapshot a row that somebody deleted since is still seen, beside the one that was put in its place.
#[test]
fn a_default_role_that_was_put_back_is_granted_once() {
    let database = Database::new();
    database.organization("acme", &["member"]);
    let issued = database.backend().create(ADA, JOIN_ACME).unwrap();
    let mut superuser = database.superuser();
    let mut redeeming = one_snapshot(&mut superuser);
    database.sql("DELETE FROM magic_link.organization_jit_roles");
    redeeming
        .batch_execute("INSERT INTO magic_link.organization_jit_roles VALUES ('acme', 'member')")
        .unwrap();
    let memberships = redeeming.redeem(&issued.token, ADA).unwrap().memberships;
    assert_eq!(
        memberships[0]["roleIds"],
        serde_json::json!(["member"]),
        "{memberships}"
    );
    redeeming.commit().unwrap();
}

/// The same of a user: which of the two it is, only a new snapshot says.
#[test]
fn a_user_who_was_put_back_is_not_taken_for_the_one_that_was_deleted() {
    let database = Database::new();
    database.sql("INSERT INTO magic_link.users (email) VALUES ('ada@example.com')");
    let issued = database.backend().create(ADA, "{}").unwrap();
    let mut superuser = database.superuser();
    let mut redeeming = one_snapshot(&mut superuser);
    database.sql("DELETE FROM magic_link.users");
    redeeming
        .batch_execute("INSERT INTO magic_link.users (email) VALUES ('ada@example.com')")
        .unwrap();
    redeeming.redeem(&issued.token, ADA).refused("40001");
    drop(redeeming);
    assert!(
        database
            .backend()
            .redeem(&issued.token, ADA)
            .unwrap()
            .user_created
    );
}

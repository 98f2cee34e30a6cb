//! Concurrent connections: one of them succeeds, none of them hangs or deadlocks, and nothing is left half done.

use std::sync::Barrier;
use std::thread;

use magic_link_harness::postgres::{Client, IsolationLevel, Transaction};
use magic_link_harness::{
    Calls, Database, ExpectSqlState, Redeemed, concurrently, process_id, wait_until, while_blocked,
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
    while_blocked(db, db.backend(), redeem, then)
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

    let answers = concurrently(backends, |mut backend| backend.redeem(&issued.token, ADA));

    let (successes, failures): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((successes.len(), failures.len()), (1, 63));
    for failure in failures {
        failure.expect_sqlstate("OT003");
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
    let mut outcomes = concurrently(backends, |mut backend| {
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

    let answers = concurrently(claims, |(mut backend, token)| {
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
    let answers = concurrently(vec![0, 1], |connection| {
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
    redeem_behind(&db, &issued.token, || transaction.commit().unwrap()).expect_sqlstate("OT003");
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
        db.wait_until_expired(issued.id);
        holding.rollback().unwrap();
    });
    answer.expect_sqlstate("OT005");
}

#[test]
fn whoever_waited_finds_the_token_revoked() {
    let db = Database::new();
    let issued = db.backend().create(ADA, "{}").unwrap();
    let revoke = "UPDATE magic_link.one_time_tokens SET revoked_at = clock_timestamp()";
    redeem_behind_commit(&db, None, &issued.token, revoke).expect_sqlstate("OT004");
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
            db.wait_until_blocked(deleting);
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
    answer.expect_sqlstate("OT007");
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
    transaction
        .redeem(&issued.token, ADA)
        .expect_sqlstate("40001");
    transaction.rollback().unwrap();
    older.redeem(&issued.token, ADA).expect_sqlstate("OT003");
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
        wait_until("the backend is gone", || {
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
    redeem_behind(&db, &issued.token, cancel).expect_sqlstate("57014");

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
    redeeming
        .redeem(&issued.token, ADA)
        .expect_sqlstate("40001");
    drop(redeeming);
    assert!(
        database
            .backend()
            .redeem(&issued.token, ADA)
            .unwrap()
            .user_created
    );
}

const EVE: &str = "eve@example.com";

/// What a click came to: a redemption, or why there is none, by its SQLSTATE or its outcome.
type Clicked = Result<Redeemed, String>;
type Click = fn(&mut Client, Option<&str>, &str) -> Clicked;

const CLICKS: [Click; 2] = [click_redeem, click_try];

fn click_redeem(client: &mut Client, event: Option<&str>, token: &str) -> Clicked {
    client.redeem_in(event, token, ADA).map_err(sqlstate)
}

fn click_try(client: &mut Client, event: Option<&str>, token: &str) -> Clicked {
    let (outcome, redeemed) = client.try_redeem_in(event, token, ADA).map_err(sqlstate)?;
    redeemed.ok_or(outcome)
}

fn sqlstate(error: magic_link_harness::postgres::Error) -> String {
    let code = error.code().expect("the connection failed");
    code.code().to_owned()
}

/// Whether the click is refused for want of a user.
fn finds_no_user(clicked: &Clicked) -> bool {
    matches!(clicked, Err(why) if why == "OT007" || why == "user_not_found")
}

/// A database with the accounts of ada and eve, and the organization acme.
fn two_accounts() -> Database<'static> {
    let db = Database::new();
    db.organization("acme", &["member"]);
    db.sql(&format!(
        "INSERT INTO magic_link.users (email) VALUES ('{ADA}'), ('{EVE}')"
    ));
    db
}

fn user_with(db: &Database, email: &str) -> String {
    let user = "SELECT id::text FROM magic_link.users WHERE email = $1";
    db.value(user, &[&email])
}

/// Ada's account gets another address, and eve's account gets ada's.
fn move_address() -> String {
    format!(
        "UPDATE magic_link.users SET email = 'other@example.com' WHERE email = '{ADA}';
         UPDATE magic_link.users SET email = '{ADA}' WHERE email = '{EVE}'"
    )
}

/// The first of two clicks. Where it would join, it would keep the user as well until it is rolled back: there
/// only the token is held.
fn first_click(transaction: &mut Transaction, token: &str, context: &str) {
    if context == "{}" {
        transaction.redeem(token, ADA).unwrap();
        return;
    }
    let hold = "SELECT FROM magic_link.one_time_tokens FOR UPDATE";
    assert_eq!(transaction.execute(hold, &[]).unwrap(), 1);
}

/// Issues a token, and clicks behind a first click that is rolled back once `meanwhile` is committed.
fn second_click(
    db: &Database,
    context: &str,
    meanwhile: &str,
    click: impl FnOnce(&mut Client, &str) -> Clicked + Send,
) -> Clicked {
    let token = db.backend().create(ADA, context).unwrap().token;
    let mut first = db.superuser();
    let mut clicking = first.transaction().unwrap();
    first_click(&mut clicking, &token, context);
    let second = |client: &mut Client| click(client, &token);
    while_blocked(db, db.backend(), second, || {
        db.sql(meanwhile);
        clicking.rollback().unwrap();
    })
}

#[track_caller]
fn assert_only_member(db: &Database, context: &str, redeemed: &Redeemed) {
    let members: Vec<String> = db.value(
        "SELECT coalesce(array_agg(user_id::text), '{}') FROM magic_link.organization_memberships",
        &[],
    );
    let joins = context == JOIN_ACME;
    let expected: &[String] = if joins {
        std::slice::from_ref(&redeemed.user_id)
    } else {
        &[]
    };
    assert_eq!(members, expected);
    let consumer: String = db.value("SELECT consumed_by FROM magic_link.one_time_tokens", &[]);
    assert_eq!(consumer, redeemed.user_id);
}

/// Who waited for the token signs in as the account that has the address by then, not as the one that had it before.
#[test]
fn whoever_waited_gets_the_account_that_has_the_address_now() {
    for context in ["{}", JOIN_ACME] {
        for click in CLICKS {
            let db = two_accounts();
            let [ada, eve] = [ADA, EVE].map(|email| user_with(&db, email));
            let clicked = second_click(&db, context, &move_address(), |client, token| {
                click(client, None, token)
            });
            let redeemed = clicked.unwrap();
            assert_eq!(redeemed.user_id, eve, "{context}: ada's is {ada}");
            assert!(!redeemed.user_created);
            assert_only_member(&db, context, &redeemed);
        }
    }
}

/// The same of an account that nobody has the address of any more.
#[test]
fn whoever_waited_gets_an_account_of_today_where_the_user_was_deleted() {
    for context in ["{}", JOIN_ACME] {
        for (click, event) in CLICKS
            .into_iter()
            .flat_map(|click| [(click, None), (click, Some("Register"))])
        {
            let db = two_accounts();
            let before = user_with(&db, ADA);
            let delete = format!("DELETE FROM magic_link.users WHERE email = '{ADA}'");
            let clicked = second_click(&db, context, &delete, |client, token| {
                click(client, event, token)
            });
            let redeemed = clicked.unwrap();
            assert!(redeemed.user_created, "{context} {event:?}");
            assert_ne!(redeemed.user_id, before);
            assert_eq!(redeemed.user_id, user_with(&db, ADA));
            assert_only_member(&db, context, &redeemed);
        }
    }
}

#[test]
fn whoever_waited_to_sign_in_finds_no_user_where_it_was_deleted() {
    for context in ["{}", JOIN_ACME] {
        for (click, event) in CLICKS
            .into_iter()
            .flat_map(|click| [(click, "SignIn"), (click, "ForgotPassword")])
        {
            let db = two_accounts();
            let delete = format!("DELETE FROM magic_link.users WHERE email = '{ADA}'");
            let clicked = second_click(&db, context, &delete, |client, token| {
                click(client, Some(event), token)
            });
            assert!(finds_no_user(&clicked), "{context} {event}: {clicked:?}");
            let active = "magic_link.one_time_token_status WHERE status = 'active'";
            assert_eq!(db.count(active), 1);
            assert_eq!(db.count("magic_link.users"), 1);
        }
    }
}

type InTransaction = fn(&mut Transaction, &str) -> Clicked;

fn redeem_within(transaction: &mut Transaction, token: &str) -> Clicked {
    transaction.redeem(token, ADA).map_err(sqlstate)
}

fn try_to_sign_in_within(transaction: &mut Transaction, token: &str) -> Clicked {
    let tried = transaction.try_redeem_in(Some("SignIn"), token, ADA);
    let (outcome, redeemed) = tried.map_err(sqlstate)?;
    redeemed.ok_or(outcome)
}

/// Clicks in a transaction whose snapshot is of now.
fn click_in_one_snapshot(
    client: &mut Client,
    level: IsolationLevel,
    token: &str,
    click: InTransaction,
) -> Clicked {
    let mut transaction = client
        .build_transaction()
        .isolation_level(level)
        .start()
        .unwrap();
    transaction.query_one("SELECT 1", &[]).unwrap();
    click(&mut transaction, token)
}

/// An older snapshot cannot say who has the address now, nor that nobody has.
fn assert_to_be_tried_again(context: &str, meanwhile: &str) {
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        for click in [redeem_within, try_to_sign_in_within] {
            let db = two_accounts();
            let clicked = second_click(&db, context, meanwhile, |client, token| {
                click_in_one_snapshot(client, level, token, click)
            });
            assert_eq!(clicked.unwrap_err(), "40001", "{context} {meanwhile}");
            let active = "magic_link.one_time_token_status WHERE status = 'active'";
            assert_eq!(db.count(active), 1);
            assert_eq!(db.count("magic_link.organization_memberships"), 0);
        }
    }
}

#[test]
fn whoever_waited_with_a_snapshot_of_before_a_move_is_to_try_again() {
    for context in ["{}", JOIN_ACME] {
        assert_to_be_tried_again(context, &move_address());
    }
}

#[test]
fn whoever_waited_with_a_snapshot_of_before_a_deletion_is_to_try_again() {
    let delete = format!("DELETE FROM magic_link.users WHERE email = '{ADA}'");
    for context in ["{}", JOIN_ACME] {
        assert_to_be_tried_again(context, &delete);
    }
}

/// Clicks to join while somebody holds the user's row, changes it by these statements, and commits.
fn click_behind_the_user(
    db: &Database,
    statements: &str,
    click: impl FnOnce(&mut Client, &str) -> Clicked + Send,
) -> Clicked {
    let token = db.backend().create(ADA, JOIN_ACME).unwrap().token;
    let mut superuser = db.superuser();
    let mut holding = superuser.transaction().unwrap();
    let hold = "SELECT FROM magic_link.users WHERE email = $1 FOR UPDATE";
    assert_eq!(holding.execute(hold, &[&ADA]).unwrap(), 1);
    let waiting = |client: &mut Client| click(client, &token);
    while_blocked(db, db.backend(), waiting, || {
        holding.batch_execute(statements).unwrap();
        holding.commit().unwrap();
    })
}

#[test]
fn the_users_address_is_compared_again_behind_the_users_lock() {
    for click in CLICKS {
        let db = two_accounts();
        let eve = user_with(&db, EVE);
        let clicked = click_behind_the_user(&db, &move_address(), |client, token| {
            click(client, None, token)
        });
        let redeemed = clicked.unwrap();
        assert_eq!((&redeemed.user_id, redeemed.user_created), (&eve, false));
        assert_only_member(&db, JOIN_ACME, &redeemed);
    }
}

/// The account is still there, and nobody has the address.
#[test]
fn a_user_whose_address_left_it_meanwhile_is_not_the_one() {
    let leave =
        format!("UPDATE magic_link.users SET email = 'other@example.com' WHERE email = '{ADA}'");
    for click in CLICKS {
        let db = two_accounts();
        let ada = user_with(&db, ADA);
        let clicked =
            click_behind_the_user(&db, &leave, |client, token| click(client, None, token));
        let redeemed = clicked.unwrap();
        assert!(redeemed.user_created && redeemed.user_id != ada);
        assert_eq!(redeemed.user_id, user_with(&db, ADA));
        assert_only_member(&db, JOIN_ACME, &redeemed);

        let db = two_accounts();
        let clicked = click_behind_the_user(&db, &leave, |client, token| {
            click(client, Some("SignIn"), token)
        });
        assert!(finds_no_user(&clicked), "{clicked:?}");
    }
}

/// What does not touch the address does not matter.
#[test]
fn a_user_that_was_held_and_kept_its_address_is_the_one() {
    for statements in [
        "",
        "UPDATE magic_link.users SET created_at = created_at - interval '1 day'",
    ] {
        let db = two_accounts();
        let ada = user_with(&db, ADA);
        let clicked = click_behind_the_user(&db, statements, |client, token| {
            click_redeem(client, None, token)
        });
        assert_eq!(clicked.unwrap().user_id, ada);
    }
}

#[test]
fn a_user_that_moved_behind_an_older_snapshot_is_to_be_looked_up_again() {
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let db = two_accounts();
        let clicked = click_behind_the_user(&db, &move_address(), |client, token| {
            click_in_one_snapshot(client, level, token, redeem_within)
        });
        assert_eq!(clicked.unwrap_err(), "40001");
    }
}

type Moment = std::time::SystemTime;

/// Calls behind a transaction that holds all tokens; answers the call's answer, and a moment at which it waited.
fn behind_all_tokens<T: Send>(
    db: &Database,
    client: Client,
    call: impl FnOnce(&mut Client) -> T + Send,
) -> (T, Moment) {
    let mut superuser = db.superuser();
    let mut holding = superuser.transaction().unwrap();
    let hold = "SELECT FROM magic_link.one_time_tokens FOR UPDATE";
    assert!(holding.execute(hold, &[]).unwrap() > 0);
    let mut waited = None;
    let answer = while_blocked(db, client, call, || {
        waited = Some(db.value("SELECT clock_timestamp()", &[]));
        holding.rollback().unwrap();
    });
    (answer, waited.unwrap())
}

fn moment_of(db: &Database, column: &str) -> Moment {
    db.value(
        &format!("SELECT min({column}) FROM magic_link.one_time_tokens"),
        &[],
    )
}

#[test]
fn a_token_is_consumed_at_a_moment_after_the_wait() {
    for context in ["{}", JOIN_ACME] {
        for click in CLICKS {
            let db = two_accounts();
            let token = db.backend().create(ADA, context).unwrap().token;
            let (clicked, waited) =
                behind_all_tokens(&db, db.backend(), |client| click(client, None, &token));
            let redeemed_at = clicked.unwrap().redeemed_at;
            assert_eq!(redeemed_at, moment_of(&db, "consumed_at"));
            assert!(redeemed_at > waited, "{redeemed_at:?} {waited:?}");
        }
    }
}

#[test]
fn a_failed_attempt_revokes_at_a_moment_after_the_wait() {
    let db = Database::new();
    db.set("max_failed_attempts", 1);
    let token = db.backend().create(ADA, "{}").unwrap().token;
    let (tried, waited) = behind_all_tokens(&db, db.backend(), |backend| {
        backend.try_redeem_in(None, &token, EVE)
    });
    assert_eq!(tried.unwrap().0, "email_mismatch");
    assert!(moment_of(&db, "revoked_at") > waited);
}

/// A new token is not older than what it waited for.
#[test]
fn a_token_is_created_at_a_moment_after_what_it_revokes() {
    let db = Database::new();
    db.backend().create(ADA, "{}").unwrap();
    db.set("revoke_previous", "on");
    let (issued, waited) =
        behind_all_tokens(&db, db.backend(), |backend| backend.create(ADA, "{}"));
    let issued = issued.unwrap();
    assert!(issued.created_at > waited);
    assert!(moment_of(&db, "revoked_at") <= issued.created_at);
}

#[test]
fn a_token_is_created_at_a_moment_after_the_wait_for_its_address() {
    type Create = fn(&mut Client) -> Moment;
    let creates: [Create; 2] = [
        |client| client.create(ADA, "{}").unwrap().created_at,
        |client| client.create_all(&[EVE, ADA], "{}").unwrap()[0].created_at,
    ];
    for create in creates {
        let db = Database::new();
        db.set("max_active_tokens", 5);
        let mut first = db.backend();
        let mut creating = first.transaction().unwrap();
        creating.create(ADA, "{}").unwrap();
        let mut waited = None;
        let created_at = while_blocked(&db, db.backend(), create, || {
            waited = Some(db.value("SELECT clock_timestamp()", &[]));
            creating.commit().unwrap();
        });
        assert!(created_at > waited.unwrap());
    }
}

const RENAME_ACME: &str = "UPDATE magic_link.organizations SET id = 'globex'";

#[test]
fn an_organization_renamed_meanwhile_is_missing() {
    for known in [false, true] {
        let db = if known {
            two_accounts()
        } else {
            Database::new()
        };
        if !known {
            db.organization("acme", &["member"]);
        }
        let issued = db.backend().create(ADA, JOIN_ACME).unwrap();
        let redeemed = redeem_behind_commit(&db, None, &issued.token, RENAME_ACME).unwrap();
        let expected = serde_json::json!(
            [{"organizationId": "acme", "status": "organization_missing", "roleIds": []}]
        );
        assert_eq!(redeemed.memberships, expected);
        assert_eq!(db.count("magic_link.organization_memberships"), 0);
    }
}

#[test]
fn a_default_role_renamed_meanwhile_is_granted_by_its_new_id() {
    // Before those that are granted already, and behind them.
    for new in ["aaa", "zzz"] {
        for known in [false, true] {
            let db = if known {
                two_accounts()
            } else {
                Database::new()
            };
            db.organization("initech", &["editor", "member", "viewer"]);
            let join = r#"{"jitOrganizationIds": ["initech"]}"#;
            let issued = db.backend().create(ADA, join).unwrap();
            let rename = format!(
                "UPDATE magic_link.organization_roles SET id = '{new}' WHERE id = 'member'"
            );
            let redeemed = redeem_behind_commit(&db, None, &issued.token, &rename).unwrap();
            let mut roles = ["editor", new, "viewer"];
            roles.sort_unstable();
            assert_eq!(redeemed.memberships[0]["roleIds"], serde_json::json!(roles));
            let held: Vec<String> = db.value(
                "SELECT array_agg(organization_role_id ORDER BY organization_role_id) FROM magic_link.organization_membership_roles",
                &[],
            );
            assert_eq!(held, roles);
        }
    }
}

/// The token does not name it, so there is nothing to miss.
#[test]
fn an_organization_of_the_domain_that_is_renamed_meanwhile_is_joined_by_its_new_id() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    db.sql("INSERT INTO magic_link.organization_jit_email_domains VALUES ('acme', 'example.com')");
    let issued = db.backend().create(ADA, "{}").unwrap();
    let redeemed = redeem_behind_commit(&db, None, &issued.token, RENAME_ACME).unwrap();
    let expected = serde_json::json!(
        [{"organizationId": "globex", "status": "added", "roleIds": ["member"]}]
    );
    assert_eq!(redeemed.memberships, expected);
    let member: String = db.value(
        "SELECT organization_id FROM magic_link.organization_memberships",
        &[],
    );
    assert_eq!(member, "globex");
}

/// A connection that may call the functions of a backend and those of a DBA.
fn application(db: &Database) -> Client {
    let name = db.role_name("application");
    db.sql(&format!(
        "DO $$BEGIN IF to_regrole('{name}') IS NULL THEN CREATE ROLE {name} LOGIN; END IF; END$$;
         GRANT {}, {} TO {name}",
        db.backend_role(),
        db.admin_role()
    ));
    db.connect_as(&name)
}

/// What somebody does with a token, in a transaction in which it creates another for the address.
type Operation = fn(&mut Transaction, &magic_link_harness::Issued);

const OPERATIONS: [(&str, Operation); 4] = [
    ("redeem", |transaction, issued| {
        transaction.redeem(&issued.token, ADA).unwrap();
    }),
    ("revoke", |transaction, issued| {
        assert_eq!(transaction.revoke(issued.id).unwrap(), "revoked");
    }),
    ("delete", |transaction, issued| {
        assert!(transaction.delete(issued.id).unwrap());
    }),
    ("try_redeem with another address", |transaction, issued| {
        let tried = transaction.try_redeem_in(None, &issued.token, EVE);
        assert_eq!(tried.unwrap().0, "email_mismatch");
    }),
];

/// Creates for the address, and then asks for the token that another transaction may have.
fn create_and_redeem(client: &mut Client, token: &str) -> Result<String, String> {
    let mut transaction = client.transaction().map_err(sqlstate)?;
    transaction.create(ADA, "{}").map_err(sqlstate)?;
    let (outcome, _) = transaction
        .try_redeem_in(None, token, ADA)
        .map_err(sqlstate)?;
    transaction.commit().map_err(sqlstate)?;
    Ok(outcome)
}

/// Under a limit whatever is done with a token takes its address's lock first, as creating does: they cannot
/// meet crosswise (40P01).
#[test]
fn creating_after_another_operation_on_the_address_does_not_deadlock() {
    for (setting, value) in [("revoke_previous", "on"), ("max_active_tokens", "9")] {
        for (name, operation) in OPERATIONS {
            let db = Database::new();
            let issued = db.backend().create(ADA, "{}").unwrap();
            db.set(setting, value);
            let mut first = application(&db);
            let mut doing = first.transaction().unwrap();
            operation(&mut doing, &issued);
            let second = |client: &mut Client| create_and_redeem(client, &issued.token);
            let outcome = while_blocked(&db, application(&db), second, || {
                doing.create(ADA, "{}").unwrap();
                doing.commit().unwrap();
            });
            let expected = match (name, setting) {
                ("redeem", _) => "token_consumed",
                ("delete", _) => "token_not_found",
                ("try_redeem with another address", "max_active_tokens") => "ok",
                _ => "token_revoked",
            };
            assert_eq!(outcome.as_deref(), Ok(expected), "{setting} {name}");
        }
    }
}

/// A connection that waits for nobody: what is held is 55P03.
fn with_lock_timeout(mut client: Client) -> Client {
    client.batch_execute("SET lock_timeout = '1ms'").unwrap();
    client
}

/// The columns of the one advisory lock that a session has.
fn held_by(db: &Database, process: i32) -> [u32; 4] {
    let mut superuser = db.superuser();
    let held = superuser.query_one(
        "SELECT database, classid, objid, objsubid::int4 FROM pg_locks WHERE locktype = 'advisory' AND pid = $1",
        &[&process],
    );
    let held = held.expect("not one lock");
    let objsubid: i32 = held.get(3);
    [held.get(0), held.get(1), held.get(2), objsubid as u32]
}

/// Takes every advisory lock whose key can be made of these columns; false where one of them is held.
fn take_all(client: &mut Client, columns: [u32; 4]) -> bool {
    let mut took_all = true;
    for one in columns {
        for other in columns {
            let pair = (one as i32, other as i32);
            let whole = (i64::from(one) << 32) | i64::from(other);
            for shared in ["", "_shared"] {
                let take = format!(
                    "SELECT pg_try_advisory_lock{shared}($1::int4, $2::int4) AND pg_try_advisory_lock{shared}($3::int8)
                        AND pg_try_advisory_lock{shared}($3::int8 & 4294967295)"
                );
                let row = client.query_one(&take, &[&pair.0, &pair.1, &whole]);
                took_all &= row.unwrap().get::<_, bool>(0);
            }
        }
    }
    took_all
}

#[test]
fn no_role_holds_up_a_creation_by_advisory_locks() {
    let db = Database::new();
    db.set("max_active_tokens", 9);
    let mut ungranted = db.connect_as(&db.role("ungranted", "LOGIN"));
    let mut creator = db.backend();
    let process = process_id(&mut creator);
    let mut creating = creator.transaction().unwrap();
    creating.create(ADA, "{}").unwrap();
    let columns = held_by(&db, process);
    assert!(take_all(&mut ungranted, columns), "{columns:?}");
    // Nor does its own session give it up before the transaction's end.
    let give_up = "SELECT pg_advisory_unlock_all()";
    creating.batch_execute(give_up).unwrap();
    assert_eq!(held_by(&db, process), columns);
    let mut another = with_lock_timeout(db.backend());
    another.create(ADA, "{}").expect_sqlstate("55P03");
    creating.commit().unwrap();
    assert!(another.create(ADA, "{}").is_ok());
    assert!(another.create_all(&[ADA, EVE], "{}").is_ok());
}

#[test]
fn two_addresses_do_not_wait_for_each_other() {
    for (setting, value) in [("revoke_previous", "on"), ("max_active_tokens", "9")] {
        let db = Database::new();
        db.set(setting, value);
        let mut first = db.backend();
        let mut creating = first.transaction().unwrap();
        creating.create(ADA, "{}").unwrap();
        let mut another = with_lock_timeout(db.backend());
        let issued = another.create(EVE, "{}").unwrap();
        assert!(another.redeem(&issued.token, EVE).is_ok());
        another.create(ADA, "{}").expect_sqlstate("55P03");
        creating.commit().unwrap();
    }
}

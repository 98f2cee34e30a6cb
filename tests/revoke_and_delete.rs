//! Revoking and deleting tokens, as an admin role that is no superuser.

use std::time::SystemTime;

use magic_link_harness::postgres::{Client, Error};
use magic_link_harness::{Calls, Database, ExpectSqlState, Issued, while_blocked};

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";

/// A token's end, if any, and who brought it about.
type End = (Option<SystemTime>, Option<String>);

fn end_of(db: &Database, token: &Issued, end: &str) -> End {
    let row = db
        .superuser()
        .query_one(
            &format!(
                "SELECT {end}_at, {end}_by FROM magic_link.one_time_token_status WHERE id = $1"
            ),
            &[&token.id],
        )
        .unwrap();
    (row.get(0), row.get(1))
}

fn issue(db: &Database) -> Issued {
    db.backend().create(ADA, "{}").unwrap()
}

const EXPIRED: &str =
    "created_at = created_at - interval '1 day', expires_at = expires_at - interval '1 day'";

#[test]
fn revoking_ends_an_active_token_for_good() {
    let db = Database::new();
    let token = issue(&db);
    let before: SystemTime = db.value("SELECT clock_timestamp()", &[]);
    assert_eq!(db.admin().revoke(token.id).unwrap(), "revoked");
    let after: SystemTime = db.value("SELECT clock_timestamp()", &[]);

    let (revoked_at, revoked_by) = end_of(&db, &token, "revoked");
    assert!((before..=after).contains(&revoked_at.unwrap()));
    assert_eq!(revoked_by, Some(db.admin_role()));
    let mut backend = db.backend();
    backend.redeem(&token.token, ADA).expect_sqlstate("OT004");
    let try_redeem = backend.try_redeem_in(None, &token.token, ADA).unwrap();
    assert_eq!(try_redeem, ("token_revoked".to_owned(), None));
}

/// A token ends once: what came later changes neither when nor by whom.
#[test]
fn revoking_leaves_what_has_ended_as_it_was() {
    let db = Database::new();
    #[rustfmt::skip]
    let rows = [
        ("consumed_at = clock_timestamp(), consumed_by = 'somebody'", "consumed"),
        ("revoked_at = clock_timestamp() - interval '1 hour', revoked_by = 'somebody'", "revoked"),
        // By hand, and nobody said who.
        ("revoked_at = clock_timestamp() - interval '1 hour'", "revoked"),
        (EXPIRED, "expired"),
    ];
    for (change, status) in rows {
        for also in ["", EXPIRED] {
            let token = issue(&db);
            db.change(token.id, change);
            if !also.is_empty() {
                db.change(token.id, also);
            }
            let before = db.contents();
            for mut client in [db.admin(), db.superuser()] {
                assert_eq!(client.revoke(token.id).unwrap(), status, "{change}");
            }
            assert_eq!(db.admin().revoke_all(ADA, None).unwrap(), 0, "{change}");
            assert_eq!(db.contents(), before, "{change}");
        }
    }
}

/// The functions run as their owner, and the callers of other functions as theirs; the role that
/// logged in is who did it.
#[test]
fn the_role_that_logged_in_has_revoked() {
    let db = Database::new();
    let (admin, backend) = (db.admin_role(), db.backend_role());
    let group = db.role("group", "NOLOGIN");
    db.sql(&format!(
        "GRANT {group} TO {admin};
         SELECT magic_link.grant_admin('{group}');
         CREATE FUNCTION public.revoke_it(id uuid) RETURNS text LANGUAGE sql SECURITY DEFINER
             AS 'SELECT magic_link.revoke_one_time_token(id)';
         CREATE FUNCTION public.revoke_them(email text) RETURNS bigint LANGUAGE sql SECURITY DEFINER
             AS 'SELECT magic_link.revoke_one_time_tokens(email)'"
    ));
    let as_group = format!("SET ROLE {group}");
    for (role, before, one, all) in [
        (
            &admin,
            "",
            "magic_link.revoke_one_time_token",
            "magic_link.revoke_one_time_tokens",
        ),
        (
            &admin,
            as_group.as_str(),
            "magic_link.revoke_one_time_token",
            "magic_link.revoke_one_time_tokens",
        ),
        (&admin, "", "public.revoke_it", "public.revoke_them"),
        (&backend, "", "public.revoke_it", "public.revoke_them"),
    ] {
        let [first, second] = [(); 2].map(|()| issue(&db));
        let mut client = db.connect_as(role);
        client.batch_execute(before).unwrap();
        client
            .batch_execute(&format!("SELECT {one}('{}')", first.id))
            .unwrap();
        client
            .batch_execute(&format!("SELECT {all}('{ADA}')"))
            .unwrap();
        for token in [&first, &second] {
            let (_, revoked_by) = end_of(&db, token, "revoked");
            assert_eq!(revoked_by.as_ref(), Some(role), "{before} {one} {all}");
        }
    }
}

#[test]
fn revoking_by_address_takes_the_active_tokens_of_it_alone() {
    let db = Database::new();
    let sign_in = r#"{"interactionEvent": "SignIn"}"#;
    let register = r#"{"interactionEvent": "Register"}"#;
    // The event asked for, and how many of: no event, SignIn, SignIn, Register.
    for (event, revoked) in [
        (None, [true; 4]),
        (Some("SignIn"), [false, true, true, false]),
        (Some("Register"), [false, false, false, true]),
        (Some("ForgotPassword"), [false; 4]),
        // The word as it is.
        (Some("signin"), [false; 4]),
    ] {
        let mut backend = db.backend();
        let tokens = ["{}", sign_in, sign_in, register].map(|c| backend.create(ADA, c).unwrap());
        let others = [
            EVE,
            "ada@mail.example.com",
            "ada+1@example.com",
            "xada@example.com",
        ];
        let others = others.map(|email| backend.create(email, sign_in).unwrap());
        let ended = [(); 3].map(|()| backend.create(ADA, sign_in).unwrap());
        db.change(
            ended[0].id,
            "consumed_at = clock_timestamp(), consumed_by = 'somebody'",
        );
        db.change(
            ended[1].id,
            "revoked_at = clock_timestamp(), revoked_by = 'somebody'",
        );
        db.change(ended[2].id, EXPIRED);

        let count = db.admin().revoke_all("\t ADA@Example.COM ", event).unwrap();

        assert_eq!(count, revoked.iter().filter(|r| **r).count() as i64);
        for (token, revoked) in tokens.iter().zip(revoked) {
            let expected = ["active", "revoked"][usize::from(revoked)];
            assert_eq!(db.status_of(token), expected, "{event:?}");
        }
        for other in &others {
            assert_eq!(db.status_of(other), "active", "{event:?}");
        }
        let ends = ended.each_ref().map(|token| db.status_of(token));
        assert_eq!(ends, ["consumed", "revoked", "expired"]);
        assert_eq!(end_of(&db, &ended[1], "revoked").1.unwrap(), "somebody");
        db.sql("DELETE FROM magic_link.one_time_tokens");
    }
}

#[test]
fn a_deleted_token_was_never_there() {
    let db = Database::new();
    let ends = [
        "revoked_at = NULL",
        "consumed_at = clock_timestamp(), consumed_by = 'somebody'",
        "revoked_at = clock_timestamp()",
        EXPIRED,
    ];
    let kept = issue(&db);
    for end in ends {
        let token = issue(&db);
        db.change(token.id, end);
        let mut admin = db.admin();
        assert!(admin.delete(token.id).unwrap(), "{end}");
        assert!(!admin.delete(token.id).unwrap(), "{end}");
        admin.revoke(token.id).expect_sqlstate("02000");
        let mut backend = db.backend();
        backend.redeem(&token.token, ADA).expect_sqlstate("OT001");
        let outcome = backend.check_in(None, &token.token, ADA).unwrap();
        assert_eq!(outcome, "token_not_found", "{end}");
    }
    assert_eq!(db.status_of(&kept), "active");
    assert_eq!(db.count("magic_link.one_time_tokens"), 1);
}

/// Who has redeemed a token is a user, and stays one.
#[test]
fn deleting_a_token_leaves_its_user_and_memberships() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let mut backend = db.backend();
    let context = r#"{"jitOrganizationIds": ["acme"]}"#;
    let token = backend.create(ADA, context).unwrap();
    backend.redeem(&token.token, ADA).unwrap();
    assert!(db.admin().delete(token.id).unwrap());
    assert_eq!(db.count("magic_link.users"), 1);
    assert_eq!(db.count("magic_link.organization_membership_roles"), 1);
}

type Change = fn(&mut Client, &Issued) -> Result<String, Error>;

const REVOKE: Change = |client, token| client.revoke(token.id);
const REVOKE_ALL: Change = |client, _| Ok(client.revoke_all(ADA, None)?.to_string());
const DELETE: Change = |client, token| Ok(client.delete(token.id)?.to_string());

/// Each waits for a redemption that is under way, and does what is right after it.
#[test]
fn a_redemption_under_way_is_waited_for() {
    let db = Database::new();
    for (change, after_commit, after_rollback) in [
        (REVOKE, "consumed", "revoked"),
        (REVOKE_ALL, "0", "1"),
        (DELETE, "true", "true"),
    ] {
        for (commit, expected) in [(true, after_commit), (false, after_rollback)] {
            let token = issue(&db);
            let mut backend = db.backend();
            let mut redeeming = backend.transaction().unwrap();
            redeeming.redeem(&token.token, ADA).unwrap();
            let call = |admin: &mut Client| change(admin, &token);
            let answer = while_blocked(&db, db.admin(), call, || match commit {
                true => redeeming.commit().unwrap(),
                false => redeeming.rollback().unwrap(),
            });
            assert_eq!(answer.unwrap(), expected);
        }
    }
}

#[test]
fn a_redemption_waits_for_a_revocation_and_a_deletion() {
    let db = Database::new();
    for (change, sqlstate) in [(REVOKE, "OT004"), (REVOKE_ALL, "OT004"), (DELETE, "OT001")] {
        for commit in [true, false] {
            let token = issue(&db);
            let mut admin = db.admin();
            admin.batch_execute("BEGIN").unwrap();
            change(&mut admin, &token).unwrap();
            let redeem = |backend: &mut Client| backend.redeem(&token.token, ADA);
            let answer = while_blocked(&db, db.backend(), redeem, || {
                let end = ["ROLLBACK", "COMMIT"][usize::from(commit)];
                admin.batch_execute(end).unwrap();
            });
            match commit {
                true => drop(answer.expect_sqlstate(sqlstate)),
                false => assert_eq!(answer.unwrap().token_id, token.id),
            }
        }
    }
}

/// The clock goes on while one waits for a lock; what counts is that the token was active when asked.
#[test]
fn whoever_asked_in_time_has_revoked_before_the_token_expired() {
    let db = Database::new();
    for (change, expected) in [(REVOKE, "revoked"), (REVOKE_ALL, "1")] {
        let token = db.backend().create_for(ADA, Some(1), None).unwrap();
        let mut superuser = db.superuser();
        let mut holding = superuser.transaction().unwrap();
        holding
            .execute("SELECT FROM magic_link.one_time_tokens FOR UPDATE", &[])
            .unwrap();
        let call = |admin: &mut Client| change(admin, &token);
        let answer = while_blocked(&db, db.admin(), call, || {
            db.wait_until_expired(token.id);
            holding.rollback().unwrap();
        });
        assert_eq!(answer.unwrap(), expected);
        let (revoked_at, _) = end_of(&db, &token, "revoked");
        assert!(revoked_at.unwrap() < token.expires_at);
    }
}

/// A DBA's transaction that began before a redemption does not overlook it.
#[test]
fn a_change_with_an_older_snapshot_is_to_be_tried_again() {
    let db = Database::new();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for change in [REVOKE, DELETE] {
            let token = issue(&db);
            let mut admin = db.admin();
            admin
                .batch_execute(&format!(
                    "BEGIN ISOLATION LEVEL {level}; SELECT FROM magic_link.one_time_token_status"
                ))
                .unwrap();
            db.backend().redeem(&token.token, ADA).unwrap();
            change(&mut admin, &token).expect_sqlstate("40001");
            admin.batch_execute("ROLLBACK").unwrap();
            assert_eq!(db.status_of(&token), "consumed", "{level}");
        }
    }
}

/// What the transaction should not see is not unknown either.
#[test]
fn a_newer_token_than_the_snapshot_is_to_be_tried_again() {
    let db = Database::new();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for change in [REVOKE, DELETE] {
            let mut admin = db.admin();
            let begin = format!(
                "BEGIN ISOLATION LEVEL {level}; SELECT FROM magic_link.one_time_token_status"
            );
            admin.batch_execute(&begin).unwrap();
            let token = issue(&db);
            change(&mut admin, &token).expect_sqlstate("40001");
            admin.batch_execute("ROLLBACK").unwrap();
            assert_eq!(db.status_of(&token), "active", "{level}");
        }
    }
}

/// A trigger of the application's may keep the row as it was, but not in silence.
#[test]
fn a_revocation_that_is_suppressed_is_an_error() {
    let db = Database::new();
    let token = issue(&db);
    db.sql(
        "CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER suppress BEFORE UPDATE ON magic_link.one_time_tokens
         FOR EACH ROW EXECUTE FUNCTION suppress()",
    );
    REVOKE(&mut db.admin(), &token).expect_sqlstate("27000");
    assert_eq!(db.status_of(&token), "active");
}

/// By address the newest tokens count, which is the point of it: one that the transaction should not
/// see is 40001, and one that it sees no longer active is left alone.
#[test]
fn revoking_by_address_never_overlooks_a_newer_token() {
    let db = Database::new();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let redeemed = issue(&db);
        let mut admin = db.admin();
        admin
            .batch_execute(&format!(
                "BEGIN ISOLATION LEVEL {level}; SELECT FROM magic_link.one_time_token_status"
            ))
            .unwrap();
        db.backend().redeem(&redeemed.token, ADA).unwrap();
        assert_eq!(admin.revoke_all(ADA, None).unwrap(), 0, "{level}");
        let newer = issue(&db);
        admin.revoke_all(ADA, None).expect_sqlstate("40001");
        admin.batch_execute("ROLLBACK").unwrap();
        assert_eq!(db.status_of(&redeemed), "consumed", "{level}");
        assert_eq!(db.status_of(&newer), "active", "{level}");
        assert_eq!(admin.revoke_all(ADA, None).unwrap(), 1, "{level}");
    }
}

/// Revoking by address holds the address, so that nothing is issued past it unseen.
#[test]
fn two_revocations_of_an_address_come_one_after_the_other() {
    let db = Database::new();
    let tokens = [(); 3].map(|()| issue(&db));
    let mut first = db.admin();
    first.batch_execute("BEGIN").unwrap();
    assert_eq!(first.revoke_all(ADA, None).unwrap(), 3);
    let second = |admin: &mut Client| admin.revoke_all(ADA, None);
    let answer = while_blocked(&db, db.admin(), second, || {
        first.batch_execute("ROLLBACK").unwrap();
    });
    assert_eq!(answer.unwrap(), 3);
    for token in &tokens {
        assert_eq!(db.status_of(token), "revoked");
    }
}

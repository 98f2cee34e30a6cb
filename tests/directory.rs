//! What a redemption does to users, organizations and memberships, and that it does all or nothing.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Calls, Database, ExpectSqlState, Redeemed};
use serde_json::{Value, json};

const ADA: &str = "ada@example.com";

/// The context of an invitation.
const JOIN_ACME: &str = r#"{"jitOrganizationIds": ["acme"]}"#;

/// Issues and redeems a token with this context.
#[track_caller]
fn join(backend: &mut Client, email: &str, context: &Value) -> Redeemed {
    let issued = backend.create(email, &context.to_string()).unwrap();
    backend.redeem(&issued.token, email).unwrap()
}

/// What the tables hold of a user's memberships, in the shape in which a redemption tells it.
fn held(db: &Database, email: &str) -> Value {
    db.value(
        "SELECT coalesce(jsonb_agg(jsonb_build_object('organizationId', m.organization_id, 'roleIds',
                    ARRAY(SELECT r.organization_role_id FROM magic_link.organization_membership_roles AS r
                           WHERE (r.organization_id, r.user_id) = (m.organization_id, m.user_id)
                           ORDER BY 1)) ORDER BY m.organization_id), '[]')
           FROM magic_link.organization_memberships AS m JOIN magic_link.users AS u ON u.id = m.user_id
          WHERE u.email = $1",
        &[&email],
    )
}

/// Without the statuses, which are of the redemption and not of the tables.
fn without_status(memberships: &Value) -> Value {
    let mut memberships = memberships.clone();
    for membership in memberships.as_array_mut().unwrap() {
        membership.as_object_mut().unwrap().remove("status");
    }
    memberships
}

#[test]
fn a_new_member_gets_the_default_roles() {
    let db = Database::new();
    db.organization("acme", &["member", "billing"]);
    db.organization("plain", &[]);
    db.organization("not-invited", &["member"]);
    let context = json!({"jitOrganizationIds": ["plain", "acme", "acme"]});
    let redeemed = join(&mut db.backend(), ADA, &context);
    assert_eq!(
        redeemed.memberships,
        json!([
            {"organizationId": "acme", "status": "added", "roleIds": ["billing", "member"]},
            {"organizationId": "plain", "status": "added", "roleIds": []},
        ])
    );
    assert_eq!(held(&db, ADA), without_status(&redeemed.memberships));
}

#[test]
fn roles_of_the_token_take_the_place_of_an_organizations_defaults() {
    let db = Database::new();
    for id in ["a", "b", "c"] {
        db.organization(id, &["member"]);
    }
    db.roles(&["admin", "auditor"]);
    let context = json!({
        "jitOrganizationIds": ["a", "b", "c"],
        "organizationRoleIds": {"a": ["auditor", "admin", "admin"], "b": []},
    });
    let redeemed = join(&mut db.backend(), ADA, &context);
    assert_eq!(
        redeemed.memberships,
        json!([
            {"organizationId": "a", "status": "added", "roleIds": ["admin", "auditor"]},
            {"organizationId": "b", "status": "added", "roleIds": []},
            {"organizationId": "c", "status": "added", "roleIds": ["member"]},
        ])
    );
    assert_eq!(held(&db, ADA), without_status(&redeemed.memberships));
}

#[test]
fn a_member_keeps_roles_and_gains_what_is_missing() {
    let db = Database::new();
    db.organization("acme", &["viewer"]);
    db.roles(&["admin", "editor"]);
    let mut backend = db.backend();
    let acme = |status: &str, roles: &[&str]| json!([{"organizationId": "acme", "status": status, "roleIds": roles}]);
    let plain = json!({"jitOrganizationIds": ["acme"]});
    let with_roles = |roles: &[&str]| json!({"jitOrganizationIds": ["acme"], "organizationRoleIds": {"acme": roles}});

    #[rustfmt::skip]
    let steps = [
        (with_roles(&["editor"]), "added", vec!["editor"]),
        (with_roles(&[]), "already_member", vec!["editor"]),
        (plain.clone(), "already_member", vec!["editor", "viewer"]),
        (with_roles(&["admin", "viewer"]), "already_member", vec!["admin", "editor", "viewer"]),
        (plain, "already_member", vec!["admin", "editor", "viewer"]),
    ];
    for (context, status, roles) in steps {
        let redeemed = join(&mut backend, ADA, &context);
        assert_eq!(redeemed.memberships, acme(status, &roles), "{context}");
        assert_eq!(held(&db, ADA), without_status(&redeemed.memberships));
    }
}

#[test]
fn an_organization_deleted_since_is_reported_and_the_rest_is_joined() {
    let db = Database::new();
    for id in ["a", "gone", "z"] {
        db.organization(id, &["member"]);
    }
    let mut backend = db.backend();
    let context = json!({
        "jitOrganizationIds": ["a", "gone", "z"],
        "organizationRoleIds": {"gone": ["member"]},
    });
    let issued = backend.create(ADA, &context.to_string()).unwrap();
    db.sql("DELETE FROM magic_link.organizations WHERE id = 'gone'");

    let redeemed = backend.redeem(&issued.token, ADA).unwrap();

    assert_eq!(
        redeemed.memberships,
        json!([
            {"organizationId": "a", "status": "added", "roleIds": ["member"]},
            {"organizationId": "gone", "status": "organization_missing", "roleIds": []},
            {"organizationId": "z", "status": "added", "roleIds": ["member"]},
        ])
    );
}

#[test]
fn a_role_deleted_since_is_passed_over() {
    let db = Database::new();
    db.organization("acme", &["default"]);
    db.organization("own", &[]);
    db.roles(&["kept", "gone"]);
    let mut backend = db.backend();
    let context = json!({
        "jitOrganizationIds": ["acme", "own"],
        "organizationRoleIds": {"own": ["gone", "kept"]},
    });
    let issued = backend.create(ADA, &context.to_string()).unwrap();
    db.sql("DELETE FROM magic_link.organization_roles WHERE id IN ('gone', 'default')");

    let redeemed = backend.redeem(&issued.token, ADA).unwrap();

    assert_eq!(
        redeemed.memberships,
        json!([
            {"organizationId": "acme", "status": "added", "roleIds": []},
            {"organizationId": "own", "status": "added", "roleIds": ["kept"]},
        ])
    );
}

#[test]
fn a_user_deleted_since_is_created_again() {
    let db = Database::new();
    let mut backend = db.backend();
    let first = join(&mut backend, ADA, &json!({}));
    let issued = backend.create(ADA, "{}").unwrap();
    db.sql("DELETE FROM magic_link.users");
    let second = backend.redeem(&issued.token, ADA).unwrap();
    assert!(second.user_created);
    assert_ne!(first.user_id, second.user_id);
}

#[test]
fn deleting_a_row_cascades() {
    #[rustfmt::skip]
    let rows = [
        ("organizations WHERE id = 'acme'", 1, 1, 1),
        ("organization_roles WHERE id = 'member'", 0, 2, 0),
        ("users", 2, 0, 0),
        ("organization_memberships WHERE organization_id = 'acme'", 2, 1, 1),
    ];
    for (what, default_roles, memberships, roles) in rows {
        let db = Database::new();
        db.organization("acme", &["member"]);
        db.organization("other", &["member"]);
        let context = json!({"jitOrganizationIds": ["acme", "other"]});
        let redeemed = join(&mut db.backend(), ADA, &context);
        assert_eq!(redeemed.memberships.as_array().unwrap().len(), 2);
        db.sql(&format!("DELETE FROM magic_link.{what}"));
        let left = [
            "organization_jit_roles",
            "organization_memberships",
            "organization_membership_roles",
        ]
        .map(|table| db.count(&format!("magic_link.{table}")));
        assert_eq!(left, [default_roles, memberships, roles], "{what}");
    }
}

#[test]
fn an_organizations_id_is_the_applications_own_text() {
    let db = Database::new();
    let ids = [
        "A",
        "a",
        "'; DROP TABLE magic_link.users; --",
        "\"q\" \\ %s",
        "🏢 é",
        "{x}",
        "null",
    ];
    for id in ids {
        db.organization(id, &[id]);
    }
    let redeemed = join(&mut db.backend(), ADA, &json!({"jitOrganizationIds": ids}));
    let mut sorted = ids;
    sorted.sort_unstable();
    let expected: Vec<_> = sorted
        .iter()
        .map(|id| json!({"organizationId": id, "status": "added", "roleIds": [id]}))
        .collect();
    assert_eq!(redeemed.memberships, Value::from(expected));
}

#[test]
fn a_users_address_has_to_be_in_normal_form() {
    let db = Database::new();
    let insert = "INSERT INTO magic_link.users (email) VALUES ($1)";
    let mut superuser = db.superuser();
    superuser
        .execute(insert, &[&"ada+tag@xn--bcher-kva.example"])
        .unwrap();
    for email in ["Ada@example.com", " ada@example.com", "ada@bücher.example"] {
        superuser
            .execute(insert, &[&email])
            .expect_sqlstate("23514");
    }
    superuser
        .execute(insert, &[&"ada"])
        .expect_sqlstate("22023");
    superuser
        .execute(insert, &[&None::<&str>])
        .expect_sqlstate("23502");
    superuser
        .execute(insert, &[&"ada+tag@xn--bcher-kva.example"])
        .expect_sqlstate("23505");
}

/// Lets every write to a table fail with words and a code of an application's own.
fn raise_on(db: &Database, event: &str, table: &str) {
    db.sql(&format!(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             RAISE EXCEPTION USING ERRCODE = 'AB001', MESSAGE = 'the application says no',
                 DETAIL = 'because of this', HINT = 'do that';
         END $$;
         CREATE TRIGGER refuse BEFORE {event} ON magic_link.{table}
             FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    ));
}

const WRITES_OF_A_REDEMPTION: &[(&str, &str)] = &[
    ("UPDATE", "one_time_tokens"),
    ("INSERT", "users"),
    ("INSERT", "organization_memberships"),
    ("INSERT", "organization_membership_roles"),
];

#[test]
fn a_trigger_that_raises_changes_nothing_and_its_error_is_passed_on() {
    for (event, table) in WRITES_OF_A_REDEMPTION {
        let db = Database::new();
        db.organization("acme", &["member"]);
        let mut backend = db.backend();
        let issued = backend.create(ADA, JOIN_ACME).unwrap();
        let before = db.contents();
        raise_on(&db, event, table);

        for error in [
            backend.redeem(&issued.token, ADA).expect_sqlstate("AB001"),
            backend
                .try_redeem_in(None, &issued.token, ADA)
                .expect_sqlstate("AB001"),
        ] {
            assert_eq!(error.message(), "the application says no");
            assert_eq!(error.detail(), Some("because of this"));
            assert_eq!(error.hint(), Some("do that"));
        }

        assert_eq!(db.contents(), before, "{table}");
        assert_eq!(backend.check_in(None, &issued.token, ADA).unwrap(), "ok");
        db.sql(&format!("DROP TRIGGER refuse ON magic_link.{table}"));
        assert!(backend.redeem(&issued.token, ADA).unwrap().user_created);
    }
}

/// A constraint of the application's own reaches the client with its name.
#[test]
fn a_constraint_that_fails_is_named() {
    let db = Database::new();
    db.sql(
        "ALTER TABLE magic_link.users ADD CONSTRAINT only_ours CHECK (email LIKE '%@example.com')",
    );
    let mut backend = db.backend();
    let issued = backend.create("eve@example.org", "{}").unwrap();
    let error = backend
        .redeem(&issued.token, "eve@example.org")
        .expect_sqlstate("23514");
    assert_eq!(
        (error.constraint(), error.table()),
        (Some("only_ours"), Some("users"))
    );
}

/// On one_time_tokens too, but without the row in DETAIL, since it holds the hash.
#[test]
fn a_constraint_that_fails_on_one_time_tokens_quotes_no_row() {
    let db = Database::new();
    db.sql(
        "ALTER TABLE magic_link.one_time_tokens ADD CONSTRAINT only_ours CHECK (email LIKE '%@example.com')",
    );
    let error = db
        .backend()
        .create("eve@example.org", "{}")
        .expect_sqlstate("23514");
    assert_eq!(
        (error.constraint(), error.detail()),
        (Some("only_ours"), None)
    );
}

#[test]
fn a_trigger_that_suppresses_rows_is_an_error_and_no_endless_loop() {
    let swallow = |db: &Database, event: &str, table: &str| {
        db.sql(&format!(
            "CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER swallow BEFORE {event} ON magic_link.{table}
                 FOR EACH ROW EXECUTE FUNCTION public.swallow()"
        ));
    };
    for (event, table) in &WRITES_OF_A_REDEMPTION[..3] {
        let db = Database::new();
        db.organization("acme", &["member"]);
        let mut backend = db.backend();
        let issued = backend.create(ADA, JOIN_ACME).unwrap();
        let before = db.contents();
        swallow(&db, event, table);
        let error = backend.redeem(&issued.token, ADA).expect_sqlstate("27000");
        assert!(format!("{error:?}").contains(table), "{error:?}");
        assert_eq!(db.contents(), before, "{table}");
    }

    // A token whose row was not inserted must not be returned.
    let db = Database::new();
    swallow(&db, "INSERT", "one_time_tokens");
    db.backend().create(ADA, "{}").expect_sqlstate("27000");
}

/// The answer is the row that was written, not the one that was meant.
#[test]
fn a_trigger_may_give_users_ids_of_its_own() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    db.sql(
        "CREATE FUNCTION public.own_id() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN NEW.id := gen_random_uuid(); RETURN NEW; END';
         CREATE TRIGGER own_id BEFORE INSERT ON magic_link.users
             FOR EACH ROW EXECUTE FUNCTION public.own_id()",
    );
    let mut backend = db.backend();
    let issued = backend.create(ADA, JOIN_ACME).unwrap();
    let redeemed = backend.redeem(&issued.token, ADA).unwrap();
    assert!(redeemed.user_created);
    let user: String = db.value("SELECT id::text FROM magic_link.users", &[]);
    let consumer: String = db.value("SELECT consumed_by FROM magic_link.one_time_tokens", &[]);
    assert_eq!((&user, &consumer), (&redeemed.user_id, &redeemed.user_id));
}

/// What an application says in the words of a constraint is not taken for one that quotes the row.
#[test]
fn an_error_of_a_trigger_on_one_time_tokens_is_passed_on_whole() {
    let db = Database::new();
    let mut backend = db.backend();
    let issued = backend.create(ADA, "{}").unwrap();
    db.sql(
        "CREATE FUNCTION public.seats() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'no seat is left' USING ERRCODE = '23514', DETAIL = '3 of 3 are taken.';
         END $$;
         CREATE TRIGGER seats AFTER UPDATE ON magic_link.one_time_tokens
             FOR EACH ROW EXECUTE FUNCTION public.seats()",
    );
    let error = backend.redeem(&issued.token, ADA).expect_sqlstate("23514");
    assert_eq!(error.detail(), Some("3 of 3 are taken."));
}

/// A hand in the table leads to an answer, or to an error that says so.
#[test]
fn a_row_edited_by_hand_is_no_internal_error() {
    let db = Database::new();
    db.organization("acme", &[]);
    let mut backend = db.backend();
    let edit = |column: &str, value: &str| {
        db.sql(&format!(
            "UPDATE magic_link.one_time_tokens SET {column} = {value} WHERE consumed_at IS NULL"
        ));
    };
    let issued = backend.create(ADA, "{}").unwrap();
    edit("organization_ids", "'{acme,NULL}'");
    let redeemed = backend.redeem(&issued.token, ADA).unwrap();
    assert_eq!(redeemed.memberships[0]["organizationId"], "acme");

    let issued = backend.create(ADA, JOIN_ACME).unwrap();
    edit("context", "'[]'");
    backend.redeem(&issued.token, ADA).expect_sqlstate("XX001");
}

/// A trigger may call the very functions that fired it.
#[test]
fn a_trigger_may_create_and_redeem_tokens_itself() {
    let db = Database::new();
    db.sql(
        "CREATE FUNCTION public.welcome() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE issued record;
         BEGIN
             SELECT * INTO issued FROM magic_link.create_one_time_token('friend-of-' || NEW.email);
             IF NEW.email NOT LIKE 'friend-of-friend%' THEN
                 PERFORM magic_link.redeem_one_time_token(issued.token, issued.email);
             END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER welcome AFTER INSERT ON magic_link.users
             FOR EACH ROW EXECUTE FUNCTION public.welcome()",
    );
    let redeemed = join(&mut db.backend(), ADA, &json!({}));
    assert!(redeemed.user_created);
    assert_eq!(db.count("magic_link.users"), 3);
    assert_eq!(
        db.count("magic_link.one_time_tokens WHERE consumed_at IS NOT NULL"),
        3
    );
    assert_eq!(db.count("magic_link.one_time_tokens"), 4);
}

#[test]
fn a_redemption_that_is_rolled_back_never_was() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let mut backend = db.backend();
    let issued = backend.create(ADA, JOIN_ACME).unwrap();
    let before = db.contents();

    let mut transaction = backend.transaction().unwrap();
    transaction.redeem(&issued.token, ADA).unwrap();
    transaction.rollback().unwrap();
    assert_eq!(db.contents(), before);

    let mut transaction = backend.transaction().unwrap();
    let mut savepoint = transaction.transaction().unwrap();
    let first = savepoint.redeem(&issued.token, ADA).unwrap();
    savepoint.rollback().unwrap();
    assert_eq!(
        transaction.check_in(None, &issued.token, ADA).unwrap(),
        "ok"
    );
    let second = transaction.redeem(&issued.token, ADA).unwrap();
    transaction.commit().unwrap();
    assert!(first.user_created && second.user_created);
    assert_ne!(first.user_id, second.user_id);
    assert_eq!(db.count("magic_link.users"), 1);
}

/// A block with an EXCEPTION clause is a savepoint that the application may not know of.
#[test]
fn a_caught_error_undoes_the_redemption() {
    let db = Database::new();
    let mut backend = db.backend();
    let issued = backend.create(ADA, "{}").unwrap();
    let before = db.contents();
    backend
        .batch_execute(&format!(
            "DO $$ BEGIN
                 PERFORM magic_link.redeem_one_time_token('{}', '{ADA}');
                 PERFORM magic_link.redeem_one_time_token('{}', '{ADA}');
             EXCEPTION WHEN SQLSTATE 'OT003' THEN NULL;
             END $$",
            issued.token, issued.token
        ))
        .unwrap();
    assert_eq!(db.contents(), before);
}

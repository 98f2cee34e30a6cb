//! Privileges: a backend role can call what it needs and read no table, and a role without grants can do nothing.

use std::sync::mpsc;

use magic_link_harness::postgres::error::DbError;
use magic_link_harness::postgres::{Client, NoTls};
use magic_link_harness::{Calls, Database, ExpectSqlState};
use serde_json::json;

const ADA: &str = "ada@example.com";

/// A call of every function for a backend that would succeed, or be refused for its token alone.
const BACKEND_CALLS: &[&str] = &[
    "magic_link.create_one_time_token('ada@example.com')",
    "magic_link.redeem_one_time_token('0', 'ada@example.com')",
    "magic_link.try_redeem_one_time_token('0', 'ada@example.com')",
    "magic_link.check_one_time_token('0', 'ada@example.com')",
    "magic_link.session_switch_decision('0', 'ada@example.com')",
    "magic_link.compose_magic_link('https://example.com', repeat('0', 32), 'ada@example.com')",
    "magic_link.one_time_token_id(repeat('0', 32))",
    "magic_link.create_one_time_tokens('{ada@example.com}')",
];

/// Anybody's: what CHECKs call, which run as whoever writes the row and read nothing else.
const OF_PUBLIC: [&str; 2] = ["normalize_email", "one_time_token_is_sound"];
const OF_PUBLIC_IN_FULL: [&str; 2] = [
    "magic_link.normalize_email(text)",
    "magic_link.one_time_token_is_sound(magic_link.one_time_tokens)",
];

/// The first column of a query on the catalogue, as a superuser.
fn list(db: &Database, query: &str) -> Vec<String> {
    let rows = db.superuser().query(query, &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[track_caller]
fn assert_whole_story(db: &Database, backend: &mut Client) {
    let email = format!("{ADA}.{}", db.count("magic_link.users"));
    let issued = backend
        .create(&email, r#"{"jitOrganizationIds": ["acme"]}"#)
        .unwrap();
    assert_eq!(backend.check_in(None, &issued.token, &email).unwrap(), "ok");
    let (decision, _) = backend
        .decide(
            &issued.token,
            &email,
            Some("eve@example.com"),
            Some("login"),
        )
        .unwrap();
    assert_eq!(decision, "switch");
    let redeemed = backend.redeem(&issued.token, &email).unwrap();
    let expected = json!([{"organizationId": "acme", "status": "added", "roleIds": ["member"]}]);
    assert_eq!(redeemed.memberships, expected);
    assert!(redeemed.user_created);
    assert_eq!((redeemed.token_id, &redeemed.email), (issued.id, &email));
    backend
        .redeem(&issued.token, &email)
        .expect_sqlstate("OT003");
    let (outcome, _) = backend
        .try_redeem_in(None, &issued.token, "eve@example.com")
        .unwrap();
    assert_eq!(outcome, "email_mismatch");
    let row = backend
        .query_one(
            "SELECT status FROM magic_link.session_switch WHERE token_id OPERATOR(pg_catalog.=) $1",
            &[&issued.id],
        )
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "consumed");
    for call in &BACKEND_CALLS[3..] {
        backend.query(&format!("SELECT {call}"), &[]).unwrap();
    }
    let user: String = db.value(
        "SELECT id::text FROM magic_link.users WHERE email = $1",
        &[&email],
    );
    assert_eq!(user, redeemed.user_id);
}

#[test]
fn a_backend_role_can_do_its_whole_work() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    assert_whole_story(&db, &mut db.backend());
}

#[test]
fn a_backend_role_has_no_right_on_any_table() {
    let db = Database::new();
    let role = db.backend_role();
    let held = list(
        &db,
        &format!(
            "SELECT c.relname || ' ' || p.privilege
               FROM pg_class AS c,
                    unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
                        AS p (privilege)
              WHERE c.relnamespace = 'magic_link'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
                AND has_table_privilege('{role}', c.oid, p.privilege)
             UNION ALL
             SELECT c.relname || '.' || a.attname
               FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
              WHERE c.relnamespace = 'magic_link'::regnamespace AND c.relkind IN ('r', 'p')
                AND a.attnum > 0 AND NOT a.attisdropped
                AND has_column_privilege('{role}', c.oid, a.attnum, 'SELECT, INSERT, UPDATE, REFERENCES')
             ORDER BY 1"
        ),
    );
    assert_eq!(held, ["session_switch SELECT"]);
    assert_eq!(db.tables().len(), 8);

    let mut backend = db.backend();
    let status = "SELECT FROM magic_link.one_time_token_status";
    backend.query(status, &[]).expect_sqlstate("42501");
    for table in db.tables() {
        for statement in [
            format!("SELECT FROM {table}"),
            format!("SELECT * FROM {table}"),
            format!("INSERT INTO {table} DEFAULT VALUES"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("DO $$ BEGIN LOCK TABLE {table}; END $$"),
            format!("COPY {table} TO STDOUT"),
            format!("CREATE INDEX ON {table} ((1))"),
        ] {
            backend.batch_execute(&statement).expect_sqlstate("42501");
        }
    }
    for statement in [
        "UPDATE magic_link.one_time_tokens SET consumed_at = NULL",
        "UPDATE magic_link.users SET email = 'eve@example.com'",
        "CREATE TABLE magic_link.mine ()",
        "CREATE FUNCTION magic_link.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "DROP EXTENSION magic_link",
    ] {
        backend.batch_execute(statement).expect_sqlstate("42501");
    }
}

#[test]
fn a_backend_role_may_run_the_backends_functions_and_no_other() {
    let db = Database::new();
    let role = db.backend_role();
    let executable = list(
        &db,
        &format!(
            "SELECT proname::text FROM pg_proc
              WHERE pronamespace = 'magic_link'::regnamespace AND has_function_privilege('{role}', oid, 'EXECUTE')
              ORDER BY 1"
        ),
    );
    let mut named: Vec<_> = BACKEND_CALLS
        .iter()
        .map(|call| {
            call.trim_start_matches("magic_link.")
                .split('(')
                .next()
                .unwrap()
        })
        .chain(OF_PUBLIC)
        .collect();
    named.sort_unstable();
    assert_eq!(executable, named);
}

#[test]
fn a_role_without_a_grant_can_do_nothing() {
    let db = Database::new();
    let ungranted = db.role("ungranted", "LOGIN");
    let refused_everywhere = || {
        let mut ungranted = db.connect_as(&ungranted);
        for call in BACKEND_CALLS {
            ungranted
                .query(&format!("SELECT {call}"), &[])
                .expect_sqlstate("42501");
        }
        let grant = "SELECT magic_link.grant_backend(current_user::regrole)";
        ungranted.query(grant, &[]).expect_sqlstate("42501");
        for relation in db.tables().iter().map(String::as_str).chain([
            "magic_link.one_time_token_status",
            "magic_link.session_switch",
        ]) {
            ungranted
                .query(&format!("SELECT FROM {relation}"), &[])
                .expect_sqlstate("42501");
        }
    };
    refused_everywhere();
    db.sql(&format!("GRANT USAGE ON SCHEMA magic_link TO {ungranted}"));
    refused_everywhere();
    let ungranted = &ungranted;
    db.connect_as(ungranted)
        .batch_execute("CREATE EXTENSION IF NOT EXISTS magic_link CASCADE")
        .unwrap();
    db.connect_as(ungranted)
        .batch_execute("ALTER EXTENSION magic_link UPDATE")
        .expect_sqlstate("42501");
}

#[test]
fn public_has_no_right_but_to_what_the_ledger_calls() {
    let db = Database::new();
    let rights = "
        SELECT 'function ' || p.oid::regprocedure FROM pg_proc AS p,
               aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
         WHERE p.pronamespace = 'magic_link'::regnamespace AND a.grantee = 0
        UNION ALL
        SELECT 'relation ' || c.oid::regclass FROM pg_class AS c, aclexplode(c.relacl) AS a
         WHERE c.relnamespace = 'magic_link'::regnamespace AND a.grantee = 0
        UNION ALL
        SELECT 'column ' || t.attrelid::regclass || t.attname FROM pg_attribute AS t, aclexplode(t.attacl) AS a
         WHERE t.attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'magic_link'::regnamespace)
           AND a.grantee = 0
        UNION ALL
        SELECT 'schema' FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
         WHERE n.nspname = 'magic_link' AND a.grantee = 0
         ORDER BY 1";
    assert_eq!(
        list(&db, rights),
        OF_PUBLIC_IN_FULL.map(|function| format!("function {function}"))
    );
}

/// Whoever installs may have given PUBLIC rights on all that is created later.
#[test]
fn default_privileges_of_the_installer_open_nothing() {
    let db = Database::bare(magic_link_harness::Cluster::shared(), "");
    db.sql(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC;
         CREATE EXTENSION magic_link;
         ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC;
         ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM PUBLIC",
    );
    let ungranted = db.role("ungranted", "LOGIN");
    db.connect_as(&ungranted)
        .query("SELECT * FROM magic_link.users", &[])
        .expect_sqlstate("42501");
    let open = "SELECT c.oid::regclass::text FROM pg_class AS c, aclexplode(c.relacl) AS a
                 WHERE c.relnamespace = 'magic_link'::regnamespace AND a.grantee = 0";
    assert_eq!(list(&db, open), [""; 0]);
    let open = "SELECT p.oid::regprocedure::text FROM pg_proc AS p, aclexplode(p.proacl) AS a
                 WHERE p.pronamespace = 'magic_link'::regnamespace AND a.grantee = 0 ORDER BY p.proname";
    assert_eq!(list(&db, open), OF_PUBLIC_IN_FULL);
}

#[test]
fn what_runs_as_its_owner_has_a_pinned_search_path() {
    let db = Database::new();
    let query = "SELECT oid::regprocedure::text FROM pg_proc
                  WHERE pronamespace = 'magic_link'::regnamespace AND prosecdef";
    assert!(!list(&db, query).is_empty());
    let unpinned =
        format!("{query} AND proconfig[1] IS DISTINCT FROM 'search_path=pg_catalog, pg_temp'");
    assert_eq!(list(&db, &unpinned), [""; 0]);
}

/// The caller's SELECT on the view must not become a way to the tables below it.
#[test]
fn a_views_filter_sees_no_hash() {
    let db = Database::new();
    let columns = list(
        &db,
        "SELECT attname::text FROM pg_attribute
          WHERE attrelid IN ('magic_link.session_switch'::regclass, 'magic_link.one_time_token_status'::regclass)
            AND attname LIKE '%hash%'",
    );
    assert_eq!(columns, [""; 0]);
}

#[test]
fn granting_twice_changes_nothing() {
    let db = Database::new();
    let acls = "SELECT concat(oid::regprocedure, proacl) FROM pg_proc WHERE pronamespace = 'magic_link'::regnamespace
                UNION ALL SELECT concat(oid::regclass, relacl) FROM pg_class WHERE relnamespace = 'magic_link'::regnamespace
                UNION ALL SELECT concat(nspname, nspacl) FROM pg_namespace WHERE nspname = 'magic_link'
                ORDER BY 1";
    let before = list(&db, acls);
    db.sql(&format!(
        "SELECT magic_link.grant_backend('{}')",
        db.backend_role()
    ));
    assert_eq!(list(&db, acls), before);
}

#[test]
fn granting_is_refused_to_who_may_not_and_for_whom_there_is_not() {
    let db = Database::new();
    let grant = |client: &mut Client, role: &str| {
        client.batch_execute(&format!("SELECT magic_link.grant_backend({role})"))
    };
    let mut superuser = db.superuser();
    grant(&mut superuser, "NULL").expect_sqlstate("22004");
    grant(&mut superuser, "99999::oid::regrole").expect_sqlstate("42704");
    grant(&mut superuser, "0::oid::regrole").expect_sqlstate("42704");
    grant(&mut superuser, "'nobody_is_called_this'").expect_sqlstate("42704");

    let ungranted = db.role("ungranted", "LOGIN");
    let own = format!("'{}'", db.backend_role());
    grant(&mut db.backend(), &own).expect_sqlstate("42501");
    grant(&mut db.connect_as(&ungranted), &format!("'{ungranted}'")).expect_sqlstate("42501");
    // With the right to call it one still grants no more than one may grant.
    db.sql(&format!(
        "GRANT USAGE ON SCHEMA magic_link TO {ungranted};
         GRANT EXECUTE ON FUNCTION magic_link.grant_backend(regrole) TO {ungranted}"
    ));
    let _ = grant(&mut db.connect_as(&ungranted), &format!("'{ungranted}'"));
    let call = BACKEND_CALLS[0];
    db.connect_as(&ungranted)
        .query(&format!("SELECT {call}"), &[])
        .expect_sqlstate("42501");
}

#[test]
fn a_role_may_have_any_name() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    for role in [
        "We ird\"role",
        "select",
        "Ünï",
        "a'b; DROP TABLE magic_link.users; --",
        "100%s",
    ] {
        let quoted = format!("\"{}\"", role.replace('"', "\"\""));
        let mut superuser = db.superuser();
        superuser
            .batch_execute(&format!("CREATE ROLE {quoted} LOGIN"))
            .unwrap();
        superuser
            .execute(
                "SELECT magic_link.grant_backend($1::text::regrole)",
                &[&quoted],
            )
            .unwrap();
        assert_whole_story(&db, &mut db.connect_as(role));
    }
}

/// What somebody may do in the schema, beside what anybody may: run a function, read a view, use the
/// schema or its tables.
fn held(db: &Database, role: &str) -> Vec<String> {
    list(
        db,
        &format!(
            "SELECT 'EXECUTE ' || p.proname FROM pg_proc AS p
              WHERE p.pronamespace = 'magic_link'::regnamespace AND p.proname <> ALL ('{{{of_public}}}')
                AND has_function_privilege('{role}'::regrole, p.oid, 'EXECUTE')
             UNION ALL
             SELECT r.kind || ' ' || c.relname
               FROM pg_class AS c,
                    unnest('{{SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER}}'::text[]) AS r (kind)
              WHERE c.relnamespace = 'magic_link'::regnamespace AND c.relkind IN ('r', 'p', 'v')
                AND (has_table_privilege('{role}'::regrole, c.oid, r.kind)
                     OR r.kind IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
                        AND has_any_column_privilege('{role}'::regrole, c.oid, r.kind))
             UNION ALL
             SELECT r.kind || ' schema' FROM unnest('{{USAGE, CREATE}}'::text[]) AS r (kind)
              WHERE has_schema_privilege('{role}'::regrole, 'magic_link', r.kind)
             ORDER BY 1",
            of_public = OF_PUBLIC.join(","),
        ),
    )
}

const OF_A_BACKEND: &[&str] = &[
    "EXECUTE check_one_time_token",
    "EXECUTE compose_magic_link",
    "EXECUTE create_one_time_token",
    "EXECUTE create_one_time_tokens",
    "EXECUTE one_time_token_id",
    "EXECUTE redeem_one_time_token",
    "EXECUTE session_switch_decision",
    "EXECUTE try_redeem_one_time_token",
    "SELECT session_switch",
];

const OF_AN_ADMIN: &[&str] = &[
    "EXECUTE delete_one_time_token",
    "EXECUTE purge_one_time_tokens",
    "EXECUTE revoke_one_time_token",
    "EXECUTE revoke_one_time_tokens",
    "SELECT one_time_token_activity",
    "SELECT one_time_token_status",
];

/// These, and the way to them.
fn with_usage(kinds: &[&[&str]]) -> Vec<String> {
    let mut rights: Vec<_> = kinds.concat().into_iter().map(str::to_owned).collect();
    if !rights.is_empty() {
        rights.push("USAGE schema".to_owned());
    }
    rights.sort_unstable();
    rights
}

/// Granted and taken back in any order, a role has what its kinds need and nothing else.
#[test]
fn a_role_has_what_its_kinds_need() {
    let db = Database::new();
    let role = db.role("some", "LOGIN");
    assert_eq!(held(&db, &role), with_usage(&[]));
    let (backend, admin) = (OF_A_BACKEND, OF_AN_ADMIN);
    #[rustfmt::skip]
    let steps: [(&str, &[&[&str]]); 13] = [
        ("revoke_backend", &[]),
        ("revoke_admin", &[]),
        ("grant_backend", &[backend]),
        ("revoke_admin", &[backend]),
        ("grant_admin", &[backend, admin]),
        ("grant_admin", &[backend, admin]),
        ("revoke_backend", &[admin]),
        ("revoke_backend", &[admin]),
        ("grant_backend", &[backend, admin]),
        ("revoke_admin", &[backend]),
        ("revoke_backend", &[]),
        ("grant_admin", &[admin]),
        ("revoke_admin", &[]),
    ];
    for (number, (step, kinds)) in steps.iter().enumerate() {
        db.sql(&format!("SELECT magic_link.{step}('{role}')"));
        assert_eq!(held(&db, &role), with_usage(kinds), "{number}: {step}");
    }
    // Every function and view is somebody's, or anybody's, or a superuser's alone.
    let mut all = [backend, admin].concat();
    all.extend([
        "EXECUTE change_privileges",
        "EXECUTE grant_admin",
        "EXECUTE grant_backend",
        "EXECUTE normalize_email",
        "EXECUTE one_time_token_is_sound",
        "EXECUTE revoke_admin",
        "EXECUTE revoke_backend",
    ]);
    all.sort_unstable();
    let there = list(
        &db,
        "SELECT 'EXECUTE ' || proname FROM pg_proc WHERE pronamespace = 'magic_link'::regnamespace
         UNION ALL
         SELECT 'SELECT ' || relname FROM pg_class WHERE relnamespace = 'magic_link'::regnamespace AND relkind = 'v'
         ORDER BY 1",
    );
    assert_eq!(there, all);
}

/// A call of every function for a DBA that would succeed.
const ADMIN_CALLS: &[&str] = &[
    "magic_link.revoke_one_time_tokens('nobody@example.com')",
    "magic_link.delete_one_time_token('00000000-0000-7000-8000-000000000000')",
    "magic_link.purge_one_time_tokens()",
    "magic_link.revoke_one_time_token((SELECT id FROM magic_link.one_time_token_status LIMIT 1))",
];

/// What the catalogue says is what calls are told.
#[test]
fn a_backend_is_no_admin_and_an_admin_no_backend() {
    let db = Database::new();
    db.backend().create(ADA, "{}").unwrap();
    let [mut backend, mut admin] = [db.backend(), db.admin()];
    for call in BACKEND_CALLS {
        admin
            .query(&format!("SELECT {call}"), &[])
            .expect_sqlstate("42501");
    }
    for call in ADMIN_CALLS {
        backend
            .query(&format!("SELECT {call}"), &[])
            .expect_sqlstate("42501");
        admin.query(&format!("SELECT {call}"), &[]).unwrap();
    }
    let views = ["one_time_token_status", "one_time_token_activity"];
    for view in views {
        let look = format!("SELECT * FROM magic_link.{view}");
        backend.query(&look, &[]).expect_sqlstate("42501");
        admin.query(&look, &[]).unwrap();
    }
    admin
        .query("SELECT FROM magic_link.session_switch", &[])
        .expect_sqlstate("42501");
    let change =
        "SELECT magic_link.change_privileges(current_user::regrole, 'admin', 'GRANT %s TO %s')";
    for client in [&mut backend, &mut admin] {
        for table in db.tables() {
            let look = format!("SELECT FROM {table}");
            client.query(&look, &[]).expect_sqlstate("42501");
        }
        for function in [
            "grant_backend",
            "revoke_backend",
            "grant_admin",
            "revoke_admin",
        ] {
            let call = format!("SELECT magic_link.{function}(current_user::regrole)");
            client.query(&call, &[]).expect_sqlstate("42501");
        }
        client.query(change, &[]).expect_sqlstate("42501");
    }
    // The whole status, and no hash in it.
    let row = admin
        .query_one("SELECT * FROM magic_link.one_time_token_status", &[])
        .unwrap();
    assert!(
        row.columns()
            .iter()
            .all(|column| !column.name().contains("hash"))
    );
}

/// Every ACL of the schema as its entries, in an order of their own: by whom to whom.
const ACLS: &str = "
    SELECT concat_ws(' ', o.object, a.grantor::regrole, a.grantee::regrole, a.privilege_type, a.is_grantable)
      FROM (SELECT oid::regprocedure::text, proacl FROM pg_proc WHERE pronamespace = 'magic_link'::regnamespace
            UNION ALL
            SELECT oid::regclass::text, relacl FROM pg_class WHERE relnamespace = 'magic_link'::regnamespace
            UNION ALL
            SELECT concat(c.oid::regclass, '.', t.attname), t.attacl
              FROM pg_class AS c JOIN pg_attribute AS t ON t.attrelid = c.oid
             WHERE c.relnamespace = 'magic_link'::regnamespace
            UNION ALL
            SELECT nspname::text, nspacl FROM pg_namespace WHERE nspname = 'magic_link') AS o (object, acl),
           aclexplode(o.acl) AS a
     ORDER BY 1";

/// What a role had of its own, by whatever hand, it has afterwards; the schema stays open to it.
#[test]
fn granting_and_taking_back_leaves_what_was_before() {
    for own in [
        "SELECT 1",
        "GRANT USAGE ON SCHEMA magic_link TO $; GRANT SELECT ON magic_link.users TO $",
        "GRANT USAGE, CREATE ON SCHEMA magic_link TO $; GRANT INSERT ON magic_link.organizations TO $ WITH GRANT OPTION",
        "GRANT USAGE ON SCHEMA magic_link TO $; GRANT SELECT (email), UPDATE (email) ON magic_link.users TO $",
        "GRANT USAGE ON SCHEMA magic_link TO $; GRANT EXECUTE ON FUNCTION magic_link.grant_backend(regrole) TO $",
        "GRANT USAGE ON SCHEMA magic_link TO $; GRANT DELETE ON magic_link.one_time_token_status TO $",
    ] {
        let db = Database::new();
        let role = db.role("some", "LOGIN");
        db.sql(&own.replace('$', &role));
        let before = (list(&db, ACLS), held(&db, &role));
        for kinds in [&["backend"][..], &["admin"], &["backend", "admin"]] {
            for kind in kinds {
                db.sql(&format!("SELECT magic_link.grant_{kind}('{role}')"));
            }
            assert_ne!(list(&db, ACLS), before.0);
            for kind in kinds {
                db.sql(&format!("SELECT magic_link.revoke_{kind}('{role}')"));
            }
            assert_eq!(
                (list(&db, ACLS), held(&db, &role)),
                before,
                "{own} {kinds:?}"
            );
        }
    }
}

/// A superuser's connection, and what the server tells it beside its answers.
fn heard(db: &Database) -> (Client, mpsc::Receiver<DbError>) {
    let (sender, notices) = mpsc::channel();
    let mut config = db.cluster().config(db.name(), "postgres");
    config.notice_callback(move |notice| sender.send(notice).unwrap());
    (config.connect(NoTls).unwrap(), notices)
}

/// What somebody else gave is theirs to take; as long as it is there, so is the way to it.
#[test]
fn what_somebody_else_granted_stays() {
    let db = Database::new();
    let [role, other] = ["some", "other"].map(|kind| db.role(kind, "LOGIN"));
    db.sql(&format!(
        "GRANT USAGE ON SCHEMA magic_link TO {other} WITH GRANT OPTION;
         GRANT EXECUTE ON FUNCTION magic_link.one_time_token_id(text) TO {other} WITH GRANT OPTION"
    ));
    db.connect_as(&other)
        .batch_execute(&format!(
            "GRANT EXECUTE ON FUNCTION magic_link.one_time_token_id(text) TO {role};
             GRANT USAGE ON SCHEMA magic_link TO {role}"
        ))
        .unwrap();
    let before = list(&db, ACLS);
    let (mut superuser, warnings) = heard(&db);
    let mut run = |statement: String| superuser.batch_execute(&statement).unwrap();
    run(format!("SELECT magic_link.grant_backend('{role}')"));
    run(format!("SELECT magic_link.revoke_admin('{role}')"));
    assert!(warnings.try_recv().is_err());
    run(format!("SELECT magic_link.revoke_backend('{role}')"));
    let warning = warnings.try_recv().unwrap();
    assert_eq!(warning.code().code(), "01006");
    assert!(warning.message().contains(&role), "{warning:?}");
    let call = "SELECT magic_link.one_time_token_id(repeat('0', 32))";
    db.connect_as(&role).query(call, &[]).unwrap();
    // The superuser's own grant of USAGE stays beside it: the way is closed behind the last right.
    let after: Vec<_> = list(&db, ACLS)
        .into_iter()
        .filter(|acl| !before.contains(acl))
        .collect();
    assert_eq!(after, [format!("magic_link postgres {role} USAGE f")]);
    assert!(
        list(&db, ACLS)
            .iter()
            .all(|acl| !acl.contains("create_one_time_token") || !acl.contains(&role))
    );
}

/// So with a view, and with the schema itself: who thinks that all is taken back is told that it is not.
#[test]
fn what_stays_is_said_whatever_it_is() {
    for right in [
        "SELECT ON magic_link.session_switch",
        "SELECT (token_email) ON magic_link.session_switch",
        "USAGE ON SCHEMA magic_link",
    ] {
        let db = Database::new();
        let [role, other] = ["some", "other"].map(|kind| db.role(kind, "LOGIN"));
        db.sql(&format!(
            "GRANT USAGE ON SCHEMA magic_link TO {other} WITH GRANT OPTION;
             GRANT {right} TO {other} WITH GRANT OPTION"
        ));
        db.connect_as(&other)
            .batch_execute(&format!("GRANT {right} TO {role}"))
            .unwrap();
        let (mut superuser, warnings) = heard(&db);
        superuser
            .batch_execute(&format!(
                "SELECT magic_link.grant_backend('{role}'), magic_link.revoke_backend('{role}')"
            ))
            .unwrap();
        let warning = warnings.try_recv().expect(right);
        assert_eq!(warning.code().code(), "01006", "{right}");
    }
}

/// Who may grant nothing of it, or only some, has not granted it.
#[test]
fn granting_in_part_is_refused() {
    let db = Database::new();
    let [role, other] = ["some", "other"].map(|kind| db.role(kind, "LOGIN"));
    db.sql(&format!(
        "SELECT magic_link.grant_backend('{other}');
         GRANT EXECUTE ON FUNCTION magic_link.grant_backend(regrole), magic_link.change_privileges(regrole, text, text)
            TO {other};
         GRANT USAGE ON SCHEMA magic_link TO {other} WITH GRANT OPTION"
    ));
    let before = list(&db, ACLS);
    let grant = format!("SELECT magic_link.grant_backend('{role}')");
    db.connect_as(&other)
        .batch_execute(&grant)
        .expect_sqlstate("42501");
    assert_eq!(list(&db, ACLS), before);
}

/// Each of the four, with names that have to be quoted.
#[test]
fn a_role_of_any_name_is_granted_and_revoked() {
    let db = Database::new();
    for (number, name) in ["we ird", "We\"ird", "select", "100%s", "a'b; --"]
        .iter()
        .enumerate()
    {
        let name = format!("{name}_{number}_{}", db.name());
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let mut superuser = db.superuser();
        superuser
            .batch_execute(&format!("CREATE ROLE {quoted} LOGIN"))
            .unwrap();
        let mut change = |function: &str| {
            let change = format!("SELECT magic_link.{function}($1::text::regrole)");
            superuser.execute(&change, &[&quoted]).unwrap();
            let literal = quoted.replace('\'', "''");
            held(&db, &literal)
        };
        assert_eq!(change("grant_admin"), with_usage(&[OF_AN_ADMIN]), "{name}");
        assert_eq!(
            change("grant_backend"),
            with_usage(&[OF_A_BACKEND, OF_AN_ADMIN]),
            "{name}"
        );
        assert_eq!(
            change("revoke_admin"),
            with_usage(&[OF_A_BACKEND]),
            "{name}"
        );
        assert_eq!(change("revoke_backend"), with_usage(&[]), "{name}");
    }
}

/// With the right to call them, one still changes no more than one may.
#[test]
fn granting_and_taking_back_run_as_their_caller() {
    let db = Database::new();
    let ungranted = db.role("ungranted", "LOGIN");
    let functions = [
        "grant_backend",
        "revoke_backend",
        "grant_admin",
        "revoke_admin",
    ];
    db.sql(&format!("GRANT USAGE ON SCHEMA magic_link TO {ungranted}"));
    for function in functions.iter().chain(&["change_privileges"]) {
        db.sql(&format!(
            "GRANT EXECUTE ON FUNCTION magic_link.{function} TO {ungranted}"
        ));
    }
    let before = list(&db, ACLS);
    for function in functions {
        for role in [&ungranted, &db.backend_role(), &db.admin_role()] {
            let call = format!("SELECT magic_link.{function}('{role}')");
            db.connect_as(&ungranted)
                .batch_execute(&call)
                .expect_sqlstate("42501");
            assert_eq!(list(&db, ACLS), before, "{function} {role}");
        }
    }
}

/// A member of a role that was granted has what the role has.
#[test]
fn a_member_of_a_backend_role_is_a_backend() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let member = db.role("member", &format!("LOGIN IN ROLE {}", db.backend_role()));
    assert_whole_story(&db, &mut db.connect_as(&member));
}

/// Everything that a search_path could put in the way: functions, operators, types and tables of the
/// same names, in a schema that comes first and among the temporary tables.
#[test]
fn a_hostile_search_path_changes_nothing() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let role = db.backend_role();
    db.sql(&format!(
        "CREATE SCHEMA evil;
         CREATE FUNCTION evil.stumble() RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'EV001', MESSAGE = 'stumbled'; END $$;
         GRANT USAGE, CREATE ON SCHEMA evil TO {role}"
    ));
    for (name, arguments, returns) in [
        ("normalize_email", "text", "text"),
        ("sha256", "bytea", "bytea"),
        ("clock_timestamp", "", "timestamptz"),
        ("now", "", "timestamptz"),
        ("length", "bytea", "integer"),
        ("btrim", "text", "text"),
        ("concat", "text, text", "text"),
        ("string_to_array", "text, text", "text[]"),
        ("current_setting", "text, boolean", "text"),
        ("gen_random_uuid", "", "uuid"),
        ("format", "text, text", "text"),
    ] {
        db.sql(&format!(
            "CREATE FUNCTION evil.{name}({arguments}) RETURNS {returns} LANGUAGE sql
                 AS 'SELECT NULL::{returns} FROM evil.stumble()'"
        ));
    }
    for argument in ["text", "uuid", "bytea", "timestamptz", "boolean", "integer"] {
        for operator in ["=", "<>", "<", "<=", ">", ">="] {
            db.sql(&format!(
                "CREATE OR REPLACE FUNCTION evil.compare({argument}, {argument}) RETURNS boolean LANGUAGE sql
                     AS 'SELECT evil.stumble()';
                 CREATE OPERATOR evil.{operator} (FUNCTION = evil.compare, LEFTARG = {argument}, RIGHTARG = {argument})"
            ));
        }
    }
    let tables: Vec<_> = db
        .tables()
        .iter()
        .map(|table| table.trim_start_matches("magic_link.").to_owned())
        .collect();
    for table in &tables {
        db.sql(&format!("CREATE TABLE evil.{table} (LIKE magic_link.{table}); ALTER TABLE evil.{table} OWNER TO {role}"));
    }

    let mut backend = db.backend();
    for table in &tables {
        backend
            .batch_execute(&format!("CREATE TEMP TABLE {table} (LIKE evil.{table})"))
            .unwrap();
    }
    for path in [
        "evil, pg_catalog",
        "pg_temp, evil, pg_catalog",
        "evil, magic_link, pg_temp, pg_catalog",
        "''",
    ] {
        backend
            .batch_execute(&format!("SET search_path = {path}"))
            .unwrap();
        assert_whole_story(&db, &mut backend);
    }
    for table in &tables {
        for schema in ["evil", "pg_temp"] {
            let rows = backend
                .query(&format!("SELECT FROM {schema}.{table}"), &[])
                .unwrap();
            assert_eq!(rows.len(), 0, "{schema}.{table}");
        }
    }
}

/// grant_backend runs as a superuser, so what it finds by name matters most.
#[test]
fn granting_under_a_hostile_search_path_grants_the_same() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let role = db.role("granted", "LOGIN");
    db.sql(
        "CREATE SCHEMA evil;
         CREATE FUNCTION evil.format(text, VARIADIC \"any\") RETURNS text LANGUAGE internal AS 'text_format';
         CREATE FUNCTION evil.format(text, regrole) RETURNS text LANGUAGE sql AS $$ SELECT 'ALTER ROLE ' || $2 || ' SUPERUSER' $$;
         CREATE TABLE evil.pg_roles (oid oid);
         CREATE FUNCTION evil.equal(oid, regrole) RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR evil.= (FUNCTION = evil.equal, LEFTARG = oid, RIGHTARG = regrole)",
    );
    db.sql(&format!(
        "SET search_path = evil, pg_catalog; SELECT magic_link.grant_backend('{role}')"
    ));
    let superuser: bool = db.value("SELECT rolsuper FROM pg_roles WHERE rolname = $1", &[&role]);
    assert!(!superuser);
    assert_whole_story(&db, &mut db.connect_as(&role));
}

/// A CHECK runs as whoever writes: a DBA grants the table, and need not know what its constraints call.
#[test]
fn who_may_write_a_table_needs_no_right_on_what_its_constraints_call() {
    let db = Database::new();
    db.organization("acme", &[]);
    let writer = db.role("writer", "LOGIN");
    db.sql(&format!(
        "GRANT USAGE ON SCHEMA magic_link TO {writer};
         GRANT INSERT, UPDATE (email) ON magic_link.users TO {writer};
         GRANT INSERT ON magic_link.organization_jit_email_domains TO {writer}"
    ));
    let mut writer = db.connect_as(&writer);
    let mut run = |statement: &str| writer.batch_execute(statement);
    run("INSERT INTO magic_link.users (email) VALUES ('ada@example.com')").unwrap();
    run("UPDATE magic_link.users SET email = 'eve@example.com'").unwrap();
    run("INSERT INTO magic_link.organization_jit_email_domains VALUES ('acme', 'example.com')")
        .unwrap();
    run("INSERT INTO magic_link.users (email) VALUES ('Ada@example.com')").expect_sqlstate("23514");
    run("INSERT INTO magic_link.users (email) VALUES ('ada')").expect_sqlstate("22023");
}

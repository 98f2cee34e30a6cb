//! Who may do what: a backend role does its whole work and reaches no table; nobody else does anything.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Calls, Database, Refused};
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
    "magic_link.normalize_email('ada@example.com')",
    "magic_link.one_time_token_id(repeat('0', 32))",
    "magic_link.create_one_time_tokens('{ada@example.com}')",
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
    backend.redeem(&issued.token, &email).refused("OT003");
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
    backend.query(status, &[]).refused("42501");
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
            backend.batch_execute(&statement).refused("42501");
        }
    }
    for statement in [
        "UPDATE magic_link.one_time_tokens SET consumed_at = NULL",
        "UPDATE magic_link.users SET email = 'eve@example.com'",
        "CREATE TABLE magic_link.mine ()",
        "CREATE FUNCTION magic_link.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "DROP EXTENSION magic_link",
    ] {
        backend.batch_execute(statement).refused("42501");
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
        .collect();
    named.sort_unstable();
    assert_eq!(executable, named);
}

#[test]
fn a_role_without_a_grant_can_do_nothing() {
    let db = Database::new();
    let stranger = db.role("stranger", "LOGIN");
    let refused_everywhere = || {
        let mut stranger = db.connect_as(&stranger);
        for call in BACKEND_CALLS {
            stranger
                .query(&format!("SELECT {call}"), &[])
                .refused("42501");
        }
        let grant = "SELECT magic_link.grant_backend(current_user::regrole)";
        stranger.query(grant, &[]).refused("42501");
        for relation in db.tables().iter().map(String::as_str).chain([
            "magic_link.one_time_token_status",
            "magic_link.session_switch",
        ]) {
            stranger
                .query(&format!("SELECT FROM {relation}"), &[])
                .refused("42501");
        }
    };
    refused_everywhere();
    db.sql(&format!("GRANT USAGE ON SCHEMA magic_link TO {stranger}"));
    refused_everywhere();
    let stranger = &stranger;
    db.connect_as(stranger)
        .batch_execute("CREATE EXTENSION IF NOT EXISTS magic_link CASCADE")
        .unwrap();
    db.connect_as(stranger)
        .batch_execute("ALTER EXTENSION magic_link UPDATE")
        .refused("42501");
}

#[test]
fn public_has_no_right_on_anything() {
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
         WHERE n.nspname = 'magic_link' AND a.grantee = 0";
    assert_eq!(list(&db, rights), [""; 0]);
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
    let stranger = db.role("stranger", "LOGIN");
    db.connect_as(&stranger)
        .query("SELECT * FROM magic_link.users", &[])
        .refused("42501");
    let open = "SELECT c.oid::regclass::text FROM pg_class AS c, aclexplode(c.relacl) AS a
                 WHERE c.relnamespace = 'magic_link'::regnamespace AND a.grantee = 0";
    assert_eq!(list(&db, open), [""; 0]);
    let open = "SELECT p.oid::regprocedure::text FROM pg_proc AS p, aclexplode(p.proacl) AS a
                 WHERE p.pronamespace = 'magic_link'::regnamespace AND a.grantee = 0";
    assert_eq!(list(&db, open), [""; 0]);
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
    grant(&mut superuser, "NULL").refused("22004");
    grant(&mut superuser, "99999::oid::regrole").refused("42704");
    grant(&mut superuser, "0::oid::regrole").refused("42704");
    grant(&mut superuser, "'nobody_is_called_this'").refused("42704");

    let stranger = db.role("stranger", "LOGIN");
    let own = format!("'{}'", db.backend_role());
    grant(&mut db.backend(), &own).refused("42501");
    grant(&mut db.connect_as(&stranger), &format!("'{stranger}'")).refused("42501");
    // With the right to call it one still grants no more than one may grant.
    db.sql(&format!(
        "GRANT USAGE ON SCHEMA magic_link TO {stranger};
         GRANT EXECUTE ON FUNCTION magic_link.grant_backend(regrole) TO {stranger}"
    ));
    let _ = grant(&mut db.connect_as(&stranger), &format!("'{stranger}'"));
    let call = BACKEND_CALLS[0];
    db.connect_as(&stranger)
        .query(&format!("SELECT {call}"), &[])
        .refused("42501");
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

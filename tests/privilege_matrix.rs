//! Privileges, object by object. One table here has the expected privileges, and the objects come from the catalogue, so an
//! object that the table lacks fails. Each privilege that the catalogue shows is then tried.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Database, ExpectSqlState};

/// What a role without grants, a backend role and an admin role may do with an object. The owner may do everything.
type Decision = (&'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const DECISIONS: &[Decision] = &[
    // the object                                                             PUBLIC     backend    admin
    ("schema magic_link",                                                     "",        "USAGE",   "USAGE"),

    ("function magic_link.check_one_time_token(text,text,text)",              "",        "EXECUTE", ""),
    ("function magic_link.compose_magic_link(text,text,text,jsonb,text,text)", "",       "EXECUTE", ""),
    ("function magic_link.create_one_time_token(text,integer,jsonb)",         "",        "EXECUTE", ""),
    ("function magic_link.create_one_time_tokens(text[],integer,jsonb)",      "",        "EXECUTE", ""),
    ("function magic_link.one_time_token_id(text)",                           "",        "EXECUTE", ""),
    ("function magic_link.redeem_one_time_token(text,text,text)",             "",        "EXECUTE", ""),
    ("function magic_link.session_switch_decision(text,text,text,text)",      "",        "EXECUTE", ""),
    ("function magic_link.try_redeem_one_time_token(text,text,text)",         "",        "EXECUTE", ""),

    ("function magic_link.delete_one_time_token(uuid)",                       "",        "",        "EXECUTE"),
    ("function magic_link.purge_one_time_tokens(interval,integer)",           "",        "",        "EXECUTE"),
    ("function magic_link.revoke_one_time_token(uuid)",                       "",        "",        "EXECUTE"),
    ("function magic_link.revoke_one_time_tokens(text,text)",                 "",        "",        "EXECUTE"),

    ("function magic_link.change_privileges(regrole,text,text)",              "",        "",        ""),
    ("function magic_link.grant_admin(regrole)",                              "",        "",        ""),
    ("function magic_link.grant_backend(regrole)",                            "",        "",        ""),
    ("function magic_link.revoke_admin(regrole)",                             "",        "",        ""),
    ("function magic_link.revoke_backend(regrole)",                           "",        "",        ""),

    // Of CHECKs, which run as whoever writes; without the schema's USAGE nobody can name them.
    ("function magic_link.normalize_email(text)",                             "EXECUTE", "EXECUTE", "EXECUTE"),
    ("function magic_link.one_time_token_is_sound(magic_link.one_time_tokens)", "EXECUTE", "EXECUTE", "EXECUTE"),

    ("table magic_link.one_time_tokens",                                      "",        "",        ""),
    ("table magic_link.organization_jit_email_domains",                       "",        "",        ""),
    ("table magic_link.organization_jit_roles",                               "",        "",        ""),
    ("table magic_link.organization_membership_roles",                        "",        "",        ""),
    ("table magic_link.organization_memberships",                             "",        "",        ""),
    ("table magic_link.organization_roles",                                   "",        "",        ""),
    ("table magic_link.organizations",                                        "",        "",        ""),
    ("table magic_link.users",                                                "",        "",        ""),

    ("view magic_link.one_time_token_activity",                               "",        "",        "SELECT"),
    ("view magic_link.one_time_token_status",                                 "",        "",        "SELECT"),
    ("view magic_link.session_switch",                                        "",        "SELECT",  ""),

    // Row types: PostgreSQL's default. They have no rows in them.
    ("type magic_link.one_time_token_activity",                               "USAGE",   "USAGE",   "USAGE"),
    ("type magic_link.one_time_token_status",                                 "USAGE",   "USAGE",   "USAGE"),
    ("type magic_link.one_time_tokens",                                       "USAGE",   "USAGE",   "USAGE"),
    ("type magic_link.organization_jit_email_domains",                        "USAGE",   "USAGE",   "USAGE"),
    ("type magic_link.organization_jit_roles",                                "USAGE",   "USAGE",   "USAGE"),
    ("type magic_link.organization_membership_roles",                         "USAGE",   "USAGE",   "USAGE"),
    ("type magic_link.organization_memberships",                              "USAGE",   "USAGE",   "USAGE"),
    ("type magic_link.organization_roles",                                    "USAGE",   "USAGE",   "USAGE"),
    ("type magic_link.organizations",                                         "USAGE",   "USAGE",   "USAGE"),
    ("type magic_link.session_switch",                                        "USAGE",   "USAGE",   "USAGE"),
    ("type magic_link.users",                                                 "USAGE",   "USAGE",   "USAGE"),
];

/// Every member of the extension and every object of its schema, and what the current role may do with
/// it, a right on a single column included.
const RIGHTS: &str = "
    WITH object (classid, objid) AS (
        SELECT classid, objid FROM pg_depend
         WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'magic_link')
        UNION
        SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = 'magic_link'::regnamespace
        UNION
        SELECT 'pg_class'::regclass, oid FROM pg_class
         WHERE relnamespace = 'magic_link'::regnamespace AND relkind NOT IN ('i', 'I')
        UNION
        SELECT 'pg_type'::regclass, oid FROM pg_type
         WHERE typnamespace = 'magic_link'::regnamespace)
    SELECT replace(i.type || ' ' || i.identity, 'pg_catalog.', ''), (
           SELECT coalesce(string_agg(p.kind, ', '), '') FROM (
               SELECT kind FROM unnest('{USAGE, CREATE}'::text[]) AS kind
                WHERE o.classid = 'pg_namespace'::regclass AND has_schema_privilege(o.objid, kind)
               UNION ALL
               SELECT 'EXECUTE' WHERE o.classid = 'pg_proc'::regclass AND has_function_privilege(o.objid, 'EXECUTE')
               UNION ALL
               SELECT 'USAGE' WHERE o.classid = 'pg_type'::regclass AND has_type_privilege(o.objid, 'USAGE')
               UNION ALL
               SELECT kind FROM unnest('{SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER}'::text[]) AS kind
                WHERE o.classid = 'pg_class'::regclass
                  AND (has_table_privilege(o.objid, kind)
                       OR kind IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') AND has_any_column_privilege(o.objid, kind))
               UNION ALL
               -- Since PostgreSQL 17; said of the owner, it would make the table differ by version.
               SELECT 'MAINTAIN' WHERE CASE WHEN o.classid = 'pg_class'::regclass AND current_user <> 'postgres'
                                             AND current_setting('server_version_num')::integer >= 170000
                                            THEN has_table_privilege(o.objid, 'MAINTAIN') END
           ) AS p)
      FROM object AS o, pg_identify_object(o.classid, o.objid, 0) AS i
     -- An array has the rights of what is in it.
     WHERE i.identity NOT LIKE '%[]'
     ORDER BY 1";

type Right = (String, String);

fn rights(client: &mut Client) -> Vec<Right> {
    let rows = client.query(RIGHTS, &[]).unwrap();
    let mut rights: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    rights.sort();
    rights
}

fn decided(column: impl Fn(&Decision) -> String) -> Vec<Right> {
    let right = |decision: &Decision| (decision.0.to_owned(), column(decision));
    let mut rights: Vec<_> = DECISIONS.iter().map(right).collect();
    rights.sort();
    rights
}

#[track_caller]
fn assert_rights(who: &str, client: &mut Client, column: fn(&Decision) -> String) {
    let (held, decided) = (rights(client), decided(column));
    let without = |one: &[Right], other: &[Right]| -> Vec<Right> {
        one.iter()
            .filter(|right| !other.contains(right))
            .cloned()
            .collect()
    };
    let difference = (without(&held, &decided), without(&decided, &held));
    assert_eq!(
        difference,
        (vec![], vec![]),
        "{who}: held and not decided, decided and not held"
    );
}

fn of_public(decision: &Decision) -> String {
    decision.1.to_owned()
}

fn of_backend(decision: &Decision) -> String {
    decision.2.to_owned()
}

fn of_admin(decision: &Decision) -> String {
    decision.3.to_owned()
}

fn of_both(decision: &Decision) -> String {
    [decision.2, decision.3][usize::from(decision.2.is_empty())].to_owned()
}

/// PUBLIC's rights, with the way to them.
fn of_visitor(decision: &Decision) -> String {
    let is_schema = decision.0.starts_with("schema ");
    if is_schema { "USAGE" } else { decision.1 }.to_owned()
}

fn of_owner(decision: &Decision) -> String {
    match decision.0.split_once(' ').unwrap().0 {
        "schema" => "USAGE, CREATE",
        "function" => "EXECUTE",
        "type" => "USAGE",
        _ => "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER",
    }
    .to_owned()
}

/// Statements that take a right on a relation, and the SQLSTATE for who has it not.
fn statements(
    db: &Database,
    kind: &str,
    relation: &str,
) -> Vec<(&'static str, &'static str, String)> {
    let columns = db.superuser().query(
        "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped",
        &[&relation],
    );
    let columns: Vec<String> = columns.unwrap().iter().map(|row| row.get(0)).collect();
    let any = &columns[0];
    let mut statements = vec![
        ("SELECT", format!("SELECT FROM {relation}")),
        ("SELECT", format!("SELECT * FROM {relation}")),
        (
            "SELECT",
            format!("DO $$ BEGIN LOCK {relation} IN ACCESS SHARE MODE; END $$"),
        ),
        ("UPDATE", format!("DO $$ BEGIN LOCK {relation}; END $$")),
        ("UPDATE", format!("SELECT FROM {relation} FOR KEY SHARE")),
        ("INSERT", format!("INSERT INTO {relation} DEFAULT VALUES")),
        ("DELETE", format!("DELETE FROM {relation}")),
        ("owner", format!("COMMENT ON {kind} {relation} IS 'mine'")),
        ("owner", format!("ALTER {kind} {relation} RENAME TO mine")),
        ("owner", format!("DROP {kind} {relation} CASCADE")),
        (
            "owner",
            format!("CREATE RULE mine AS ON INSERT TO {relation} DO INSTEAD NOTHING"),
        ),
    ];
    for column in &columns {
        statements.push(("SELECT", format!("SELECT {column} FROM {relation}")));
        statements.push((
            "UPDATE",
            format!("UPDATE {relation} SET {column} = DEFAULT"),
        ));
    }
    let trigger = "FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()";
    if kind == "view" {
        statements.push((
            "TRIGGER",
            format!("CREATE TRIGGER mine INSTEAD OF INSERT ON {relation} {trigger}"),
        ));
    } else {
        statements.extend([
            ("SELECT", format!("COPY {relation} TO STDOUT")),
            (
                "SELECT",
                format!("CREATE TEMP TABLE mine (LIKE {relation})"),
            ),
            ("INSERT", format!("COPY {relation} FROM STDIN")),
            ("TRUNCATE", format!("TRUNCATE {relation} CASCADE")),
            (
                "TRIGGER",
                format!("CREATE TRIGGER mine BEFORE INSERT ON {relation} {trigger}"),
            ),
            (
                "owner",
                format!("CREATE TEMP TABLE mine () INHERITS ({relation})"),
            ),
            ("owner", format!("CREATE INDEX ON {relation} ({any})")),
            (
                "owner",
                format!(
                    "CREATE STATISTICS pg_temp.mine (dependencies) ON {} FROM {relation}",
                    columns[..2].join(", ")
                ),
            ),
            (
                "owner",
                format!("ALTER TABLE {relation} ENABLE ROW LEVEL SECURITY"),
            ),
            ("owner", format!("CREATE POLICY mine ON {relation}")),
            (
                "owner",
                format!("ALTER TABLE {relation} DISABLE TRIGGER ALL"),
            ),
            ("owner", format!("CLUSTER {relation}")),
            ("owner", format!("REINDEX TABLE {relation}")),
        ]);
    }
    // A view that cannot be written through, or a column of it that cannot, says so first.
    let updatable: bool = db.value(
        "SELECT pg_relation_is_updatable($1::text::regclass, false) <> 0",
        &[&relation],
    );
    let code = |statement: &str| {
        let writes = ["INSERT", "UPDATE", "DELETE"]
            .iter()
            .any(|verb| statement.starts_with(verb));
        match statement {
            _ if writes && !updatable => "55000",
            _ if kind == "view" && statement.contains("SET status =") => "0A000",
            _ => "42501",
        }
    };
    let statements = statements.into_iter();
    let with_code = statements.map(|(right, statement)| (right, code(&statement), statement));
    with_code.collect()
}

/// A call of a function with nothing but NULLs, which each of them refuses by itself, once it may be called.
fn call(db: &Database, function: &str) -> String {
    let arguments: String = db.value(
        "SELECT string_agg('NULL::' || format_type(t.oid, NULL), ', ' ORDER BY a.n)
           FROM pg_proc AS p, unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (oid, n) JOIN pg_type AS t ON t.oid = a.oid
          WHERE p.oid = $1::text::regprocedure",
        &[&function],
    );
    format!(
        "SELECT {}({arguments})",
        function.split('(').next().unwrap()
    )
}

/// The catalogue says what was decided, and what is tried is answered like that.
#[track_caller]
fn assert_may(db: &Database, who: &str, client: &mut Client, column: fn(&Decision) -> String) {
    assert_rights(who, client, column);
    let enters = decided(column).contains(&("schema magic_link".to_owned(), "USAGE".to_owned()));
    for decision in DECISIONS {
        let (kind, name) = decision.0.split_once(' ').unwrap();
        let held = column(decision);
        match kind {
            "function" => {
                let call = call(db, name);
                let expected = if enters && held == "EXECUTE" {
                    "22004"
                } else {
                    "42501"
                };
                client.query(&call, &[]).expect_sqlstate(expected);
            }
            "table" | "view" => {
                for (right, code, statement) in statements(db, kind, name) {
                    let answer = client.batch_execute(&statement);
                    if enters && held.split(", ").any(|held| held == right) {
                        assert!(answer.is_ok(), "{who}: {statement}: {answer:?}");
                    } else {
                        let refused = answer.expect_err(&format!("{who}: {statement}"));
                        let found = refused.code().map(|code| code.code());
                        let expected = if enters { code } else { "42501" };
                        assert_eq!(found, Some(expected), "{who}: {statement}: {refused:?}");
                    }
                }
            }
            _ => {}
        }
    }
    for statement in [
        "CREATE TABLE magic_link.mine ()",
        "CREATE FUNCTION magic_link.normalize_email(varchar) RETURNS text LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE magic_link.mine AS ENUM ()",
        "ALTER SCHEMA magic_link RENAME TO mine",
        "COMMENT ON SCHEMA magic_link IS 'mine'",
        "COMMENT ON EXTENSION magic_link IS 'mine'",
        "ALTER EXTENSION magic_link UPDATE",
        "ALTER EXTENSION magic_link DROP SCHEMA magic_link",
        "DROP EXTENSION magic_link CASCADE",
        "DROP SCHEMA magic_link CASCADE",
        "GRANT USAGE ON SCHEMA magic_link TO PUBLIC",
        "GRANT ALL ON ALL TABLES IN SCHEMA magic_link TO PUBLIC",
        "ALTER FUNCTION magic_link.normalize_email(text) RESET ALL",
        "ALTER TYPE magic_link.users OWNER TO CURRENT_USER",
    ] {
        // To grant what one has not, where one has a part of it, is a warning.
        let answer = client.batch_execute(statement);
        if let Err(error) = &answer {
            assert!(
                matches!(error.code().unwrap().code(), "42501" | "42809"),
                "{who}: {statement}: {error:?}"
            );
        } else {
            assert!(statement.starts_with("GRANT"), "{who}: {statement}");
        }
    }
    assert_rights(who, client, column);
}

#[test]
fn each_kind_of_role_may_do_what_was_decided_and_nothing_else() {
    let db = Database::new();
    let (backend, admin) = (db.backend_role(), db.admin_role());
    db.backend()
        .batch_execute("SELECT magic_link.create_one_time_token('ada@example.com')")
        .unwrap();
    let before = db.contents();
    let [without_grants, visitor, both] =
        ["without_grants", "visitor", "both"].map(|kind| db.role(kind, "LOGIN"));
    db.sql(&format!(
        "GRANT USAGE ON SCHEMA magic_link TO {visitor};
         SELECT magic_link.grant_backend('{both}'), magic_link.grant_admin('{both}')"
    ));
    assert_may(
        &db,
        "without_grants",
        &mut db.connect_as(&without_grants),
        of_public,
    );
    assert_may(&db, "visitor", &mut db.connect_as(&visitor), of_visitor);
    assert_may(&db, "backend", &mut db.backend(), of_backend);
    assert_may(&db, "admin", &mut db.admin(), of_admin);
    assert_may(&db, "both", &mut db.connect_as(&both), of_both);
    assert_rights("owner", &mut db.superuser(), of_owner);
    for function in DECISIONS
        .iter()
        .filter_map(|decision| decision.0.strip_prefix("function "))
    {
        db.superuser()
            .query(&call(&db, function), &[])
            .expect_sqlstate("22004");
    }

    // Taken back, in a session that had it.
    let mut had = db.connect_as(&both);
    db.sql(&format!("SELECT magic_link.revoke_backend('{both}')"));
    assert_may(&db, "no backend any more", &mut had, of_admin);
    db.sql(&format!("SELECT magic_link.revoke_admin('{both}')"));
    assert_may(&db, "no admin any more", &mut had, of_public);

    // A member has what the role has, at once or when it takes the role on.
    let inheriting = db.role("inheriting", &format!("LOGIN IN ROLE {backend}"));
    assert_may(&db, "a member", &mut db.connect_as(&inheriting), of_backend);
    let reserved = db.role(
        "reserved",
        &format!("LOGIN NOINHERIT IN ROLE {backend}, {admin}"),
    );
    let mut reserved = db.connect_as(&reserved);
    assert_may(
        &db,
        "a member that does not inherit",
        &mut reserved,
        of_public,
    );
    for (role, column) in [
        (&backend, of_backend as fn(&Decision) -> String),
        (&admin, of_admin),
    ] {
        reserved.batch_execute(&format!("SET ROLE {role}")).unwrap();
        assert_may(&db, "a member that took the role on", &mut reserved, column);
    }
    reserved.batch_execute("RESET ROLE").unwrap();
    assert_may(&db, "a member that put it down", &mut reserved, of_public);
    assert_eq!(db.contents(), before);
}

/// What keeps the table above whole.
#[test]
fn a_new_object_without_a_decision_is_noticed() {
    for object in [
        "FUNCTION magic_link.another() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "TABLE magic_link.another ()",
        "SEQUENCE magic_link.another",
        "TYPE magic_link.another AS ENUM ('a')",
        "DOMAIN magic_link.another AS text",
        "SCHEMA another; ALTER EXTENSION magic_link ADD SCHEMA another",
        "FUNCTION public.another() RETURNS integer LANGUAGE sql AS 'SELECT 1';
         ALTER EXTENSION magic_link ADD FUNCTION public.another()",
    ] {
        let db = Database::new();
        assert_rights("backend", &mut db.backend(), of_backend);
        db.sql(&format!("CREATE {object}"));
        assert_ne!(rights(&mut db.backend()), decided(of_backend), "{object}");
    }
    let db = Database::new();
    db.sql(&format!(
        "GRANT SELECT (email) ON magic_link.users TO {}",
        db.backend_role()
    ));
    assert_ne!(rights(&mut db.backend()), decided(of_backend));
}

//! What CREATE EXTENSION makes, where it refuses to, and that it can be dropped and made again.

use magic_link_harness::{Calls, Cluster, Database, ExpectSqlState};

const ADA: &str = "ada@example.com";

fn list(db: &Database, query: &str) -> Vec<String> {
    let rows = db.superuser().query(query, &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The names of arguments are part of the contract: callers use them.
#[test]
fn the_functions_are_those_of_the_contract() {
    let db = Database::new();
    let functions = list(
        &db,
        "SELECT proname || '(' || pg_get_function_arguments(oid) || ') ' || pg_get_function_result(oid)
           FROM pg_proc WHERE pronamespace = 'magic_link'::regnamespace ORDER BY 1",
    );
    let redeemed = "OUT token_id uuid, OUT user_id text, OUT user_created boolean, OUT email text, \
                    OUT context jsonb, OUT memberships jsonb, OUT redeemed_at timestamp with time zone, \
                    OUT replayed boolean";
    let presented = "token text, email text, interaction_event text DEFAULT NULL::text";
    let issued = "OUT id uuid, OUT token text, OUT email text, OUT context jsonb, OUT status text, \
                  OUT created_at timestamp with time zone, OUT expires_at timestamp with time zone";
    let terms = "expires_in integer DEFAULT 600, context jsonb DEFAULT '{}'::jsonb";
    let expected = [
        // Of no use to anybody, and closed to all: see its comment.
        "change_privileges(role regrole, kind text, command text) void".to_owned(),
        format!("check_one_time_token({presented}, OUT outcome text) text"),
        "compose_magic_link(base_url text, token text, email text, params jsonb DEFAULT '{}'::jsonb, \
         token_param text DEFAULT 'token'::text, email_param text DEFAULT 'email'::text) text"
            .to_owned(),
        format!("create_one_time_token(email text, {terms}, {issued}) record"),
        format!("create_one_time_tokens(emails text[], {terms}, {issued}) SETOF record"),
        "delete_one_time_token(id uuid) boolean".to_owned(),
        "grant_admin(role regrole) void".to_owned(),
        "grant_backend(role regrole) void".to_owned(),
        "normalize_email(email text) text".to_owned(),
        "one_time_token_id(token text) uuid".to_owned(),
        // For the CHECK of one_time_tokens.
        "one_time_token_is_sound(one_time_token magic_link.one_time_tokens) boolean".to_owned(),
        "purge_one_time_tokens(retention interval DEFAULT '30 days'::interval, batch_size integer DEFAULT 10000) bigint"
            .to_owned(),
        format!("redeem_one_time_token({presented}, {redeemed}) record"),
        "revoke_admin(role regrole) void".to_owned(),
        "revoke_backend(role regrole) void".to_owned(),
        "revoke_one_time_token(id uuid) text".to_owned(),
        "revoke_one_time_tokens(email text, interaction_event text DEFAULT NULL::text) bigint".to_owned(),
        "session_switch_decision(token text, email text, session_email text DEFAULT NULL::text, \
         prompt text DEFAULT NULL::text, OUT decision text, OUT reason text) record"
            .to_owned(),
        format!("try_redeem_one_time_token({presented}, OUT outcome text, {redeemed}) record"),
    ];
    assert_eq!(functions, expected);
}

#[test]
fn the_tables_and_views_are_those_of_the_contract() {
    let db = Database::new();
    let relations = list(
        &db,
        "SELECT relkind::text || ' ' || relname FROM pg_class
          WHERE relnamespace = 'magic_link'::regnamespace AND relkind <> 'i' ORDER BY 1",
    );
    let expected = [
        "r one_time_tokens",
        "r organization_jit_email_domains",
        "r organization_jit_roles",
        "r organization_membership_roles",
        "r organization_memberships",
        "r organization_roles",
        "r organizations",
        "r users",
        "v one_time_token_activity",
        "v one_time_token_status",
        "v session_switch",
    ];
    assert_eq!(relations, expected);
}

#[test]
fn everything_explains_itself_in_psql() {
    let db = Database::new();
    let silent = list(
        &db,
        "SELECT 'function ' || oid::regprocedure FROM pg_proc
          WHERE pronamespace = 'magic_link'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL
         UNION ALL
         SELECT 'relation ' || oid::regclass FROM pg_class
          WHERE relnamespace = 'magic_link'::regnamespace AND relkind IN ('r', 'v')
            AND obj_description(oid, 'pg_class') IS NULL
         UNION ALL
         SELECT 'column ' || c.oid::regclass || '.' || a.attname
           FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
          WHERE c.relnamespace = 'magic_link'::regnamespace AND c.relkind IN ('r', 'v')
            AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
         UNION ALL
         SELECT 'check ' || conname FROM pg_constraint
          WHERE conrelid = 'magic_link.one_time_tokens'::regclass AND contype = 'c'
            AND obj_description(oid, 'pg_constraint') IS NULL
         UNION ALL
         SELECT 'schema' FROM pg_namespace WHERE nspname = 'magic_link' AND obj_description(oid, 'pg_namespace') IS NULL
         UNION ALL
         SELECT 'extension' FROM pg_extension
          WHERE extname = 'magic_link' AND obj_description(oid, 'pg_extension') IS NULL",
    );
    assert_eq!(silent, [""; 0]);
}

/// Without it an update of a token's row would in time find no free space in its page.
#[test]
fn the_ledger_leaves_room_for_its_updates() {
    let db = Database::new();
    let options =
        "SELECT reloptions FROM pg_class WHERE oid = 'magic_link.one_time_tokens'::regclass";
    assert_eq!(db.value::<Vec<String>>(options, &[]), ["fillfactor=45"]);
}

#[test]
fn all_tables_are_marked_for_pg_dump() {
    let db = Database::new();
    let marked = list(
        &db,
        "SELECT unnest(extconfig)::regclass::text FROM pg_extension WHERE extname = 'magic_link' ORDER BY 1",
    );
    assert_eq!(marked, db.tables());
    let filtered: bool = db.value(
        "SELECT bool_or(condition <> '') FROM pg_extension, unnest(extcondition) AS condition
          WHERE extname = 'magic_link'",
        &[],
    );
    assert!(!filtered, "a part of a table would be missing from a dump");
}

#[test]
fn foreign_keys_cascade_and_have_an_index() {
    let db = Database::new();
    let keys = "SELECT conname::text FROM pg_constraint
                 WHERE contype = 'f' AND connamespace = 'magic_link'::regnamespace";
    assert!(list(&db, keys).len() >= 6);
    assert_eq!(
        list(&db, &format!("{keys} AND confdeltype <> 'c'")),
        [""; 0]
    );
    let unindexed = format!(
        "{keys} AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = conrelid
             AND (i.indkey::int2[])[0:cardinality(conkey) - 1] @> conkey)"
    );
    assert_eq!(list(&db, &unindexed), [""; 0]);
}

/// Everything that is installed goes with the extension, and everything in the schema is of it.
#[test]
fn everything_belongs_to_the_extension() {
    let db = Database::new();
    let strays = "
        SELECT c.oid::regclass::text FROM pg_class AS c
         WHERE c.relnamespace = 'magic_link'::regnamespace AND c.relkind IN ('r', 'v')
           AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e')
        UNION ALL
        SELECT p.oid::regprocedure::text FROM pg_proc AS p
         WHERE p.pronamespace = 'magic_link'::regnamespace
           AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')";
    assert_eq!(list(&db, strays), [""; 0]);
}

#[test]
fn a_schema_that_somebody_made_is_not_adopted() {
    let db = Database::bare(Cluster::shared(), "");
    db.sql("CREATE SCHEMA magic_link");
    let error = db
        .superuser()
        .batch_execute("CREATE EXTENSION magic_link")
        .expect_sqlstate("42P06");
    assert!(error.message().contains("magic_link"), "{error:?}");
    assert_eq!(
        list(&db, "SELECT extname::text FROM pg_extension"),
        ["plpgsql"]
    );

    db.sql("DROP SCHEMA magic_link; CREATE EXTENSION magic_link");
}

#[test]
fn another_schema_cannot_be_asked_for() {
    let db = Database::bare(Cluster::shared(), "");
    let mut superuser = db.superuser();
    assert!(
        superuser
            .batch_execute("CREATE EXTENSION magic_link SCHEMA public")
            .is_err()
    );
    superuser
        .batch_execute("CREATE EXTENSION magic_link")
        .unwrap();
    assert!(
        superuser
            .batch_execute("ALTER EXTENSION magic_link SET SCHEMA public")
            .is_err()
    );
}

#[test]
fn installing_takes_a_superuser() {
    let db = Database::bare(Cluster::shared(), "");
    let owner = db.role("owner", "LOGIN");
    db.sql(&format!("ALTER DATABASE {} OWNER TO {owner}", db.name()));
    db.connect_as(&owner)
        .batch_execute("CREATE EXTENSION magic_link")
        .expect_sqlstate("42501");
}

/// Plans are kept for the length of a session; the tables behind them may be replaced.
#[test]
fn a_session_outlives_the_extension() {
    let db = Database::new();
    let (mut superuser, mut backend) = (db.superuser(), db.backend());
    for _ in 0..2 {
        for client in [&mut superuser, &mut backend] {
            let issued = client.create(ADA, "{}").unwrap();
            client.redeem(&issued.token, ADA).unwrap();
            client.redeem(&issued.token, ADA).expect_sqlstate("OT003");
            let (decision, _) = client.decide(&issued.token, ADA, Some(ADA), None).unwrap();
            assert_eq!(decision, "continue");
        }
        superuser
            .batch_execute("DROP EXTENSION magic_link")
            .unwrap();
        let left: i64 = superuser
            .query_one(
                "SELECT count(*) FROM pg_namespace WHERE nspname = 'magic_link'",
                &[],
            )
            .unwrap()
            .get(0);
        assert_eq!(left, 0);
        superuser
            .batch_execute("CREATE EXTENSION magic_link")
            .unwrap();
        db.sql(&format!(
            "SELECT magic_link.grant_backend('{}')",
            db.backend_role()
        ));
        assert_eq!(db.count("magic_link.users"), 0);
    }
}

/// An application may add columns of its own; a session that has plans for the old shape goes on.
#[test]
fn a_table_can_be_altered_under_a_session() {
    let db = Database::new();
    let mut backend = db.backend();
    let mut flow = || {
        let issued = backend.create(ADA, "{}").unwrap();
        backend.redeem(&issued.token, ADA).unwrap();
    };
    flow();
    db.sql(
        "ALTER TABLE magic_link.users ADD COLUMN nickname text DEFAULT 'none';
         ALTER TABLE magic_link.one_time_tokens ADD COLUMN note text",
    );
    flow();
    db.sql("ALTER TABLE magic_link.users DROP COLUMN nickname");
    flow();
}

/// As after an update that only one of library and declarations went through.
#[test]
fn a_declaration_that_does_not_match_the_library_is_refused() {
    let db = Database::new();
    db.sql(
        "CREATE FUNCTION public.redeem(token text, email text, OUT outcome text) LANGUAGE c
         AS '$libdir/magic_link', 'magic_link_check_one_time_token';
         CREATE FUNCTION public.decide(text, text, text, text, OUT decision text) LANGUAGE c
         AS '$libdir/magic_link', 'magic_link_session_switch_decision'",
    );
    for call in ["redeem('x', 'a@b.c')", "decide('x', 'a@b.c', '', '')"] {
        let error = db
            .superuser()
            .batch_execute(&format!("SELECT public.{call}"));
        let error = error.expect_sqlstate("42P13");
        assert_eq!(error.hint(), Some("Run ALTER EXTENSION magic_link UPDATE."));
    }
}

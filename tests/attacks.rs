//! A backend role that attacks the extension. It has what `grant_backend` gives and schemas of its own. Whatever objects and
//! settings it makes, the functions answer as before and it sees no more than before.

use magic_link_harness::postgres::{Client, NoTls};
use magic_link_harness::{Calls, Database, ExpectSqlState};
use serde_json::json;

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";

/// A database in which the backend's role may make schemas and objects of its own.
fn hostile() -> (Database<'static>, Client) {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let role = db.backend_role();
    db.sql(&format!(
        "GRANT CREATE, TEMP ON DATABASE {} TO {role}; CREATE SCHEMA mine AUTHORIZATION {role}",
        db.name()
    ));
    let backend = db.backend();
    (db, backend)
}

/// A token's whole way, and what the tables say of it afterwards.
#[track_caller]
fn assert_true_answers(db: &Database, backend: &mut Client, after: &str) {
    let email = format!(
        "person{}@example.com",
        db.count("magic_link.one_time_tokens")
    );
    let told =
        |answer: Result<_, _>| -> _ { answer.unwrap_or_else(|error| panic!("{after}: {error:?}")) };
    let issued = told(backend.create(&email, r#"{"jitOrganizationIds": ["acme"]}"#));
    let life = issued.expires_at.duration_since(issued.created_at).unwrap();
    assert_eq!(
        (life.as_secs(), issued.status.as_str()),
        (600, "active"),
        "{after}"
    );
    assert_eq!(
        backend.check_in(None, &issued.token, &email).unwrap(),
        "ok",
        "{after}"
    );
    backend.redeem(&issued.token, EVE).expect_sqlstate("OT002");
    assert_eq!(db.status_of(&issued), "active", "{after}");
    let redeemed = backend.redeem(&issued.token, &email).unwrap();
    let joined = json!([{"organizationId": "acme", "status": "added", "roleIds": ["member"]}]);
    assert_eq!(redeemed.memberships, joined, "{after}");
    assert!(redeemed.user_created && !redeemed.replayed, "{after}");
    backend
        .redeem(&issued.token, &email)
        .expect_sqlstate("OT003");
    assert_eq!(db.status_of(&issued), "consumed", "{after}");
    let user: String = db.value(
        "SELECT u.id::text FROM magic_link.users AS u
           JOIN magic_link.organization_membership_roles AS r ON r.user_id = u.id
          WHERE u.email = $1 AND r.organization_id = 'acme' AND r.organization_role_id = 'member'",
        &[&email],
    );
    assert_eq!(user, redeemed.user_id, "{after}");
    let consumer: String = db.value(
        "SELECT consumed_by FROM magic_link.one_time_tokens WHERE id = $1",
        &[&issued.id],
    );
    assert_eq!(consumer, redeemed.user_id, "{after}");
    let bulk = backend.create_all(&[ADA, EVE], "{}").unwrap();
    assert_eq!(
        bulk.iter()
            .map(|row| row.email.as_str())
            .collect::<Vec<_>>(),
        [ADA, EVE],
        "{after}"
    );
    let (decision, _) = backend
        .decide(&bulk[0].token, ADA, Some(EVE), Some("login"))
        .unwrap();
    assert_eq!(decision, "switch", "{after}");
}

/// Types, casts, operators, aggregates and collations of the names that our SQL uses, but those of the tests' own.
const SHADOWS: &str = r#"
    CREATE TYPE mine.email AS (address text);
    CREATE DOMAIN mine.bytea AS pg_catalog.bytea CHECK (VALUE IS NULL);
    CREATE DOMAIN mine.uuid AS pg_catalog.uuid CHECK (VALUE IS NULL);
    CREATE DOMAIN mine.int8 AS pg_catalog.int8 CHECK (VALUE IS NULL);
    CREATE DOMAIN mine.timestamptz AS pg_catalog.timestamptz CHECK (VALUE IS NULL);
    CREATE FUNCTION mine.stumble() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'EV001', MESSAGE = 'stumbled as ' || current_user; END $$;
    CREATE FUNCTION mine.as_email(text) RETURNS mine.email LANGUAGE sql IMMUTABLE AS
        'SELECT ROW($1)::mine.email FROM mine.stumble()';
    CREATE FUNCTION mine.as_text(mine.email) RETURNS text LANGUAGE sql IMMUTABLE AS
        'SELECT ''x''::text FROM mine.stumble()';
    CREATE FUNCTION mine.as_email(bytea) RETURNS mine.email LANGUAGE sql IMMUTABLE AS
        'SELECT NULL::mine.email FROM mine.stumble()';
    CREATE CAST (pg_catalog.text AS mine.email) WITH FUNCTION mine.as_email(text) AS IMPLICIT;
    CREATE CAST (mine.email AS pg_catalog.text) WITH FUNCTION mine.as_text(mine.email) AS IMPLICIT;
    CREATE CAST (pg_catalog.bytea AS mine.email) WITH FUNCTION mine.as_email(bytea) AS IMPLICIT;
    CREATE FUNCTION mine.compare(mine.email, mine.email) RETURNS boolean LANGUAGE sql AS 'SELECT mine.stumble()';
    CREATE FUNCTION mine.compare(pg_catalog.text, mine.email) RETURNS boolean LANGUAGE sql AS 'SELECT mine.stumble()';
    CREATE FUNCTION mine.compare(anyelement, anyelement) RETURNS boolean LANGUAGE sql AS 'SELECT mine.stumble()';
    CREATE OPERATOR mine.= (FUNCTION = mine.compare, LEFTARG = mine.email, RIGHTARG = mine.email);
    CREATE OPERATOR mine.= (FUNCTION = mine.compare, LEFTARG = pg_catalog.text, RIGHTARG = mine.email);
    CREATE OPERATOR mine.= (FUNCTION = mine.compare, LEFTARG = anyelement, RIGHTARG = anyelement);
    CREATE FUNCTION mine.step(int8, "any") RETURNS int8 LANGUAGE internal IMMUTABLE AS 'int8inc_any';
    CREATE COLLATION mine."C" (provider = icu, locale = 'und', deterministic = false)
"#;

/// All that a role may put first in its search_path, and among its temporary objects.
#[test]
fn objects_of_the_same_names_are_not_found() {
    let (db, mut backend) = hostile();
    for statement in SHADOWS
        .split(";\n    CREATE")
        .map(|tail| tail.trim_start().trim_start_matches("CREATE"))
    {
        let answer = backend.batch_execute(&format!("CREATE {statement}"));
        // Only superusers use internal functions, and not every server knows ICU.
        if let Err(error) = answer {
            let code = error.code().unwrap().code().to_owned();
            let allowed = statement.contains("LANGUAGE internal") && code == "42501"
                || statement.contains("icu") && code == "0A000";
            assert!(allowed, "{statement}: {error:?}");
        }
    }
    for (name, arguments, returns) in [
        ("now", "", "timestamptz"),
        ("clock_timestamp", "", "timestamptz"),
        ("make_interval", "integer", "interval"),
        ("unnest", "uuid[]", "SETOF uuid"),
        ("sha256", "bytea", "bytea"),
        ("count", "", "bigint"),
        ("normalize_email", "text", "text"),
        ("one_time_token_is_sound", "anyelement", "boolean"),
        ("current_setting", "text, boolean", "text"),
        ("hashtext", "text", "integer"),
        ("pg_advisory_xact_lock", "integer, integer", "boolean"),
        ("gen_random_uuid", "", "uuid"),
        ("ceil", "numeric", "numeric"),
    ] {
        for schema in ["mine", "pg_temp"] {
            let value = returns.trim_start_matches("SETOF ");
            backend
                .batch_execute(&format!(
                    "CREATE FUNCTION {schema}.{name}({arguments}) RETURNS {returns} LANGUAGE sql
                         AS 'SELECT NULL::{value} FROM mine.stumble()'"
                ))
                .unwrap();
        }
    }
    let tables: Vec<String> = db.tables();
    for table in &tables {
        let name = table.trim_start_matches("magic_link.");
        for schema in ["mine", "pg_temp"] {
            backend
                .batch_execute(&format!(
                    "CREATE TABLE {schema}.{name} (id text, email text)"
                ))
                .unwrap();
        }
    }
    for path in [
        "mine, pg_catalog",
        "pg_temp, mine, pg_catalog",
        "mine, pg_temp, magic_link, pg_catalog",
        r#""$user", mine, pg_temp, pg_catalog"#,
        "mine",
        "pg_temp",
        "''",
    ] {
        backend
            .batch_execute(&format!("SET search_path = {path}"))
            .unwrap();
        assert_true_answers(&db, &mut backend, path);
        // In a session whose first plans are made under this path.
        let mut fresh = db.backend();
        fresh
            .batch_execute(&format!("SET search_path = {path}"))
            .unwrap();
        assert_true_answers(&db, &mut fresh, path);
    }
    for table in &tables {
        let name = table.trim_start_matches("magic_link.");
        let stolen = format!("SELECT FROM mine.{name} UNION ALL SELECT FROM pg_temp.{name}");
        assert!(backend.query(&stolen, &[]).unwrap().is_empty(), "{name}");
    }
}

/// Every setting that anybody may change and that has to do with how statements are read, planned or run.
#[test]
fn no_setting_of_postgresqls_own_changes_an_answer() {
    let (db, mut backend) = hostile();
    for settings in [
        &[
            "transform_null_equals = on",
            "standard_conforming_strings = off",
            "backslash_quote = on",
            "escape_string_warning = off",
        ][..],
        &[
            "datestyle = 'German, YMD'",
            "intervalstyle = 'sql_standard'",
            "timezone = 'Pacific/Kiritimati'",
            "timezone_abbreviations = 'Australia'",
        ],
        &[
            "datestyle = 'SQL, DMY'",
            "intervalstyle = 'iso_8601'",
            "timezone = '-15:59'",
        ],
        &[
            "bytea_output = escape",
            "extra_float_digits = -15",
            "xmloption = document",
            "xmlbinary = hex",
            "quote_all_identifiers = on",
            "array_nulls = off",
        ],
        &[
            "plan_cache_mode = force_custom_plan",
            "enable_indexscan = off",
            "enable_indexonlyscan = off",
            "enable_bitmapscan = off",
            "enable_tidscan = off",
        ],
        &[
            "plan_cache_mode = force_generic_plan",
            "enable_seqscan = off",
            "enable_nestloop = off",
            "enable_sort = off",
            "enable_hashjoin = off",
        ],
        &[
            "enable_nestloop = off",
            "enable_mergejoin = off",
            "enable_hashagg = off",
            "enable_material = off",
            "enable_memoize = off",
        ],
        &[
            "work_mem = 64",
            "hash_mem_multiplier = 1",
            "temp_buffers = 100",
            "maintenance_work_mem = 1024",
            "logical_decoding_work_mem = 64",
        ],
        &[
            "jit = on",
            "jit_above_cost = 0",
            "jit_inline_above_cost = 0",
            "jit_optimize_above_cost = 0",
        ],
        &[
            "seq_page_cost = 1e10",
            "cpu_operator_cost = 0",
            "random_page_cost = 0",
            "effective_cache_size = 1",
            "cursor_tuple_fraction = 0",
        ],
        &[
            "geqo_threshold = 2",
            "from_collapse_limit = 1",
            "join_collapse_limit = 1",
            "constraint_exclusion = on",
            "default_statistics_target = 1",
        ],
        &[
            "max_parallel_workers_per_gather = 8",
            "parallel_setup_cost = 0",
            "parallel_tuple_cost = 0",
            "min_parallel_table_scan_size = 0",
            "min_parallel_index_scan_size = 0",
        ],
        &[
            "default_transaction_isolation = 'serializable'",
            "default_transaction_deferrable = on",
            "synchronous_commit = off",
            "commit_siblings = 0",
        ],
        &[
            "check_function_bodies = off",
            "row_security = off",
            "client_min_messages = debug5",
            "event_triggers = off",
            "createrole_self_grant = 'set'",
        ],
        &[
            "default_toast_compression = pglz",
            "default_table_access_method = heap",
            "default_tablespace = ''",
            "temp_tablespaces = ''",
            "client_encoding = 'LATIN1'",
        ],
        &[
            "lock_timeout = '1h'",
            "statement_timeout = '1h'",
            "idle_in_transaction_session_timeout = '1h'",
            "gin_fuzzy_search_limit = 1",
            "vacuum_cost_delay = 100",
        ],
        &[
            "debug_print_parse = on",
            "debug_print_rewritten = on",
            "debug_print_plan = on",
            "debug_pretty_print = off",
        ],
        &[
            "local_preload_libraries = ''",
            "password_encryption = 'md5'",
            "application_name = 'magic_link'",
            "search_path = 'mine'",
            "stats_fetch_consistency = 'none'",
        ],
    ] {
        for setting in settings {
            // Some are of newer versions; one that nobody may set is refused.
            let set = backend.batch_execute(&format!("SET {setting}"));
            if let Err(error) = set {
                assert!(
                    ["42704", "42501"].contains(&error.code().unwrap().code()),
                    "{setting}: {error:?}"
                );
            }
        }
        assert_true_answers(&db, &mut backend, &format!("{settings:?}"));
        backend.batch_execute("DISCARD ALL").unwrap();
        assert_true_answers(&db, &mut backend, &format!("after {settings:?}"));
    }
    // What stops a call stops all of it.
    for (set, begin) in [
        ("SET default_transaction_read_only = on", "BEGIN"),
        ("RESET ALL", "BEGIN; SET LOCAL transaction_read_only = on"),
    ] {
        let before = db.contents();
        backend.batch_execute(set).unwrap();
        backend.batch_execute(begin).unwrap();
        backend.create(ADA, "{}").expect_sqlstate("25006");
        backend.batch_execute("ROLLBACK").unwrap();
        assert_eq!(db.contents(), before);
    }
    for setting in [
        "session_replication_role = replica",
        "lc_messages = 'C'",
        "zero_damaged_pages = on",
        "log_statement = 'all'",
        "session_preload_libraries = 'x'",
        "allow_system_table_mods = on",
        "deadlock_timeout = '1h'",
        "jit_debugging_support = on",
    ] {
        backend
            .batch_execute(&format!("SET {setting}"))
            .unwrap_err();
    }
}

/// Less common ways to change a setting that only a superuser may change. tests/address_limits.rs has the common ones.
#[test]
fn a_guarded_setting_is_out_of_reach() {
    let (db, _) = hostile();
    db.set("max_active_tokens", 1);
    for loaded in [false, true] {
        let mut backend = db.backend();
        if loaded {
            backend.check_in(None, "0", ADA).unwrap();
        }
        let role = db.backend_role();
        for attempt in [
            "CREATE OR REPLACE FUNCTION mine.unlimited() RETURNS text LANGUAGE sql SET magic_link.max_active_tokens = 0
                 AS $$ SELECT token FROM magic_link.create_one_time_token('ada@example.com') $$",
            "CREATE OR REPLACE PROCEDURE mine.unlimited() LANGUAGE plpgsql SET magic_link.max_active_tokens FROM CURRENT
                 AS $$ BEGIN END $$; ALTER PROCEDURE mine.unlimited() SET magic_link.max_active_tokens = 0",
            &format!("ALTER ROLE {role} SET magic_link.max_active_tokens = 0"),
            "ALTER ROLE CURRENT_USER SET magic_link.max_active_tokens TO DEFAULT",
            "ALTER ROLE ALL SET magic_link.max_active_tokens = 0",
            &format!("ALTER DATABASE {} RESET magic_link.max_active_tokens", db.name()),
            "ALTER SYSTEM SET magic_link.max_active_tokens = 0",
            "GRANT SET ON PARAMETER magic_link.max_active_tokens TO CURRENT_USER",
            "UPDATE pg_settings SET setting = 0 WHERE name = 'magic_link.max_active_tokens'",
            "LOAD 'magic_link'; SET magic_link.max_active_tokens = 0",
            "BEGIN; SET LOCAL magic_link.max_active_tokens = 0; SAVEPOINT s; SET magic_link.max_active_tokens = 0;
             SELECT magic_link.check_one_time_token('0', 'ada@example.com'); ROLLBACK TO s; COMMIT",
            "BEGIN; SAVEPOINT s; SET magic_link.max_active_tokens = 0;
             SELECT magic_link.check_one_time_token('0', 'ada@example.com'); RELEASE s; COMMIT",
            "SET \"Magic_Link.MAX_active_tokens\" = 0",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE; RESET ALL",
            "DO $$ BEGIN PERFORM set_config('magic_link.max_active_tokens', '0', false); EXCEPTION WHEN OTHERS THEN END $$",
            "SET magic_link.unheard_of = 1",
        ] {
            let _ = backend.batch_execute(attempt);
            let _ = backend.batch_execute("ROLLBACK");
            for session in [&mut backend, &mut db.backend()] {
                db.sql("DELETE FROM magic_link.one_time_tokens");
                session.create(ADA, "{}").unwrap();
                session.create(ADA, "{}").expect_sqlstate("OT008");
            }
            let unlimited = "SELECT mine.unlimited()";
            if backend.query(unlimited, &[]).is_ok() {
                assert!(db.count("magic_link.one_time_tokens") <= 1, "{attempt}");
            }
        }
        backend
            .batch_execute("ALTER ROLE CURRENT_USER RESET ALL")
            .unwrap();
    }
}

#[test]
fn a_backend_becomes_nobody_else() {
    let (db, mut backend) = hostile();
    let admin = db.admin_role();
    for statement in [
        "SET ROLE postgres".to_owned(),
        format!("SET ROLE {admin}"),
        "SET SESSION AUTHORIZATION postgres".to_owned(),
        format!("SET SESSION AUTHORIZATION {admin}"),
        format!("GRANT {admin} TO CURRENT_USER"),
        "CREATE ROLE another IN ROLE postgres".to_owned(),
        "ALTER ROLE CURRENT_USER SUPERUSER".to_owned(),
        "ALTER ROLE CURRENT_USER BYPASSRLS".to_owned(),
        "SELECT * FROM pg_authid".to_owned(),
        "SELECT * FROM pg_statistic".to_owned(),
        "SELECT * FROM pg_user_mapping".to_owned(),
        "UPDATE pg_proc SET prosecdef = false".to_owned(),
        "DELETE FROM pg_depend".to_owned(),
        "CREATE FUNCTION mine.redeem(text, text, text) RETURNS record LANGUAGE c
             AS 'magic_link', 'magic_link_redeem_one_time_token'".to_owned(),
        "CREATE FUNCTION mine.redeem(text, text, text) RETURNS record LANGUAGE internal
             AS 'magic_link_redeem_one_time_token'".to_owned(),
        "CREATE OR REPLACE FUNCTION magic_link.normalize_email(email text) RETURNS text LANGUAGE sql AS 'SELECT $1'".to_owned(),
        "ALTER FUNCTION magic_link.normalize_email(text) SECURITY DEFINER".to_owned(),
        "ALTER FUNCTION magic_link.redeem_one_time_token(text, text, text) SET search_path = mine".to_owned(),
        "COPY (SELECT 1) TO PROGRAM 'true'".to_owned(),
        "COPY pg_temp.nothing FROM PROGRAM 'true'".to_owned(),
        "SELECT pg_read_file('PG_VERSION')".to_owned(),
        "SELECT lo_export(1, '/tmp/x')".to_owned(),
        "SELECT lo_import('/etc/hostname')".to_owned(),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres' LIMIT 1".to_owned(),
        "CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION mine.none()".to_owned(),
        "CREATE EXTENSION pageinspect".to_owned(),
        "CREATE SUBSCRIPTION mine CONNECTION '' PUBLICATION p".to_owned(),
        "CREATE PUBLICATION mine FOR TABLE magic_link.users".to_owned(),
        "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')".to_owned(),
        "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO PUBLIC".to_owned(),
        "SELECT magic_link.grant_backend(current_user::regrole)".to_owned(),
        "SECURITY LABEL ON TABLE magic_link.users IS 'x'".to_owned(),
    ] {
        let refused = backend.batch_execute(&statement).expect_err(&statement);
        let code = refused.code().unwrap().code().to_owned();
        // A thing that is not there, or a label provider, is missed before the right to it is looked at.
        assert!(["42501", "42P01", "42883", "22023", "0A000", "58P01"].contains(&code.as_str()), "{statement}: {refused:?}");
        let who: String = backend.query_one("SELECT current_user::text", &[]).unwrap().get(0);
        assert_eq!(who, db.backend_role(), "{statement}");
    }
    assert_true_answers(&db, &mut backend, "all that");
}

/// A function in WHERE sees the rows that the view shows, in the columns that it has, and no others.
#[test]
fn what_a_backends_own_function_sees_of_the_view_is_what_the_view_shows() {
    let (db, mut backend) = hostile();
    let tokens = [ADA, EVE].map(|email| {
        backend
            .create(email, r#"{"secret": "in the context"}"#)
            .unwrap()
    });
    backend.redeem(&tokens[0].token, ADA).unwrap();
    backend
        .batch_execute(
            "CREATE TABLE mine.seen (what text);
             CREATE FUNCTION mine.see(anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
                 $$ BEGIN INSERT INTO mine.seen VALUES ($1::text); RETURN true; END $$;
             CREATE FUNCTION mine.see_two(text, text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
                 $$ BEGIN INSERT INTO mine.seen VALUES ($1), ($2); RETURN true; END $$;
             CREATE OPERATOR mine.~~~ (FUNCTION = mine.see_two, LEFTARG = text, RIGHTARG = text)",
        )
        .unwrap();
    let leaks = [
        "SELECT FROM magic_link.session_switch AS s WHERE mine.see(s)",
        "SELECT FROM magic_link.session_switch AS s WHERE mine.see(s.*) AND s.token_email = 'ada@example.com'",
        "SELECT FROM magic_link.session_switch WHERE status OPERATOR(mine.~~~) reason OR decision OPERATOR(mine.~~~) prompt",
        "SELECT FROM magic_link.session_switch AS a JOIN magic_link.session_switch AS b ON a.token_email OPERATOR(mine.~~~) b.token_email",
        "SELECT token_id FROM magic_link.session_switch GROUP BY token_id, token_email HAVING mine.see(max(token_email))",
        "SELECT row_to_json(s), s::text FROM magic_link.session_switch AS s WHERE mine.see(row_to_json(s)::text)",
    ];
    for leak in leaks {
        backend
            .query(leak, &[])
            .unwrap_or_else(|error| panic!("{leak}: {error:?}"));
    }
    for (column, code) in [
        ("ctid", "42703"),
        ("xmin", "42703"),
        ("tableoid", "42703"),
        ("token_hash", "42703"),
        ("context", "42703"),
        ("s.t", "42703"),
    ] {
        let look = format!("SELECT {column} FROM magic_link.session_switch AS s");
        backend.query(&look, &[]).expect_sqlstate(code);
    }
    let user: String = db.value("SELECT id::text FROM magic_link.users", &[]);
    let (hash, rows): (String, i64) = (
        db.value(
            "SELECT encode(token_hash, 'hex') FROM magic_link.one_time_tokens ORDER BY id LIMIT 1",
            &[],
        ),
        db.count("mine.seen"),
    );
    assert!(rows >= 8, "{rows}");
    let seen: String = db.value("SELECT string_agg(what, E'\\n') FROM mine.seen", &[]);
    for secret in [
        hash.as_str(),
        "in the context",
        user.as_str(),
        &tokens[0].token,
        &tokens[1].token,
    ] {
        assert!(!seen.contains(secret), "{seen}");
    }
    // What PostgreSQL knows about the columns, and what it says of how it reads them.
    for view in ["pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"] {
        db.sql("ANALYZE");
        let known = backend.query(
            &format!("SELECT FROM {view} WHERE schemaname = 'magic_link'"),
            &[],
        );
        assert!(known.unwrap().is_empty(), "{view}");
    }
    let mut explained = String::new();
    for statement in leaks.iter().map(|leak| leak.to_string()).chain([
        format!(
            "SELECT * FROM magic_link.check_one_time_token('{}', '{ADA}')",
            "0".repeat(32)
        ),
        format!(
            "SELECT * FROM magic_link.session_switch_decision('{}', '{EVE}')",
            "0".repeat(32)
        ),
    ]) {
        let explain = format!("EXPLAIN (ANALYZE, VERBOSE, BUFFERS, SETTINGS, WAL) {statement}");
        for row in backend.query(&explain, &[]).unwrap() {
            explained += row.get(0);
            explained += "\n";
        }
    }
    for secret in [hash.as_str(), "in the context", user.as_str()] {
        assert!(!explained.contains(secret), "{explained}");
    }
    assert_true_answers(&db, &mut backend, "looking");
}

/// Places from which PostgreSQL calls a function by itself: none gives it another's rights.
#[test]
fn a_function_is_called_with_the_rights_of_who_calls_it_wherever_it_is_called_from() {
    let (db, mut backend) = hostile();
    let victim = db.role("victim", "LOGIN");
    backend
        .batch_execute(&format!(
            "GRANT USAGE ON SCHEMA mine TO {victim};
             CREATE FUNCTION mine.issue(text) RETURNS text LANGUAGE sql IMMUTABLE AS
                 $$ SELECT magic_link.check_one_time_token($1, 'ada@example.com') $$;
             CREATE FUNCTION mine.issue() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN NEW.a := magic_link.check_one_time_token(NEW.a, 'ada@example.com'); RETURN NEW; END $$;
             CREATE TABLE mine.indexed (a text);
             CREATE INDEX ON mine.indexed (mine.issue(a));
             CREATE TABLE mine.checked (a text CHECK (mine.issue(a) IS NOT NULL));
             CREATE TABLE mine.generated (a text, b text GENERATED ALWAYS AS (mine.issue(a)) STORED);
             CREATE TABLE mine.defaulted (a text DEFAULT magic_link.check_one_time_token('0', 'ada@example.com'));
             CREATE TABLE mine.triggered (a text);
             CREATE TRIGGER t BEFORE INSERT ON mine.triggered FOR EACH ROW EXECUTE FUNCTION mine.issue();
             CREATE TABLE mine.ruled (a text);
             CREATE RULE r AS ON INSERT TO mine.ruled DO ALSO SELECT magic_link.check_one_time_token(NEW.a, 'ada@example.com');
             CREATE TABLE mine.secured (a text DEFAULT '0');
             INSERT INTO mine.secured VALUES ('0');
             ALTER TABLE mine.secured ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON mine.secured USING (mine.issue(a) = 'token_not_found');
             CREATE VIEW mine.viewed WITH (security_barrier) AS SELECT mine.issue('0') AS a;
             CREATE MATERIALIZED VIEW mine.kept AS SELECT magic_link.check_one_time_token('0', 'ada@example.com') AS a;
             CREATE FUNCTION mine.definer() RETURNS text LANGUAGE sql SECURITY DEFINER AS
                 $$ SELECT magic_link.check_one_time_token('0', 'ada@example.com') $$;
             CREATE AGGREGATE mine.folded (text, text) (SFUNC = magic_link.check_one_time_token, STYPE = text, INITCOND = '0');
             CREATE OPERATOR mine.@@@ (FUNCTION = magic_link.one_time_token_id, RIGHTARG = text);
             CREATE DOMAIN mine.link AS text CHECK (magic_link.one_time_token_id(VALUE) IS NOT NULL);
             GRANT ALL ON ALL TABLES IN SCHEMA mine TO {victim}"
        ))
        .unwrap();
    let calls = [
        "INSERT INTO mine.indexed VALUES ('0')",
        "INSERT INTO mine.checked VALUES ('0')",
        "INSERT INTO mine.generated VALUES ('0')",
        "INSERT INTO mine.defaulted DEFAULT VALUES",
        "INSERT INTO mine.triggered VALUES ('0')",
        "INSERT INTO mine.ruled VALUES ('0')",
        "SELECT FROM mine.secured",
        "SELECT * FROM mine.viewed",
        "SELECT OPERATOR(mine.@@@) '00000000000000000000000000000000'",
        "SELECT '00000000000000000000000000000000'::mine.link",
    ];
    let mut other_session = db.connect_as(&victim);
    for call in calls {
        backend
            .batch_execute(call)
            .unwrap_or_else(|error| panic!("{call}: {error:?}"));
    }
    for call in calls.iter().filter(|call| !call.contains("secured")) {
        other_session.batch_execute(call).expect_sqlstate("42501");
    }
    // Two of PostgreSQL's are their owner's to lend: a SECURITY DEFINER function, and an aggregate.
    let lent = [
        "SELECT mine.definer()",
        "SELECT mine.folded('ada@example.com', NULL)",
    ];
    for call in lent {
        let outcome: String = other_session.query_one(call, &[]).unwrap().get(0);
        assert_eq!(outcome, "token_not_found");
    }
    db.sql("REFRESH MATERIALIZED VIEW mine.kept; ANALYZE mine.indexed; REINDEX TABLE mine.indexed");
    db.sql(&format!(
        "SELECT magic_link.revoke_backend('{}')",
        db.backend_role()
    ));
    for statement in [
        "REFRESH MATERIALIZED VIEW mine.kept",
        "REINDEX TABLE mine.indexed",
        lent[0],
        lent[1],
    ] {
        db.superuser()
            .batch_execute(statement)
            .expect_sqlstate("42501");
    }
    assert_eq!(db.count("magic_link.one_time_tokens"), 0);
}

/// Work that PostgreSQL puts off is done as who asked for it, and once.
#[test]
fn what_is_put_off_is_done_once() {
    let (db, mut backend) = hostile();
    let token = backend.create(ADA, "{}").unwrap().token;
    let redeem =
        format!("SELECT outcome FROM magic_link.try_redeem_one_time_token('{token}', '{ADA}')");
    // Held beyond its transaction, a cursor is run as that commits.
    backend
        .batch_execute(&format!("BEGIN; DECLARE c CURSOR WITH HOLD FOR {redeem}; DECLARE d CURSOR WITH HOLD FOR {redeem}; COMMIT"))
        .unwrap();
    let outcomes: Vec<String> = ["c", "d"]
        .iter()
        .map(|cursor| {
            backend
                .query_one(&format!("FETCH ALL FROM {cursor}"), &[])
                .unwrap()
                .get(0)
        })
        .collect();
    assert_eq!(outcomes, ["ok", "token_consumed"]);
    // One that was opened before the right was taken away, and read after.
    let token = backend.create(ADA, "{}").unwrap().token;
    let role = db.backend_role();
    backend
        .batch_execute(&format!(
            "PREPARE p AS SELECT outcome FROM magic_link.try_redeem_one_time_token('{token}', '{ADA}')"
        ))
        .unwrap();
    db.sql(&format!("SELECT magic_link.revoke_backend('{role}')"));
    backend.batch_execute("EXECUTE p").expect_sqlstate("42501");
    db.sql(&format!("SELECT magic_link.grant_backend('{role}')"));
    assert_eq!(
        db.count("magic_link.one_time_token_status WHERE status = 'active'"),
        1
    );
    assert_eq!(
        backend
            .query_one("EXECUTE p", &[])
            .unwrap()
            .get::<_, String>(0),
        "ok"
    );
    // Prepared for a second phase, which this server does not have.
    backend.batch_execute("BEGIN").unwrap();
    backend.create(ADA, "{}").unwrap();
    backend
        .batch_execute("PREPARE TRANSACTION 'mine'")
        .unwrap_err();
    assert_eq!(
        db.count("magic_link.one_time_token_status WHERE status = 'active'"),
        0
    );
    assert_true_answers(&db, &mut backend, "all that");
}

/// A backend may name the row types; what it makes of them shows no row, and stands in nobody's way
/// who uses the tables.
#[test]
fn a_row_type_is_no_row() {
    let (db, mut backend) = hostile();
    backend.create(ADA, "{}").unwrap();
    backend
        .batch_execute(
            "CREATE TABLE mine.typed (t magic_link.one_time_tokens, u magic_link.users);
             INSERT INTO mine.typed DEFAULT VALUES;
             CREATE FUNCTION mine.typed(magic_link.one_time_tokens) RETURNS text LANGUAGE sql AS 'SELECT $1.email';
             CREATE VIEW mine.shown AS SELECT * FROM magic_link.session_switch;
             SELECT magic_link.one_time_token_is_sound(t), (t).token_hash, mine.typed(t) FROM mine.typed WHERE t IS NOT NULL",
        )
        .unwrap();
    for statement in [
        "CREATE TABLE mine.of OF magic_link.one_time_tokens",
        "CREATE TABLE mine.heir () INHERITS (magic_link.one_time_tokens)",
        "CREATE TABLE mine.like (LIKE magic_link.one_time_tokens)",
        "CREATE TABLE mine.points (id uuid REFERENCES magic_link.users)",
        "CREATE TABLE mine.points (id uuid REFERENCES magic_link.one_time_tokens ON DELETE CASCADE)",
        "SELECT currtid2('magic_link.one_time_tokens', '(0,1)')",
        "SELECT * FROM magic_link.session_switch FOR UPDATE",
        "ALTER TABLE mine.typed INHERIT magic_link.users",
        "TABLE magic_link.one_time_tokens",
    ] {
        let refused = backend.batch_execute(statement).expect_err(statement);
        let code = refused.code().unwrap().code().to_owned();
        // OF takes a type of its own alone; newer versions have no currtid2.
        assert!(
            code == "42501" || code == "42809" && statement.contains(" OF ") || code == "42883",
            "{statement}: {refused:?}"
        );
    }
    for (verb, code) in [
        (
            "UPDATE magic_link.session_switch SET status = 'active'",
            "55000",
        ),
        ("DELETE FROM magic_link.session_switch", "55000"),
    ] {
        backend.batch_execute(verb).expect_sqlstate(code);
    }
    assert_true_answers(&db, &mut backend, "naming types");
    // As SECURITY.md says: a row type that is used is kept as it is, and the superuser has a way out.
    db.superuser()
        .batch_execute("ALTER TABLE magic_link.users ALTER created_at TYPE timestamp")
        .expect_sqlstate("0A000");
    db.superuser()
        .batch_execute("DROP EXTENSION magic_link")
        .expect_sqlstate("2BP01");
    db.sql("DROP SCHEMA mine CASCADE; DROP EXTENSION magic_link");
}

/// What is there before the extension is neither adopted nor used by it.
#[test]
fn a_role_that_came_before_the_extension_has_left_nothing_in_it() {
    let db = Database::bare(magic_link_harness::Cluster::shared(), "");
    let early = db.role("early", "LOGIN");
    db.sql(&format!(
        "GRANT CREATE ON DATABASE {} TO {early}; GRANT CREATE ON SCHEMA public TO {early}",
        db.name()
    ));
    let mut attacker = db.connect_as(&early);
    for schema in ["public", "pg_temp"] {
        attacker
            .batch_execute(&format!(
                "CREATE FUNCTION {schema}.normalize_email(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
                 CREATE FUNCTION {schema}.getdatabaseencoding() RETURNS text LANGUAGE sql AS 'SELECT ''none''::text';
                 CREATE FUNCTION {schema}.equal(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
                 CREATE OPERATOR {schema}.= (FUNCTION = {schema}.equal, LEFTARG = text, RIGHTARG = text)"
            ))
            .unwrap();
    }
    attacker
        .batch_execute(
            "CREATE SCHEMA magic_link; CREATE TABLE magic_link.users (id uuid, email text)",
        )
        .unwrap();
    let install = format!(
        "SET search_path = public, magic_link; CREATE EXTENSION magic_link; SELECT magic_link.grant_backend('{early}')"
    );
    db.superuser()
        .batch_execute(&install)
        .expect_sqlstate("42P06");
    attacker
        .batch_execute("DROP SCHEMA magic_link CASCADE")
        .unwrap();
    db.sql(&install);
    db.organization("acme", &["member"]);
    let owned = "pg_depend AS d JOIN pg_roles AS r ON r.rolname = 'postgres'
                 LEFT JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
                 LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
                 WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'magic_link')
                   AND coalesce(p.proowner, c.relowner, r.oid) <> r.oid";
    assert_eq!(db.count(owned), 0);
    attacker
        .batch_execute("SET search_path = public, pg_catalog")
        .unwrap();
    assert_true_answers(&db, &mut attacker, "coming first");
}

/// What one session of a role sees of another's: its statements, if they hold literals, and its settings
/// not at all. Another role sees nothing.
#[test]
fn other_sessions_are_out_of_sight() {
    let (db, mut backend) = hostile();
    let token = backend.create(ADA, "{}").unwrap().token;
    let literal = format!("SELECT magic_link.check_one_time_token('{token}', '{ADA}')");
    backend.batch_execute(&literal).unwrap();
    let mut bound = db.backend();
    bound.check_in(None, &token, ADA).unwrap();
    let shown = |client: &mut Client| -> String {
        let rows = client.query(
            "SELECT concat(query) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
            &[],
        );
        rows.unwrap()
            .iter()
            .map(|row| row.get::<_, String>(0))
            .collect()
    };
    assert!(!shown(&mut db.admin()).contains(&token));
    assert!(shown(&mut db.backend()).contains(&token), "see SECURITY.md");
    drop(backend);
    let mut fresh = db.backend();
    magic_link_harness::wait_until("the session has gone", || {
        !shown(&mut fresh).contains(&literal)
    });
    assert!(!shown(&mut fresh).contains(&token));
    for view in ["pg_prepared_statements", "pg_cursors"] {
        let seen = fresh.query(&format!("SELECT statement FROM {view}"), &[]);
        let seen = seen
            .unwrap()
            .iter()
            .any(|row| row.get::<_, String>(0).contains(&token));
        assert!(!seen, "{view}");
    }
    // Nor by asking for them as it connects.
    let mut config = db.cluster().config(db.name(), &db.backend_role());
    let config =
        config.options("-c search_path=mine,pg_catalog -c row_security=off -c role=postgres");
    assert!(config.connect(NoTls).is_err());
}

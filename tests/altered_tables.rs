//! A DBA has altered the extension's own tables. Whatever the change is, no token is redeemed for the wrong user or twice, and
//! the table that has the name now is the one that is used.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Calls, Database, ExpectSqlState, Issued, while_blocked};

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";

fn create(db: &Database) -> Issued {
    db.backend().create(ADA, "{}").unwrap()
}

fn user(db: &Database, email: &str) -> String {
    db.value(
        "SELECT id::text FROM magic_link.users WHERE email = $1",
        &[&email],
    )
}

/// A table rewritten beside the one that it replaces, as is usual for large ones: the old one keeps its
/// indexes, and their names, and the rows are in other places now.
fn swap(db: &Database, table: &str) {
    db.sql(&format!(
        "BEGIN;
         CREATE TABLE magic_link.rewritten (LIKE magic_link.{table} INCLUDING ALL EXCLUDING CONSTRAINTS);
         INSERT INTO magic_link.rewritten SELECT * FROM magic_link.{table} ORDER BY email DESC;
         ALTER TABLE magic_link.{table} RENAME TO replaced;
         ALTER TABLE magic_link.rewritten RENAME TO {table};
         COMMIT"
    ));
}

/// Whoever has the address gets the session, and not whose row now lies where hers was.
#[test]
fn a_table_of_users_that_was_swapped_gives_nobody_anothers_account() {
    for session in ["new", "old"] {
        let db = Database::new();
        db.sql(&format!(
            "INSERT INTO magic_link.users (email) VALUES ('{ADA}'), ('{EVE}')"
        ));
        let mut backend = db.backend();
        let tokens = [(); 2].map(|()| create(&db).token);
        let redeem =
            |backend: &mut Client, token: &str| backend.redeem(token, ADA).unwrap().user_id;
        assert_eq!(redeem(&mut backend, &tokens[0]), user(&db, ADA));
        swap(&db, "users");
        if session == "new" {
            backend = db.backend();
        }
        assert_eq!(
            redeem(&mut backend, &tokens[1]),
            user(&db, ADA),
            "{session}"
        );
    }
}

#[test]
fn a_swapped_token_table_is_the_one_that_is_read() {
    let db = Database::new();
    let mut backend = db.backend();
    let [used, fresh] = [(); 2].map(|()| create(&db).token);
    backend.create(EVE, "{}").unwrap();
    backend.redeem(&used, ADA).unwrap();
    swap(&db, "one_time_tokens");
    for mut backend in [backend, db.backend()] {
        backend.redeem(&used, ADA).expect_sqlstate("OT003");
        assert_eq!(backend.check_in(None, &fresh, ADA).unwrap(), "ok");
        let issued = backend.create(ADA, "{}").unwrap();
        backend.redeem(&issued.token, ADA).unwrap();
    }
    db.backend().redeem(&fresh, ADA).unwrap();
    db.backend().redeem(&fresh, ADA).expect_sqlstate("OT003");
    let in_the_old = "magic_link.replaced WHERE consumed_at IS NOT NULL";
    assert_eq!(db.count(in_the_old), 1);
}

/// An index that only has the name of ours: of other rows, of other columns, or of none yet.
#[test]
fn an_index_that_lacks_rows_is_not_asked() {
    for index in [
        "CREATE UNIQUE INDEX users_email_key ON magic_link.users (email) WHERE email > 'b'",
        "CREATE INDEX users_email_key ON magic_link.users (created_at, email)",
        "CREATE UNIQUE INDEX users_email_key ON magic_link.users (email);
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'magic_link.users_email_key'::regclass",
    ] {
        let db = Database::new();
        db.sql(&format!(
            "INSERT INTO magic_link.users (email) VALUES ('{ADA}');
             ALTER TABLE magic_link.users DROP CONSTRAINT users_email_key, ADD CONSTRAINT renamed UNIQUE (email);
             {index}"
        ));
        let redeemed = db.backend().redeem(&create(&db).token, ADA).unwrap();
        assert_eq!(redeemed.user_id, user(&db, ADA), "{index}");
        assert!(!redeemed.user_created, "{index}");
    }
}

/// What is no table has no rows that an index could find: it is said, and no server process dies of it.
#[test]
fn a_view_or_a_partitioned_table_in_place_of_a_table_is_refused() {
    for made in [
        "VIEW magic_link.users AS SELECT * FROM magic_link.replaced",
        "TABLE magic_link.users (LIKE magic_link.replaced) PARTITION BY HASH (id)",
        "MATERIALIZED VIEW magic_link.users AS SELECT * FROM magic_link.replaced",
        "SEQUENCE magic_link.users",
    ] {
        let db = Database::new();
        let token = create(&db).token;
        db.sql(&format!(
            "ALTER TABLE magic_link.users RENAME TO replaced; CREATE {made}"
        ));
        let before = db.count("magic_link.one_time_tokens WHERE consumed_at IS NULL");
        let mut backend = db.backend();
        backend.redeem(&token, ADA).expect_sqlstate("42809");
        backend
            .try_redeem_in(None, &token, ADA)
            .expect_sqlstate("42809");
        assert_eq!(
            db.count("magic_link.one_time_tokens WHERE consumed_at IS NULL"),
            before
        );
        db.sql(&format!(
            "DROP {} magic_link.users; ALTER TABLE magic_link.replaced RENAME TO users",
            made.split(" magic_link").next().unwrap()
        ));
        backend.redeem(&token, ADA).unwrap();
    }
}

/// Rows that are hidden from, or kept from, whoever is not the owner are the functions' all the same.
#[test]
fn row_security_of_the_dbas_neither_hides_a_token_nor_gives_it_twice() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    for table in db.tables() {
        db.sql(&format!(
            "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
        ));
    }
    for setting in ["on", "off"] {
        let mut backend = db.backend();
        backend
            .batch_execute(&format!("SET row_security = {setting}"))
            .unwrap();
        let issued = backend
            .create(ADA, r#"{"jitOrganizationIds": ["acme"]}"#)
            .unwrap();
        backend.redeem(&issued.token, ADA).unwrap();
        backend.redeem(&issued.token, ADA).expect_sqlstate("OT003");
        backend.check_in(None, &issued.token, EVE).unwrap();
        let seen = backend
            .query("SELECT FROM magic_link.session_switch", &[])
            .unwrap();
        assert_eq!(seen.len() as i64, db.count("magic_link.one_time_tokens"));
    }
}

/// Every redemption answers as before, and gives the token once.
#[test]
fn other_ways_of_keeping_the_tables_change_nothing() {
    for change in [
        "ALTER TABLE magic_link.one_time_tokens SET UNLOGGED",
        "ALTER TABLE magic_link.one_time_tokens DISABLE TRIGGER ALL",
        "ALTER TABLE magic_link.users DISABLE TRIGGER USER",
        "ALTER TABLE magic_link.one_time_tokens CLUSTER ON one_time_tokens_pkey; CLUSTER magic_link.one_time_tokens",
        "VACUUM FULL magic_link.users",
        "REINDEX INDEX CONCURRENTLY magic_link.users_email_key",
        "REINDEX TABLE magic_link.one_time_tokens",
        "ALTER TABLE magic_link.users DROP CONSTRAINT users_pkey CASCADE",
        "ALTER TABLE magic_link.one_time_tokens DROP CONSTRAINT one_time_tokens_pkey",
        "ALTER INDEX magic_link.one_time_tokens_pkey RENAME TO another",
        "CREATE TABLE public.archive () INHERITS (magic_link.users)",
        "CREATE STATISTICS public.mine ON email, created_at FROM magic_link.users; ANALYZE magic_link.users",
        "ALTER TABLE magic_link.users ALTER email SET STORAGE EXTERNAL, ADD COLUMN note text DEFAULT random()::text",
        "REVOKE ALL ON ALL TABLES IN SCHEMA magic_link FROM postgres",
        "REVOKE SELECT (email, token_hash) ON magic_link.one_time_tokens FROM postgres",
    ] {
        let db = Database::new();
        let mut old = db.backend();
        let [first, second] = [(); 2].map(|()| create(&db).token);
        let user = old.redeem(&first, ADA).unwrap().user_id;
        for statement in change.split("; ") {
            db.sql(statement);
        }
        for backend in [&mut old, &mut db.backend()] {
            assert_eq!(
                backend.check_in(None, &first, ADA).unwrap(),
                "token_consumed",
                "{change}"
            );
            assert_eq!(
                backend.check_in(None, &second, EVE).unwrap(),
                "email_mismatch",
                "{change}"
            );
        }
        assert_eq!(old.redeem(&second, ADA).unwrap().user_id, user, "{change}");
        db.backend().redeem(&second, ADA).expect_sqlstate("OT003");
    }
}

/// Which tables redeeming reads as a whole, counted by the server.
fn tables_read_whole(db: &Database, backend: &mut Client) -> Vec<String> {
    db.sql("SELECT pg_stat_reset()");
    for _ in 0..2 {
        let context = r#"{"jitOrganizationIds": ["acme"]}"#;
        let issued = backend.create(ADA, context).unwrap();
        backend.redeem(&issued.token, ADA).unwrap();
    }
    backend
        .batch_execute("SELECT pg_stat_force_next_flush()")
        .unwrap();
    let whole = "SELECT relname::text FROM pg_stat_user_tables WHERE schemaname = 'magic_link' AND seq_scan > 0 ORDER BY 1";
    let rows = db.superuser().query(whole, &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// None is, whatever its indexes are called; but for one that has none that serves.
#[test]
fn tables_are_read_by_their_own_indexes() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    db.sql("INSERT INTO magic_link.organization_jit_email_domains VALUES ('acme', 'example.com')");
    let mut backend = db.backend();
    assert_eq!(tables_read_whole(&db, &mut backend), [""; 0]);
    // What the change itself reads is counted before it is done.
    let change = |statements: &str| {
        db.sql(&format!("{statements}; SELECT pg_stat_force_next_flush()"));
    };
    change(
        "ALTER INDEX magic_link.organizations_pkey RENAME TO renamed;
         ALTER INDEX magic_link.users_email_key RENAME TO renamed_too;
         ALTER TABLE magic_link.users DROP CONSTRAINT renamed_too, ADD CONSTRAINT another UNIQUE (email)",
    );
    assert_eq!(tables_read_whole(&db, &mut backend), [""; 0]);
    change(
        "ALTER TABLE magic_link.organization_jit_roles DROP CONSTRAINT organization_jit_roles_pkey",
    );
    assert_eq!(
        tables_read_whole(&db, &mut backend),
        ["organization_jit_roles"]
    );
}

/// PostgreSQL marks an index that was built beside a row that an old transaction still sees in another
/// version (indcheckxmin), and never takes the mark away: whoever is younger than the index may use it.
#[test]
fn an_index_that_is_too_new_for_some_is_used_by_others() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    db.sql(&format!(
        "INSERT INTO magic_link.users (email) VALUES ('{ADA}')"
    ));
    let mut backend = db.backend();
    assert_eq!(tables_read_whole(&db, &mut backend), [""; 0]);
    let user = user(&db, ADA);

    let mut old = db.superuser();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()")
        .unwrap();
    db.sql("UPDATE magic_link.users SET created_at = now(); SELECT pg_stat_force_next_flush()");
    db.sql("ALTER TABLE magic_link.users DROP CONSTRAINT users_email_key, ADD CONSTRAINT users_email_key UNIQUE (email); SELECT pg_stat_force_next_flush()");
    let marked = "SELECT indcheckxmin FROM pg_index WHERE indexrelid = 'magic_link.users_email_key'::regclass";
    assert!(db.value::<bool>(marked, &[]), "the index is not marked");

    // While the old transaction is there nobody is younger.
    assert_eq!(tables_read_whole(&db, &mut backend), ["users"]);
    old.batch_execute("COMMIT").unwrap();
    assert_eq!(tables_read_whole(&db, &mut backend), [""; 0]);
    assert!(db.value::<bool>(marked, &[]), "the mark is gone");
    let token = create(&db).token;
    assert_eq!(backend.redeem(&token, ADA).unwrap().user_id, user);
}

/// An index can be locked by itself: what is committed while it is waited for is seen.
#[test]
fn what_was_committed_while_an_index_was_waited_for_is_seen() {
    for session in ["new", "old"] {
        let db = Database::new();
        let token = create(&db).token;
        let mut redeeming = db.backend();
        if session == "old" {
            let other = redeeming.create(EVE, "{}").unwrap().token;
            redeeming.redeem(&other, EVE).unwrap();
        }
        let mut superuser = db.superuser();
        let mut registering = superuser.transaction().unwrap();
        registering
            .batch_execute(&format!(
                "INSERT INTO magic_link.users (email) VALUES ('{ADA}')"
            ))
            .unwrap();
        let mut dba = db.superuser();
        let mut altering = dba.transaction().unwrap();
        altering
            .batch_execute("ALTER INDEX magic_link.users_email_key SET TABLESPACE pg_default")
            .unwrap();
        let sign_in = |backend: &mut Client| backend.redeem_in(Some("SignIn"), &token, ADA);
        let redeemed = while_blocked(&db, redeeming, sign_in, || {
            registering.commit().unwrap();
            altering.commit().unwrap();
        });
        assert_eq!(redeemed.unwrap().user_id, user(&db, ADA), "{session}");
    }
}

/// As any statement does, a look keeps the table until its transaction ends.
#[test]
fn nothing_comes_in_between_two_looks_of_one_transaction() {
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        for look in ["check", "decide"] {
            let db = Database::new();
            let token = create(&db).token;
            let ask = |backend: &mut Client| match look {
                "check" => backend.check_in(None, &token, ADA).unwrap(),
                _ => backend.decide(&token, ADA, None, None).unwrap().0,
            };
            let mut looking = db.backend();
            looking
                .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))
                .unwrap();
            let first = ask(&mut looking);
            let truncate = |superuser: &mut Client| {
                superuser.batch_execute("TRUNCATE magic_link.one_time_tokens")
            };
            while_blocked(&db, db.superuser(), truncate, || {
                assert_eq!(ask(&mut looking), first, "{level}");
                looking.batch_execute("COMMIT").unwrap();
            })
            .unwrap();
            assert_eq!(
                db.backend().check_in(None, &token, ADA).unwrap(),
                "token_not_found"
            );
        }
    }
}

/// A session that has called before says what a statement says, and no more than that.
#[test]
fn what_is_not_there_under_its_name_is_said_to_be_missing() {
    let db = Database::new();
    let mut backend = db.backend();
    let issued = create(&db);
    let mut ask = |code: &str| {
        backend.redeem(&issued.token, ADA).expect_sqlstate(code);
        backend
            .try_redeem_in(None, &issued.token, EVE)
            .expect_sqlstate(code);
        backend
            .check_in(None, &issued.token, ADA)
            .expect_sqlstate(code);
        backend.create(ADA, "{}").expect_sqlstate(code);
        backend
            .decide(&issued.token, ADA, None, None)
            .expect_sqlstate(code);
    };
    db.sql("ALTER TABLE magic_link.one_time_tokens RENAME TO elsewhere");
    ask("42P01");
    db.sql("ALTER TABLE magic_link.elsewhere RENAME TO one_time_tokens; ALTER TABLE magic_link.one_time_tokens SET SCHEMA public");
    ask("42P01");
    db.sql("ALTER TABLE public.one_time_tokens SET SCHEMA magic_link");
    backend.redeem(&issued.token, ADA).unwrap();
}

/// A renamed schema says nothing of the tables in it, and a session that knew them is not to go on by
/// what it knew.
#[test]
fn a_renamed_schema_is_noticed() {
    let db = Database::new();
    let issued = create(&db);
    let mut backend = db.backend();
    let call = |backend: &mut Client, schema: &str| {
        backend.query(
            &format!("SELECT {schema}.check_one_time_token($1, $2)"),
            &[&issued.token, &ADA],
        )
    };
    call(&mut backend, "magic_link").unwrap();
    db.sql("ALTER SCHEMA magic_link RENAME TO elsewhere");
    call(&mut backend, "elsewhere").expect_sqlstate("3F000");
    call(&mut db.backend(), "elsewhere").expect_sqlstate("3F000");
    db.sql("ALTER SCHEMA elsewhere RENAME TO magic_link");
    let answer: String = call(&mut backend, "magic_link").unwrap()[0].get(0);
    assert_eq!(answer, "ok");
}

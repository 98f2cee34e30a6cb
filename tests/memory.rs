//! Out of memory (53200): a call fails, or its session ends, but never the server.
//!
//! That no server process dies of a signal is looked for in the log when a test's database goes away.

use std::fs;

use magic_link_harness::postgres::{Client, Error};
use magic_link_harness::{Calls, Database, ExpectSqlState, process_id};

const MEGABYTE: u64 = 1 << 20;
const OUT_OF_MEMORY: &str = "53200";

/// What every argument of a type that can be large is given: 120 MB, or as many elements of an array.
const LARGE_TEXT: &str = "repeat('x', 120000000)";
const LARGE_JSONB: &str = "jsonb_build_object('a', repeat('x', 120000000))";
const LARGE_ARRAY: &str = "array_fill('x'::text, ARRAY[5000000])";

/// Lets the process of a session have so much more address space than it has now.
fn allow(db: &Database, client: &mut Client, more: u64) {
    let process = process_id(client);
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap();
    let limit = kilobytes * 1024 + more;
    let limited = db
        .cluster()
        .shell(&format!("prlimit --pid {process} --as={limit}"));
    assert!(limited.status.success(), "{limited:?}");
}

/// A session that has the library loaded, and so much more memory than that. Its stack is as large as it can
/// get: a stack that may not grow ends a process whatever runs in it.
fn small_session(db: &Database, role: &str, more: u64) -> Client {
    let mut client = db.connect_as(role);
    client
        .batch_execute("SELECT magic_link.normalize_email('ada@example.com')")
        .unwrap();
    client
        .batch_execute("SELECT repeat('[', 1000000)::json")
        .expect_sqlstate("54001");
    allow(db, &mut client, more);
    client
}

/// Each argument that can be large of each function that a backend or an admin calls, from the catalogue,
/// and a call of the function in which it is.
fn calls_with_one_large_argument(db: &Database) -> Vec<(String, String)> {
    let rows = db
        .superuser()
        .query(
            "SELECT format('%s, %s', p.proname, p.proargnames[n]),
                    format('SELECT FROM magic_link.%s(%s)', p.proname, (
                        SELECT string_agg(CASE
                            WHEN m = n AND t = 'text' THEN $1 WHEN m = n AND t = 'jsonb' THEN $2 WHEN m = n THEN $3
                            WHEN t = 'text[]' THEN '''{ada@example.com}'''
                            WHEN p.proargnames[m] = 'token' THEN 'repeat(''0'', 32)'
                            WHEN p.proargnames[m] LIKE '%email' THEN '''ada@example.com'''
                            WHEN p.proargnames[m] = 'base_url' THEN '''https://example.com'''
                            ELSE 'NULL' END, ', ' ORDER BY m)
                          FROM unnest(p.proargtypes::regtype[]::text[]) WITH ORDINALITY AS a (t, m)))
               FROM pg_proc AS p, unnest(p.proargtypes::regtype[]::text[]) WITH ORDINALITY AS b (type, n)
              WHERE p.pronamespace = 'magic_link'::regnamespace AND p.prolang = (SELECT oid FROM pg_language WHERE lanname = 'c')
                AND type IN ('text', 'text[]', 'jsonb')
              ORDER BY 1",
            &[&LARGE_TEXT, &LARGE_JSONB, &LARGE_ARRAY],
        )
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// No argument is copied into memory of Rust's before its length was looked at. PostgreSQL's own may run
/// out, and that is an ordinary error.
#[test]
fn a_large_argument_ends_neither_the_session_nor_the_server() {
    let db = Database::new();
    let calls = calls_with_one_large_argument(&db);
    assert!(calls.len() > 25, "{calls:?}");
    for (argument, call) in calls {
        let mut client = small_session(&db, "postgres", 400 * MEGABYTE);
        match client.batch_execute(&call) {
            // What has not a token's shape is a token that is not found, and any text is a prompt.
            Ok(()) => assert!(
                ["token", "prompt"]
                    .iter()
                    .any(|name| argument.ends_with(name)),
                "{argument}"
            ),
            Err(error) => {
                let code = error.code().map(|code| code.code().to_owned());
                let expected = ["22023", OUT_OF_MEMORY, "54000", "OT001"];
                assert!(
                    code.is_some_and(|code| expected.contains(&code.as_str())),
                    "{argument}: {error:?}"
                );
            }
        }
        client.batch_execute("SELECT 1").expect(&argument);
    }
}

#[test]
fn a_large_setting_ends_neither_the_session_nor_the_server() {
    let db = Database::new();
    let issued = db.backend().create("ada@example.com", "{}").unwrap();
    let mut backend = small_session(&db, &db.backend_role(), 400 * MEGABYTE);
    for setting in ["session_email", "prompt"] {
        let large =
            format!("SELECT set_config('magic_link.{setting}', repeat('x', 50000000), false)");
        backend.batch_execute(&large).unwrap();
        let answer = backend.query(
            "SELECT decision FROM magic_link.session_switch_decision($1, $2)",
            &[&issued.token, &"ada@example.com"],
        );
        match setting {
            "session_email" => drop(answer.expect_sqlstate("22023")),
            _ => assert_eq!(answer.unwrap()[0].get::<_, &str>(0), "redeem"),
        }
        backend
            .batch_execute(&format!("RESET magic_link.{setting}"))
            .unwrap();
    }
}

/// However little there is, somebody is told: PostgreSQL's allocator raises an ERROR, Rust's ends the
/// session. Nobody else notices, and nothing is done by half.
#[test]
fn where_rust_gets_no_memory_the_session_ends_and_the_server_goes_on() {
    const MANY: &str = "SELECT count(*) FROM magic_link.create_one_time_tokens(
        ARRAY(SELECT format('person-%s@%s.example.com', n, repeat('x', 60)) FROM generate_series(1, 20000) AS n))";
    let db = Database::new();
    let mut witness = db.backend();
    let (mut refused, mut ended) = (0, 0);
    let create = |more: u64| -> Result<i64, Error> {
        let mut client = small_session(&db, &db.backend_role(), more);
        Ok(client.query_one(MANY, &[])?.get(0))
    };
    let fatal = format!("{OUT_OF_MEMORY} {} FATAL:  out of memory", db.name());
    let ends_in_log = || db.cluster().log().matches(&fatal).count();
    let created = (0..).find_map(|step| match create(step * MEGABYTE) {
        Ok(created) => Some(created),
        Err(error) => {
            match error.as_db_error() {
                Some(told) => {
                    assert_eq!(told.code().code(), OUT_OF_MEMORY, "{error:?}");
                    match told.severity() {
                        "FATAL" => ended += 1,
                        _ => refused += 1,
                    }
                }
                // The driver may meet the end of the connection before the message that came ahead of it.
                None => {
                    assert!(error.is_closed(), "{error:?}");
                    ended += 1;
                }
            }
            assert_eq!(ends_in_log(), ended, "{error:?}");
            assert!(step < 400, "it never has enough");
            witness.batch_execute("SELECT 1").unwrap();
            None
        }
    });
    assert_eq!(created, Some(20_000));
    assert_eq!(db.count("magic_link.one_time_tokens"), 20_000);
    assert!(refused > 0 && ended > 0, "{refused} refused, {ended} ended");
}

/// A trigger of the application's uses up all memory, notices, and does it again. The first error takes what is set
/// aside for such an error, so the second has to do without.
#[test]
fn a_trigger_that_uses_up_all_memory_twice_does_not_end_the_server() {
    let db = Database::new();
    db.sql(
        "CREATE FUNCTION use_up() RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
             FOR n IN 1 .. 100000 LOOP
                 PERFORM pg_catalog.set_config('use.up' || n, pg_catalog.repeat('x', 50000), true);
             END LOOP;
         END $$;
         CREATE FUNCTION use_up_twice() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             BEGIN
                 PERFORM public.use_up();
             EXCEPTION WHEN out_of_memory THEN
                 NULL;
             END;
             PERFORM public.use_up();
             RETURN NULL;
         END $$;
         CREATE TRIGGER use_up AFTER INSERT ON magic_link.users FOR EACH ROW EXECUTE FUNCTION use_up_twice()",
    );
    let mut witness = db.backend();
    for megabytes in [8, 12, 16, 24] {
        let issued = db.backend().create("ada@example.com", "{}").unwrap();
        let mut backend = small_session(&db, &db.backend_role(), megabytes * MEGABYTE);
        backend
            .redeem(&issued.token, "ada@example.com")
            .expect_sqlstate(OUT_OF_MEMORY);
        witness.batch_execute("SELECT 1").unwrap();
        assert_eq!(db.count("magic_link.users"), 0);
    }
}

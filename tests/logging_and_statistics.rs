//! A server that logs and counts all that PostgreSQL can: no token is in its log, its statistics or its files where tokens are
//! bound as parameters. Some settings of PostgreSQL's own do show a token: tests here see that too, and SECURITY.md lists them.

use std::sync::OnceLock;
use std::thread;

use magic_link_harness::{
    Calls, Cluster, Database, ExpectSqlState, Issued, process_id, wait_until, while_blocked,
};
use sha2::{Digest, Sha256};

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";

/// All logging is on but for the settings that show bound parameters: `auto_explain.log_verbose`, `debug_print_plan`, and
/// the two parameter lengths (since PostgreSQL 16, auto_explain logs parameters in full by default).
fn logging_cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::start(&[
            (
                "shared_preload_libraries",
                "auto_explain, pg_stat_statements",
            ),
            ("compute_query_id", "on"),
            ("log_statement", "all"),
            ("log_min_duration_statement", "0"),
            ("log_duration", "on"),
            ("log_min_messages", "debug5"),
            ("log_error_verbosity", "verbose"),
            ("log_parameter_max_length", "0"),
            ("log_parser_stats", "on"),
            ("log_planner_stats", "on"),
            ("log_executor_stats", "on"),
            ("log_lock_waits", "on"),
            ("deadlock_timeout", "10ms"),
            ("log_temp_files", "0"),
            ("debug_print_parse", "on"),
            ("debug_print_rewritten", "on"),
            // With debug_pretty_print, a line may be broken in the middle of a value.
            ("debug_pretty_print", "off"),
            ("track_functions", "all"),
            ("auto_explain.log_min_duration", "0"),
            ("auto_explain.log_analyze", "on"),
            ("auto_explain.log_buffers", "on"),
            ("auto_explain.log_wal", "on"),
            ("auto_explain.log_triggers", "on"),
            ("auto_explain.log_settings", "on"),
            ("auto_explain.log_nested_statements", "on"),
            ("auto_explain.log_parameter_max_length", "0"),
            ("pg_stat_statements.track", "all"),
            ("pg_stat_statements.track_utility", "on"),
        ])
        .until_exit()
    })
}

fn in_hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As `debug_print_plan` writes values: each byte as a number with its sign.
fn in_decimal(bytes: &[u8]) -> String {
    let numbers = bytes.iter().map(|byte| (*byte as i8).to_string());
    numbers.collect::<Vec<_>>().join(" ")
}

/// The ways in which a token, or its hash, may be written.
fn spellings(token: &str) -> Vec<String> {
    let hash = Sha256::digest(token);
    let mut spellings = vec![token[8..].to_owned()];
    for bytes in [token.as_bytes(), &hash[..]] {
        spellings.extend([in_hexadecimal(bytes), in_decimal(bytes)]);
    }
    spellings
}

/// Without the line ends that PostgreSQL puts into what is long.
fn in_one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn assert_keeps(issued: &[Issued], what: &str, text: &str) {
    let text = in_one_line(text);
    assert!(
        !text.is_empty(),
        "{what} tells nothing, which proves nothing"
    );
    for secret in issued.iter().flat_map(|issued| spellings(&issued.token)) {
        if let Some(place) = text.find(&secret) {
            let begin = text[..place]
                .char_indices()
                .rev()
                .nth(300)
                .map_or(0, |(at, _)| at);
            panic!(
                "{what} holds {secret}: {}",
                &text[begin..place + secret.len()]
            );
        }
    }
}

/// All that can happen to tokens, with each of them bound; answers those that were issued.
fn whole_session(db: &Database) -> Vec<Issued> {
    db.organization("acme", &["member"]);
    db.set("replay_window", 60);
    db.set("max_active_tokens", 20);
    db.set("max_failed_attempts", 2);
    let (mut backend, mut other, mut admin) = (db.backend(), db.backend(), db.admin());
    let context = r#"{"jitOrganizationIds": ["acme"], "interactionEvent": "Register"}"#;
    let mut issued = backend
        .create_all(&[ADA, EVE, "zoe@example.com"], context)
        .unwrap();
    // Often enough for a generic plan, and planned anew each time.
    for mode in ["auto", "force_custom_plan"] {
        backend
            .batch_execute(&format!("SET plan_cache_mode = {mode}"))
            .unwrap();
        for _ in 0..7 {
            let token = backend.create(ADA, "{}").unwrap();
            assert_eq!(backend.check_in(None, &token.token, ADA).unwrap(), "ok");
            backend
                .decide(&token.token, ADA, Some(EVE), Some("login"))
                .unwrap();
            backend.redeem(&token.token, EVE).expect_sqlstate("OT002");
            backend.try_redeem_in(None, &token.token, EVE).unwrap();
            backend.redeem(&token.token, ADA).unwrap();
            assert!(backend.redeem(&token.token, ADA).unwrap().replayed);
            backend
                .redeem(&token.token, "no address")
                .expect_sqlstate("22023");
            backend
                .redeem_in(Some("no event"), &token.token, ADA)
                .expect_sqlstate("22023");
            backend
                .redeem(&format!("{}0", token.token), ADA)
                .expect_sqlstate("OT001");
            let link = "SELECT magic_link.compose_magic_link('https://example.com', $1, $2), magic_link.one_time_token_id($1)";
            backend.query(link, &[&token.token, &ADA]).unwrap();
            issued.push(token);
        }
    }
    backend
        .redeem(&issued[0].token, ADA)
        .expect_sqlstate("OT006");
    backend
        .redeem_in(Some("Register"), &issued[0].token, ADA)
        .unwrap();
    for _ in 0..2 {
        backend.try_redeem_in(None, &issued[1].token, ADA).unwrap();
    }
    assert_eq!(db.status_of(&issued[1]), "revoked");
    admin.revoke(issued[2].id).unwrap();
    admin.revoke_all(ADA, None).unwrap();
    let deleted = backend.create(EVE, "{}").unwrap();
    admin.delete(deleted.id).unwrap();
    admin.purge("0", 2).unwrap();

    // Transactions that end badly: aborted, in a deadlock, cancelled, terminated.
    backend.batch_execute("BEGIN").unwrap();
    issued.push(backend.create(ADA, "{}").unwrap());
    backend.query("SELECT 1 / 0", &[]).expect_sqlstate("22012");
    backend.batch_execute("ROLLBACK").unwrap();

    let pair = [ADA, EVE].map(|email| backend.create(email, "{}").unwrap());
    for (client, token) in [(&mut backend, &pair[0]), (&mut other, &pair[1])] {
        client.batch_execute("BEGIN").unwrap();
        client.redeem(&token.token, &token.email).unwrap();
    }
    let answers = thread::scope(|scope| {
        let crossing = scope.spawn(|| backend.redeem(&pair[1].token, EVE).is_ok());
        let answer = other.redeem(&pair[0].token, ADA).is_ok();
        [crossing.join().unwrap(), answer]
    });
    assert_eq!(answers.iter().filter(|answer| **answer).count(), 1);
    issued.extend(pair);
    for client in [&mut backend, &mut other] {
        client.batch_execute("ROLLBACK").unwrap();
    }

    let held = backend.create(ADA, "{}").unwrap();
    for (end, code) in [
        ("pg_cancel_backend", "57014"),
        ("pg_terminate_backend", "57P01"),
    ] {
        let mut superuser = db.superuser();
        let mut holding = superuser.transaction().unwrap();
        holding
            .execute("SELECT FROM magic_link.one_time_tokens FOR UPDATE", &[])
            .unwrap();
        let mut waiting = db.backend();
        let waiter = process_id(&mut waiting);
        let answer = while_blocked(
            db,
            waiting,
            |client| client.redeem(&held.token, ADA),
            || db.sql(&format!("SELECT {end}({waiter})")),
        );
        let ended = answer.unwrap_err();
        // What is terminated may be gone before it has said why.
        assert!(
            ended.code().is_none_or(|said| said.code() == code),
            "{ended:?}"
        );
    }
    issued.extend([deleted, held]);
    issued
}

/// The statistics that are about statements, as a superuser reads them from another session.
fn statistics(db: &Database) -> String {
    let mut superuser = db.superuser();
    superuser
        .batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        .unwrap();
    [
        "pg_stat_statements",
        "pg_stat_activity",
        "pg_stat_user_functions",
        "pg_locks",
    ]
    .iter()
    .flat_map(|view| {
        let rows = superuser.query(&format!("SELECT v::text FROM {view} AS v"), &[]);
        rows.unwrap()
    })
    .map(|row| row.get::<_, String>(0) + "\n")
    .collect()
}

#[test]
fn a_whole_session_with_bound_tokens_leaves_none_in_the_log_or_the_statistics() {
    let db = Database::of(logging_cluster());
    let issued = whole_session(&db);
    let mut backend = db.backend();
    for token in &issued {
        backend.check_in(None, &token.token, ADA).unwrap();
    }
    let own = "SELECT p::text FROM pg_prepared_statements AS p UNION ALL SELECT c::text FROM pg_cursors AS c";
    let own: String = backend
        .query(own, &[])
        .unwrap()
        .iter()
        .map(|row| row.get::<_, String>(0))
        .collect();
    assert_keeps(&issued, "the session's own views", &own);
    let statistics = statistics(&db);
    assert!(
        statistics.contains("magic_link.redeem_one_time_token($1, $2, $3)"),
        "{statistics}"
    );
    assert_keeps(&issued, "the statistics", &statistics);
    let log = db.cluster().log();
    for sign in [
        "Query Text",
        "PARSER STATISTICS",
        "deadlock detected",
        "parse tree",
    ] {
        assert!(log.contains(sign), "the log has no {sign:?}");
    }
    assert_keeps(&issued, "the log", &log);
}

/// A literal in a call that fails: its statement is nobody's but its sender's, for as long as nobody asks for all statements.
#[test]
fn a_failed_call_with_a_literal_is_not_in_the_log() {
    let db = Database::of(logging_cluster());
    let role = db.backend_role();
    // What logs statements that succeed is off, as by default; what tells of failures is on.
    db.sql(&format!(
        "ALTER ROLE {role} SET log_statement = none; ALTER ROLE {role} SET log_min_duration_statement = -1;
         ALTER ROLE {role} SET auto_explain.log_min_duration = -1;
         ALTER ROLE {role} SET debug_print_parse = off; ALTER ROLE {role} SET debug_print_rewritten = off;
         ALTER ROLE {role} SET log_parser_stats = off; ALTER ROLE {role} SET log_planner_stats = off;
         ALTER ROLE {role} SET log_executor_stats = off"
    ));
    let issued = [db.backend().create(ADA, "{}").unwrap()];
    let token = &issued[0].token;
    let mut backend = db.backend();
    for (call, code) in [
        (
            format!("redeem_one_time_token('{token}', '{EVE}')"),
            "OT002",
        ),
        (
            format!("redeem_one_time_token('{token}', '{token}')"),
            "22023",
        ),
        (
            format!("redeem_one_time_token('{token}', '{ADA}', '{token} ')"),
            "22023",
        ),
        (
            format!("try_redeem_one_time_token('{token}', NULL)"),
            "22004",
        ),
        (
            format!("check_one_time_token('{token}', 'no address')"),
            "22023",
        ),
        (
            format!("compose_magic_link('no url', '{token}', '{ADA}')"),
            "22023",
        ),
    ] {
        let call = format!("SELECT * FROM magic_link.{call}");
        backend.batch_execute(&call).expect_sqlstate(code);
        backend
            .batch_execute(&format!("DO $$ BEGIN PERFORM * FROM ({call}) AS c; END $$"))
            .expect_sqlstate(code);
    }
    assert_keeps(&issued, "the log", &db.cluster().log());
}

/// A token in the log by PostgreSQL's own doing, with each setting alone: what SECURITY.md warns of.
#[test]
fn what_security_md_says_that_postgresql_shows_it_shows() {
    let db = Database::of(logging_cluster());
    let quiet = "SET log_statement = 'none'; SET log_min_duration_statement = -1; SET auto_explain.log_min_duration = -1;
                 SET debug_print_parse = off; SET debug_print_rewritten = off; SET log_parser_stats = off;
                 SET log_planner_stats = off; SET log_executor_stats = off";
    // The setting, and whether the token need be a literal for it to be shown.
    for (setting, literal) in [
        ("log_statement = 'all'", true),
        ("log_min_duration_statement = 0", true),
        ("debug_print_parse = on", true),
        ("debug_print_rewritten = on", true),
        ("log_parser_stats = on", true),
        ("auto_explain.log_min_duration = 0", true),
        (
            "log_parameter_max_length = -1; SET log_statement = 'all'",
            false,
        ),
        ("debug_print_plan = on", false),
        (
            "auto_explain.log_min_duration = 0; SET auto_explain.log_verbose = on",
            false,
        ),
    ] {
        let token = db.backend().create(ADA, "{}").unwrap().token;
        let mut superuser = db.superuser();
        superuser.batch_execute(quiet).unwrap();
        let begin = db.cluster().log().len();
        let shown = || {
            let log = in_one_line(&db.cluster().log()[begin..]);
            spellings(&token).iter().any(|secret| log.contains(secret))
        };
        superuser.check_in(None, &token, ADA).unwrap();
        assert!(!shown(), "{setting}");
        superuser.batch_execute(&format!("SET {setting}")).unwrap();
        superuser.try_redeem_in(None, &token, EVE).unwrap();
        assert_eq!(shown(), !literal, "{setting}, bound");
        let call =
            format!("SELECT * FROM magic_link.try_redeem_one_time_token('{token}', '{EVE}')");
        superuser.batch_execute(&call).unwrap();
        assert!(shown(), "{setting}, as a literal");
    }
    // Constants of queries are taken out of pg_stat_statements; those of a DO block are its text.
    let token = db.backend().create(ADA, "{}").unwrap().token;
    let call = format!("FROM magic_link.check_one_time_token('{token}', '{ADA}')");
    let mut backend = db.backend();
    backend.batch_execute(&format!("SELECT {call}")).unwrap();
    let kept = |db: &Database| -> bool {
        db.sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements");
        db.count(&format!("pg_stat_statements WHERE position('{token}' IN query) > 0 AND query NOT LIKE '%position%'")) > 0
    };
    assert!(!kept(&db));
    backend
        .batch_execute(&format!("DO $$ BEGIN PERFORM {call}; END $$"))
        .unwrap();
    assert!(kept(&db));
}

/// Which files below the cluster's folder of data have these bytes, by their names from there.
fn files_with(cluster: &Cluster, needles: &[Vec<u8>]) -> Vec<String> {
    let pattern: Vec<String> = needles
        .iter()
        .map(|bytes| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect())
        .collect();
    let folder = cluster.file("data");
    let search = format!(
        "cd '{}' && LC_ALL=C grep -rlaP '{}' .",
        folder.display(),
        pattern.join("|")
    );
    let found = cluster.shell(&search);
    let said = String::from_utf8_lossy(&found.stderr);
    // 1 is none; 2 is also a file that went away meanwhile.
    assert!(
        found.status.code() == Some(0) || found.status.code() == Some(1),
        "{said}"
    );
    let found = String::from_utf8_lossy(&found.stdout);
    let mut files: Vec<String> = found
        .lines()
        .map(|file| file.trim_start_matches("./").to_owned())
        .collect();
    files.sort();
    files
}

/// The hash is where it has to be, and in the WAL that wrote it; the token is nowhere.
#[test]
fn no_file_of_the_server_has_a_token() {
    let cluster = Cluster::start(&[("wal_level", "logical"), ("log_min_messages", "debug5")]);
    let db = Database::of(&cluster);
    db.sql(&format!(
        "ALTER ROLE {} SET work_mem = '64kB'",
        db.backend_role()
    ));
    let emails: Vec<String> = (0..2_000)
        .map(|n| format!("person{n}@example.com"))
        .collect();
    let emails: Vec<&str> = emails.iter().map(String::as_str).collect();
    let context = format!(r#"{{"filler": "{}"}}"#, "x".repeat(500));
    let issued = db.backend().create_all(&emails, &context).unwrap();
    let mut backend = db.backend();
    backend.redeem(&issued[0].token, emails[0]).unwrap();
    backend.try_redeem_in(None, &issued[1].token, EVE).unwrap();
    // As an answer that is sorted outside of memory would be: by its ids.
    db.sql("CREATE TABLE public.marker AS SELECT 'a marker that is found'::text AS a; CHECKPOINT; ANALYZE");
    drop(backend);
    wait_until("all sessions have gone", || {
        db.count("pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
            == 0
    });
    let [first, second, last] = [0, 1, 1_999].map(|n| &issued[n].token);
    assert!(!files_with(&cluster, &[b"a marker that is found".to_vec()]).is_empty());
    let tokens = [first, second, last].map(|token| token.as_bytes()[8..].to_vec());
    assert_eq!(files_with(&cluster, &tokens), [""; 0]);
    let hexadecimal =
        [first, second, last].map(|token| in_hexadecimal(&Sha256::digest(token)).into_bytes());
    assert_eq!(files_with(&cluster, &hexadecimal), [""; 0]);
    let hashes = [first, second, last].map(|token| Sha256::digest(token).to_vec());
    let token_table_file: String = db.value(
        "SELECT pg_relation_filepath('magic_link.one_time_tokens')",
        &[],
    );
    let with_hash = files_with(&cluster, &hashes);
    assert!(with_hash.contains(&token_table_file), "{with_hash:?}");
    let elsewhere: Vec<_> = with_hash
        .iter()
        .filter(|file| **file != token_table_file && !file.starts_with("pg_wal/"))
        .collect();
    assert_eq!(elsewhere, [""; 0]);
}

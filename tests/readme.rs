//! What the README tells a newcomer to run, run as it stands there; and that SECURITY.md names tests that are.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Database, readme_block as block};

#[path = "../pgrx-tests/examples/sign_in.rs"]
mod sign_in;
use sign_in::{Page, invite, redeem};

const EXAMPLE: &str = include_str!("../pgrx-tests/examples/sign_in.rs");

#[test]
fn the_sql_runs_in_psql() {
    let database = Database::new();
    let sql = block("## In ten lines of SQL", "sql");
    let (dba, backend) = sql
        .split_once("-- From here on as the backend's role.")
        .expect("the roles change somewhere");
    // `make psql` opens on what the demo's DBA has made.
    let demo = include_str!("../demo/dba.sql").split_inclusive(';');
    let made = demo.filter(|statement| statement.trim().starts_with("INSERT"));
    database.sql(&made.collect::<String>());
    let psql = |role: &str, script| database.cluster().psql(database.name(), role, script);
    psql("postgres", dba);
    let answers = psql(&database.backend_role(), &format!("--{backend}"));
    let answers: Vec<&str> = answers.lines().collect();
    let [link, outcome, redeemed] = answers[..] else {
        panic!("{answers:?}");
    };
    assert!(
        link.starts_with("https://app.example.com/sign-in?token="),
        "{link}"
    );
    assert_eq!(outcome, "ok");
    assert!(
        redeemed.contains(r#""status": "added", "roleIds": ["guest"]"#),
        "{redeemed}"
    );
}

#[test]
fn the_drivers_example_is_the_one_that_is_tested() {
    assert_eq!(block("## From a driver", "rust"), EXAMPLE);
}

#[test]
fn the_drivers_example_runs() {
    let database = Database::new();
    database.organization("acme", &["member"]);
    let backend: &mut Client = &mut database.backend();

    let (email, link) = invite(backend, " Ada@Example.com", "acme").expect("no link");
    assert_eq!(email, "ada@example.com");
    let (_, query) = link.split_once("?token=").expect("no token in the link");
    let (token, email_in_link) = query.split_once("&email=").expect("no address in the link");
    assert_eq!(email_in_link, "ada%40example.com");

    let user_id: String = match redeem(backend, token, &email).expect("no page") {
        Page::Welcome { user_id } => user_id,
        page => panic!("{page:?}"),
    };
    let member = "SELECT user_id::text FROM magic_link.organization_membership_roles";
    assert_eq!(database.value::<String>(member, &[]), user_id);
    assert_eq!(
        redeem(backend, token, &email).expect("no page"),
        Page::AlreadyUsed
    );
    let page = redeem(backend, token, "not an address").expect("no page");
    assert_eq!(page, Page::BrokenLink);

    let (_, link) = invite(backend, "ada@example.com", "acme").expect("no link");
    let (_, query) = link.split_once("?token=").expect("no token in the link");
    let (token, _) = query.split_once("&email=").expect("no address in the link");
    database
        .sql("UPDATE magic_link.one_time_tokens SET revoked_at = now() WHERE consumed_at IS NULL");
    assert_eq!(
        redeem(backend, token, &email).expect("no page"),
        Page::AskForANewLink
    );
}

/// Tokens as they lie in a ledger after hours in which the mail became slow: how many of each hour
/// were issued, never used, or redeemed after how many seconds in the middle. All that were not used
/// have expired, however young the hour is that runs.
const SLOW_MAIL: &str = "
    INSERT INTO magic_link.one_time_tokens
           (id, token_hash, email, organization_ids, context, created_at, expires_at, consumed_at, consumed_by)
    SELECT rpad(lpad(to_hex((extract(epoch FROM t.at) * 1000)::bigint), 12, '0') || lpad(to_hex(t.n), 4, '0'), 32, '0')::uuid,
           sha256(concat(t.at, t.n)::bytea), CASE t.n WHEN h.adas THEN 'ada@example.com' ELSE t.n || '@example.com' END,
           '{}', '{}', t.at, t.at + CASE h.ago WHEN 0 THEN interval '1 microsecond' ELSE interval '10 minutes' END,
           CASE WHEN t.n > h.unused THEN t.at + interval '1 second' * (h.seconds + t.n - (h.unused + 1 + h.issued) / 2) END,
           CASE WHEN t.n > h.unused THEN 'somebody' END
      FROM (VALUES (3, 41, 2, 28, 1), (2, 37, 2, 31, 2), (1, 44, 33, 544, 17), (0, 9, 8, 571, NULL))
               AS h (ago, issued, unused, seconds, adas),
           LATERAL (SELECT n, date_trunc('hour', now()) - h.ago * interval '1 hour'
                             + CASE WHEN h.ago > 0 THEN n ELSE 0 END * interval '77 seconds' AS at
                      FROM generate_series(1, h.issued) AS n) AS t;";

/// What psql prints, but for the times.
fn without_times(printed: &str) -> String {
    let is_time = |word: &str| {
        word.len() == "2026-01-01".len() && word.matches('-').count() == 2
            || word.len() == "00:00:00+00".len() && word.matches(':').count() == 2
    };
    let line = |line: &str| {
        let words = line
            .split(' ')
            .map(|word| if is_time(word) { "?" } else { word });
        words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
    };
    printed.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_transcript_is_what_psql_shows() {
    let database = Database::new();
    let transcript = block("### When users say that links do not work", "text");
    let is_typed = |line: &&str| line.starts_with("app=>") || line.starts_with("app->");
    let typed: String = transcript
        .lines()
        .filter(is_typed)
        .map(|line| &line[5..])
        .collect();
    let shown: Vec<&str> = transcript.lines().filter(|line| !is_typed(line)).collect();

    // In one transaction, so that no hour begins between the tokens and the look at them.
    let script = format!(
        "BEGIN; SET TIME ZONE 'UTC'; {SLOW_MAIL}
         SET ROLE {}; \\pset tuples_only off \n\\pset format aligned \n{typed} COMMIT;",
        database.admin_role()
    );
    let printed = database
        .cluster()
        .psql(database.name(), "postgres", &script);

    assert_eq!(
        without_times(printed.trim_end()),
        without_times(shown.join("\n").trim_end())
    );
}

/// In each span of code that begins with a file's name: of that file. What follows without one is of the same.
#[test]
fn every_test_that_security_md_names_is_there() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let text = std::fs::read_to_string(format!("{root}/SECURITY.md")).unwrap();
    let promises = text
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(".rs: "));
    let mut named = 0;
    for promise in promises {
        let backed_by = promise.rsplit(" | ").next().unwrap();
        let mut file = String::new();
        for span in backed_by.split('`').skip(1).step_by(2) {
            let test = span.split_once(": ").map_or(span, |(path, test)| {
                file = std::fs::read_to_string(format!("{root}/{path}")).expect(path);
                test
            });
            let declared = format!("fn {test}()");
            let (before, _) = file
                .split_once(&declared)
                .unwrap_or_else(|| panic!("no {test}"));
            let attributes = before.rsplit("\n}").next().unwrap();
            assert!(
                attributes.contains("#[test]")
                    || attributes.contains("proptest!")
                    // Of a program that lists its tests, since a machine may be unable to run some.
                    || file.contains(&format!("\"{test}\",")),
                "{test} is no test"
            );
            named += 1;
        }
    }
    let rows = text
        .split_once("|---|---|\n")
        .unwrap()
        .1
        .split_once("\n\n")
        .unwrap()
        .0
        .lines()
        .count();
    assert!(
        rows > 10 && named >= rows,
        "{named} tests back {rows} promises"
    );
}

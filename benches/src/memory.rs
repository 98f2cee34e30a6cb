//! The memory of a session that redeems a million tokens.

use std::fs;

use magic_link_harness::process_id;

use crate::report::{Goal, Part, Row, progress};
use crate::server;

const REDEMPTIONS: usize = 1_000_000;
const AFTER: usize = 1_000;

/// A new user in every tenth, into one organization; else a sign-in. A transaction each.
const REDEEM: &str = "
CREATE PROCEDURE contestant.redeem_from(first integer, last integer) LANGUAGE plpgsql AS $$
DECLARE
    issued record;
BEGIN
    FOR n IN first..last LOOP
        SELECT t.token, t.email INTO issued FROM contestant.tokens AS t WHERE t.number = n;
        PERFORM r.user_id FROM magic_link.redeem_one_time_token(issued.token, issued.email) AS r;
        COMMIT;
    END LOOP;
END
$$";

pub fn measure() -> Part {
    // With less the session writes pages out itself, and is once given 2 MiB by PostgreSQL to sort out
    // which files are to be synchronised.
    let settings = [("synchronous_commit", "off"), ("shared_buffers", "1GB")];
    let cluster = server::start(&settings);
    let database = server::database(&cluster);
    let mut client = database.superuser();
    progress("a million tokens");
    server::run(&mut client, REDEEM);
    server::run(&mut client, &issue());
    server::run(&mut client, "VACUUM (ANALYZE)");
    let mut session = database.superuser();
    let process = process_id(&mut session);
    let mut redeem = |first: usize, last: usize| {
        server::run(
            &mut session,
            &format!("CALL contestant.redeem_from({first}, {last})"),
        );
        private_memory(process)
    };
    let start = redeem(1, AFTER);
    let tenth = REDEMPTIONS / 10;
    let mut largest = start;
    let mut first = AFTER + 1;
    for last in (1..=10).map(|n| n * tenth) {
        progress(&format!("{last} redemptions"));
        largest = redeem(first, last).max(largest);
        first = last + 1;
    }
    let rows = vec![Row {
        figure: "private resident memory, 1 million redemptions in a session, to after 1,000"
            .to_owned(),
        goal: Some(Goal::AtMost(1024.0)),
        value: largest - start,
        unit: "KiB more",
    }];
    Part {
        rows,
        plots: vec![],
    }
}

fn issue() -> String {
    let tokens = |numbers: &str, email: &str, context: &str| {
        format!(
            "INSERT INTO contestant.tokens
             SELECT a.n, t.token, t.email FROM ({numbers}) AS a (n)
              CROSS JOIN LATERAL magic_link.create_one_time_token(format({email}), 86400, format('{context}', lpad((a.n % 1000)::text, 4, '0'))::jsonb) AS t;"
        )
    };
    let series = format!("SELECT n FROM generate_series(1, {REDEMPTIONS}) AS n");
    [
        "CREATE TABLE contestant.tokens (number integer PRIMARY KEY, token text NOT NULL, email text NOT NULL);".to_owned(),
        tokens(&format!("{series} WHERE n % 10 <> 0"), "'user%s@example.com', a.n % 10000", "{}"),
        tokens(
            &format!("{series} WHERE n % 10 = 0"),
            "'million%s@example.com', a.n",
            r#"{"jitOrganizationIds": ["organization-%s"]}"#,
        ),
    ]
    .concat()
}

/// In KiB, without what is shared with all others: those pages count for a process when it first
/// touches them.
fn private_memory(process: i32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kibibytes.unwrap_or_else(|| panic!("Linux does not tell the memory of process {process}"))
}

//! Creating tokens for many addresses in one call: the same rows in order, all of them or none.

use std::time::Duration;

use magic_link_harness::postgres::Client;
use magic_link_harness::{Calls, Cluster, Database, ExpectSqlState, Issued, concurrently};

/// `count` addresses.
fn addresses(count: usize) -> Vec<String> {
    (1..=count)
        .map(|n| format!("person-{n}@example.com"))
        .collect()
}

fn borrowed(emails: &[String]) -> Vec<&str> {
    emails.iter().map(String::as_str).collect()
}

fn emails(issued: &[Issued]) -> Vec<&str> {
    issued.iter().map(|issued| issued.email.as_str()).collect()
}

#[test]
fn each_address_gets_its_row_in_order() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let mut backend = db.backend();
    let context = r#"{"jitOrganizationIds": ["acme"], "a": 1.50}"#;
    let typed = [
        "Zoe@example.com",
        " ada@EXAMPLE.com\t",
        "bob@bücher.example",
        "ada@localhost",
    ];

    let issued = backend.create_all(&typed, context).unwrap();

    let normal = [
        "zoe@example.com",
        "ada@example.com",
        "bob@xn--bcher-kva.example",
        "ada@localhost",
    ];
    assert_eq!(emails(&issued), normal);
    let kept: String = db.value("SELECT $1::text::jsonb::text", &[&context]);
    let mut tokens: Vec<_> = issued.iter().map(|issued| &issued.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 4);
    for (issued, email) in issued.iter().zip(normal) {
        assert_eq!((issued.status.as_str(), &issued.context), ("active", &kept));
        let lifetime = issued.expires_at.duration_since(issued.created_at).unwrap();
        assert_eq!(lifetime, Duration::from_secs(600));
        let id: uuid::Uuid = db.value("SELECT magic_link.one_time_token_id($1)", &[&issued.token]);
        assert_eq!(id, issued.id);
        let row: String = db.value(
            "SELECT concat_ws(' ', email, organization_ids, context::text)
               FROM magic_link.one_time_tokens WHERE id = $1 AND created_at = $2 AND expires_at = $3",
            &[&issued.id, &issued.created_at, &issued.expires_at],
        );
        assert_eq!(row, format!("{email} {{acme}} {kept}"));
        // Each for its own address alone.
        let other = normal.iter().find(|other| **other != email).unwrap();
        backend
            .redeem(&issued.token, other)
            .expect_sqlstate("OT002");
        let redeemed = backend.redeem(&issued.token, email).unwrap();
        assert_eq!(redeemed.memberships[0]["status"], "added");
    }
    assert!(
        issued
            .windows(2)
            .all(|w| w[0].created_at == w[1].created_at)
    );
}

#[test]
fn what_is_left_out_means_what_it_means_for_one() {
    let db = Database::new();
    db.set("max_expires_in", 60);
    let lifetimes = |arguments: &str| {
        let rows = db.backend().query(
            &format!(
                "SELECT DISTINCT extract(epoch FROM expires_at - created_at)::integer, context::text
                   FROM magic_link.create_one_time_tokens('{{a@example.com, b@example.com}}'{arguments})"
            ),
            &[],
        )?;
        assert_eq!(rows.len(), 1, "{arguments}");
        assert_eq!(rows[0].get::<_, String>(1), "{}", "{arguments}");
        Ok(rows[0].get::<_, i32>(0))
    };
    for arguments in [
        ", NULL",
        ", NULL, NULL",
        ", expires_in => 60",
        ", context => NULL, expires_in => NULL",
    ] {
        assert_eq!(lifetimes(arguments).unwrap(), 60, "{arguments}");
    }
    for arguments in ["", ", 600", ", 61", ", 0", ", -1", ", context => '{}'"] {
        Err::<(), _>(lifetimes(arguments).unwrap_err()).expect_sqlstate("22023");
    }
}

#[test]
fn one_that_cannot_be_issued_is_none_issued() {
    let db = Database::new();
    db.organization("acme", &[]);
    db.set("max_active_tokens", 1);
    db.set("revoke_previous", "off");
    let mut backend = db.backend();
    backend.create("full@example.com", "{}").unwrap();
    let before = db.contents();
    let nowhere = r#"{"jitOrganizationIds": ["acme", "nowhere"]}"#;
    #[rustfmt::skip]
    let rows = [
        (["a@example.com", "b", "c@example.com"], "{}", "22023", "emails[2]: "),
        (["a@example.com", "b@example.com", "A@example.com"], "{}", "22023", "emails[3]: "),
        (["a@example.com", "b@example.com", "c@example.com"], nowhere, "23503", "nowhere"),
        (["a@example.com", "b@example.com", "c@example.com"], "[]", "22023", "context"),
        (["a@example.com", "full@example.com", "c@example.com"], "{}", "OT008", "emails[2]: magic_link.max_active_tokens allows 1."),
    ];
    for (emails, context, sqlstate, named) in rows {
        let error = backend
            .create_all(&emails, context)
            .expect_sqlstate(sqlstate);
        assert!(error.detail().unwrap().contains(named), "{error:?}");
        assert_eq!(db.contents(), before);
    }
    // Nor does it hold what it had locked: the others are free.
    let issued = backend.create_all(&["a@example.com", "b@example.com"], "{}");
    assert_eq!(issued.unwrap().len(), 2);
}

/// A trigger of the application can keep a row from being written, which is not a token less.
/// Of several addresses that are full the first is named.
#[test]
fn the_first_full_address_is_named() {
    let db = Database::new();
    db.set("max_active_tokens", 1);
    let mut backend = db.backend();
    backend.create_all(&["b@x.y", "c@x.y"], "{}").unwrap();
    let error = backend
        .create_all(&["a@x.y", "c@x.y", "d@x.y", "b@x.y"], "{}")
        .expect_sqlstate("OT008");
    assert!(
        error.detail().unwrap().starts_with("emails[2]: "),
        "{error:?}"
    );
}

/// More would take memory and time without bound.
#[test]
fn an_array_has_at_most_50_000_addresses() {
    let db = Database::new();
    let mut backend = db.backend();
    let mut wanted = addresses(50_000);
    wanted.push("one@too.many".to_owned());
    let error = backend
        .create_all(&borrowed(&wanted), "{}")
        .expect_sqlstate("22023");
    assert!(error.detail().unwrap().contains("50000"), "{error:?}");
    wanted.pop();
    let issued = backend.create_all(&borrowed(&wanted), "{}").unwrap();
    assert_eq!(issued.len(), wanted.len());
}

#[test]
fn a_row_that_is_suppressed_is_none_issued() {
    let db = Database::new();
    db.sql(
        "CREATE FUNCTION public.suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER suppress BEFORE INSERT ON magic_link.one_time_tokens FOR EACH ROW
             WHEN (NEW.email = 'b@example.com') EXECUTE FUNCTION public.suppress()",
    );
    let before = db.contents();
    let emails = ["a@example.com", "b@example.com", "c@example.com"];
    db.backend()
        .create_all(&emails, "{}")
        .expect_sqlstate("27000");
    assert_eq!(db.contents(), before);
}

/// As the smallest server has it: where there is no place for the lock of each address, nothing is done, and the
/// next call finds all places free again.
#[test]
fn more_addresses_than_the_lock_table_has_places_for_are_refused() {
    let cluster = Cluster::start(&[
        ("max_locks_per_transaction", "10"),
        ("max_connections", "20"),
    ]);
    let db = Database::of(&cluster);
    db.set("max_active_tokens", 2);
    let emails = addresses(5000);
    let mut backend = db.backend();
    let error = backend
        .create_all(&borrowed(&emails), "{}")
        .expect_sqlstate("53200");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("max_locks_per_transaction"), "{error:?}");
    // PostgreSQL sends the error before it releases the locks, and answers this once it has.
    backend.batch_execute("").unwrap();
    assert_eq!(db.count("magic_link.one_time_tokens"), 0);
    for _ in 1..=2 {
        let issued = backend.create_all(&borrowed(&emails[..100]), "{}").unwrap();
        assert_eq!(issued.len(), 100);
    }
    backend.create(&emails[0], "{}").expect_sqlstate("OT008");
    // Without a limit there is nothing to lock.
    db.set("max_active_tokens", 0);
    assert_eq!(
        db.backend()
            .create_all(&borrowed(&emails), "{}")
            .unwrap()
            .len(),
        5000
    );
}

/// In whatever order addresses are named, they are locked in one.
#[test]
fn the_same_addresses_in_opposite_orders_never_deadlock() {
    let db = Database::new();
    db.set("max_active_tokens", 1);
    db.set("revoke_previous", "on");
    let forward = addresses(100);
    let mut backward = forward.clone();
    backward.reverse();
    let orders = [forward.clone(), backward, forward.clone(), {
        let mut rotated = forward.clone();
        rotated.rotate_left(37);
        rotated
    }];
    let clients: Vec<_> = orders.iter().map(|order| (db.backend(), order)).collect();
    let answers = concurrently(clients, |(mut backend, order)| {
        (0..10)
            .map(|_| {
                backend
                    .create_all(&borrowed(order), "{}")
                    .map(|issued| issued.len())
            })
            .collect::<Vec<_>>()
    });
    for answer in answers.into_iter().flatten() {
        assert_eq!(answer.unwrap(), 100);
    }
    assert_eq!(db.count("magic_link.one_time_tokens"), 4000);
    assert_eq!(
        db.count("magic_link.one_time_token_status WHERE status = 'active'"),
        100
    );
}

/// The rows are made at the first look at them, all of them, however many of them are read.
#[test]
fn wherever_it_is_called_it_issues_one_token_for_each_address() {
    let db = Database::new();
    let call = "magic_link.create_one_time_tokens('{b@example.com, a@example.com, c@example.com}')";
    let all = ["b@example.com", "a@example.com", "c@example.com"];
    let mut backend = db.backend();
    #[rustfmt::skip]
    let rows = [
        (format!("SELECT email FROM {call}"), &all[..], 3),
        (format!("SELECT (t.r).email FROM (SELECT {call} AS r OFFSET 0) AS t"), &all, 3),
        (format!("SELECT email FROM {call} LIMIT 1"), &all[..1], 3),
        (format!("SELECT (t.r).email FROM (SELECT {call} AS r LIMIT 2) AS t"), &all[..2], 3),
        (format!("SELECT email FROM {call} WITH ORDINALITY ORDER BY ordinality DESC LIMIT 1"), &all[2..], 3),
        ("SELECT t.email FROM generate_series(1, 2) AS g, magic_link.create_one_time_tokens(ARRAY['b@example.com', g || '@example.com']) AS t".to_owned(),
         &["b@example.com", "1@example.com", "b@example.com", "2@example.com"], 4),
        (format!("SELECT t.email FROM {call} AS t, {call} AS u WHERE t.email = u.email AND t.id <> u.id ORDER BY 1 LIMIT 1"), &["a@example.com"], 6),
        (format!("SELECT email FROM {call} WHERE false"), &[], 0),
        (format!("WITH t AS MATERIALIZED (SELECT * FROM {call}) SELECT a.email FROM t AS a JOIN t AS b USING (id) ORDER BY 1"),
         &["a@example.com", "b@example.com", "c@example.com"], 3),
    ];
    for (query, expected, issued) in rows {
        db.sql("DELETE FROM magic_link.one_time_tokens");
        let answered = backend.query(&query, &[]).unwrap();
        let answered: Vec<&str> = answered.iter().map(|row| row.get(0)).collect();
        assert_eq!(answered, expected, "{query}");
        assert_eq!(db.count("magic_link.one_time_tokens"), issued, "{query}");
    }
}

#[test]
fn a_cursor_reads_the_tokens_bit_by_bit_and_back() {
    let db = Database::new();
    let mut backend = db.backend();
    let emails = addresses(10);
    backend
        .batch_execute(&format!(
            "BEGIN;
             DECLARE c SCROLL CURSOR WITH HOLD FOR
                 SELECT token, email FROM magic_link.create_one_time_tokens('{{{}}}')",
            emails.join(", ")
        ))
        .unwrap();
    let fetch = |backend: &mut Client, what: &str| -> Vec<(String, String)> {
        let rows = backend.query(&format!("FETCH {what} FROM c"), &[]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let first = fetch(&mut backend, "4");
    let rest = fetch(&mut backend, "ALL");
    let back = fetch(&mut backend, "ABSOLUTE 1");
    assert_eq!(back, first[..1]);
    backend.batch_execute("COMMIT").unwrap();
    let again = fetch(&mut backend, "ABSOLUTE 10");
    assert_eq!(again, rest[5..]);
    assert_eq!(db.count("magic_link.one_time_tokens"), 10);
    for ((token, email), expected) in first.iter().chain(&rest).zip(&emails) {
        assert_eq!(email, expected);
        assert!(backend.redeem(token, email).is_ok());
    }
}

/// Where a caller takes one value alone, more cannot be answered, and nothing was issued.
#[test]
fn a_caller_that_takes_no_set_is_told() {
    let db = Database::new();
    let mut backend = db.backend();
    let call = "magic_link.create_one_time_tokens('{a@example.com, b@example.com}')";
    for (statement, sqlstate) in [
        (
            format!("DO $$ DECLARE r record; BEGIN r := {call}; END $$"),
            "21000",
        ),
        (format!("SELECT 1 WHERE {call} IS NOT NULL"), "0A000"),
        (format!("SELECT CASE WHEN true THEN {call} END"), "0A000"),
        (format!("VALUES ((SELECT {call}))"), "21000"),
    ] {
        backend.batch_execute(&statement).expect_sqlstate(sqlstate);
    }
    assert_eq!(db.count("magic_link.one_time_tokens"), 0);
}

/// A token is never written: what would be a temporary file's with so little memory stays in memory.
#[test]
fn a_large_answer_goes_into_no_temporary_file() {
    let db = Database::new();
    db.sql(&format!(
        "ALTER DATABASE {0} SET log_temp_files = 0; ALTER DATABASE {0} SET work_mem = '64kB'",
        db.name()
    ));
    let mut backend = db.backend();
    let wanted = addresses(3000);
    let issued = backend.create_all(&borrowed(&wanted), "{}").unwrap();
    assert_eq!(emails(&issued), borrowed(&wanted));
    let written = || {
        let log = db.cluster().log();
        let mut lines = log.lines().filter(|line| line.contains(db.name()));
        lines.any(|line| line.contains("temporary file"))
    };
    assert!(!written());
    // What does not fit is logged, so that the line above means something.
    backend
        .execute(
            "SELECT n FROM generate_series(1, 100000) AS n ORDER BY -n",
            &[],
        )
        .unwrap();
    assert!(written());
}

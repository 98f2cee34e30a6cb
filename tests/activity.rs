//! The view `one_time_token_activity`: its counts for each hour, and what reading it costs.

use std::time::SystemTime;

use magic_link_harness::postgres::Client;
use magic_link_harness::{Calls, Database, ExpectSqlState};

/// What a row of the view says after its hour: issued, redeemed, refused attempts, revoked, expired
/// unused, and the median of seconds.
type Activity = (i64, i64, i64, i64, i64, Option<f64>);

const NOTHING: Activity = (0, 0, 0, 0, 0, None);

/// The hour that runs, as text: a test that goes on into the next one still means this one.
fn this_hour(db: &Database) -> String {
    db.value("SELECT date_trunc('hour', now(), 'UTC')::text", &[])
}

/// The hours with something in them, as how many hours before `hour` they began.
fn activity(client: &mut Client, hour: &str) -> Vec<(i32, Activity)> {
    client.batch_execute("SET TIME ZONE 'UTC'").unwrap();
    let rows = client
        .query(
            "SELECT (extract(epoch FROM $1::text::timestamptz - hour) / 3600)::integer,
                    issued, redeemed, refused_attempts::bigint, revoked, expired_unused, median_seconds
               FROM magic_link.one_time_token_activity ORDER BY hour DESC",
            &[&hour],
        )
        .unwrap();
    assert_eq!(rows.len(), 48);
    rows.iter()
        .map(|row| {
            let numbers = (
                row.get(1),
                row.get(2),
                row.get(3),
                row.get(4),
                row.get(5),
                row.get(6),
            );
            (row.get(0), numbers)
        })
        .filter(|(_, activity)| *activity != NOTHING)
        .collect()
}

/// Rows for one_time_tokens, so many hours before `hour`. Each is minutes past the hour of the issue,
/// seconds to its redemption or to its revocation, and failed attempts; they live ten minutes.
fn hours_before(hour: &str, hours: i32, rows: &str) -> String {
    format!(
        "SELECT 'ada@example.com', t.at, t.at + interval '10 minutes',
                t.at + redeemed::float8 * interval '1 second', t.at + revoked::float8 * interval '1 second', failed
           FROM (SELECT timestamptz '{hour}' - interval '{hours} hours' + minutes * interval '1 minute',
                        redeemed, revoked, failed
                   FROM (VALUES {rows}) AS v (minutes, redeemed, revoked, failed)) AS t (at, redeemed, revoked, failed)"
    )
}

#[test]
fn a_table_without_tokens_shows_48_hours_of_zeros() {
    let db = Database::new();
    assert_eq!(activity(&mut db.admin(), &this_hour(&db)), []);
    let all: bool = db.value(
        "SELECT max(hour) = date_trunc('hour', now()) AND min(hour) = date_trunc('hour', now()) - interval '47 hours'
                AND count(DISTINCT hour) = 48
           FROM magic_link.one_time_token_activity",
        &[],
    );
    assert!(all);
}

#[test]
fn each_token_counts_in_the_hour_of_its_issue_for_what_became_of_it() {
    let db = Database::new();
    let now = this_hour(&db);
    #[rustfmt::skip]
    let hours = [
        (2, "(0, 30, NULL, 0), (1, 90, NULL, 2), (2, 60, NULL, 0), (3, NULL, NULL, 4)",
            (4, 3, 6, 0, 1, Some(60.0))),
        // An even number has its median between two; a redemption after the hour counts in the hour of the issue.
        (3, "(0, 10, NULL, 0), (59, 121, NULL, 0)", (2, 2, 0, 0, 0, Some(65.5))),
        (5, "(30, NULL, 5, 5), (31, NULL, 6, 1), (32, NULL, NULL, 0)", (3, 0, 6, 2, 1, None)),
        (46, "(0, NULL, NULL, 0), (1, 0.25, NULL, 0)", (2, 1, 0, 0, 1, Some(0.25))),
    ];
    for (hours, rows, _) in &hours {
        db.insert_tokens(&hours_before(&now, *hours, rows));
    }
    // Not in the view any more.
    db.insert_tokens(&hours_before(&now, 48, "(59, 1, NULL, 1)"));
    let expected: Vec<_> = hours.iter().map(|(hour, _, sums)| (*hour, *sums)).collect();
    assert_eq!(activity(&mut db.admin(), &now), expected);
}

#[test]
fn the_hour_that_runs_counts_as_it_goes() {
    let db = Database::new();
    let now = this_hour(&db);
    db.set("max_failed_attempts", 2);
    let mut backend = db.backend();
    let [redeemed, revoked, guessed, _active, deleted] =
        [(); 5].map(|()| backend.create("ada@example.com", "{}").unwrap());
    backend.redeem(&redeemed.token, "ada@example.com").unwrap();
    let mut admin = db.admin();
    admin.revoke(revoked.id).unwrap();
    admin.delete(deleted.id).unwrap();
    for _ in 0..3 {
        backend
            .try_redeem_in(None, &guessed.token, "eve@example.com")
            .unwrap();
    }
    // Should the hour have turned meanwhile, they are in two rows.
    let all = activity(&mut admin, &now);
    let sum = |number: fn(&Activity) -> i64| all.iter().map(|(_, hour)| number(hour)).sum::<i64>();
    assert_eq!(sum(|hour| hour.0), 4);
    assert_eq!(sum(|hour| hour.1), 1);
    assert_eq!(sum(|hour| hour.2), 2);
    assert_eq!(sum(|hour| hour.3), 2);
    assert_eq!(sum(|hour| hour.4), 0);
    assert!(
        all.iter()
            .any(|(_, hour)| hour.5.is_some_and(|seconds| seconds > 0.0))
    );
}

/// The first and the last moment of an hour, to the microsecond.
#[test]
fn an_hour_begins_with_its_first_moment_and_ends_before_the_next() {
    let db = Database::new();
    let now = this_hour(&db);
    db.insert_tokens(&format!(
        "SELECT 'ada@example.com', t.at, t.at + interval '1 minute', NULL, NULL, failed
           FROM (SELECT timestamptz '{now}' - interval '5 hours' + edge, failed
                   FROM (VALUES (interval '-1 microsecond', 1), ('0', 10), ('1 microsecond', 100),
                                ('59 minutes 59.999999 seconds', 1000), ('1 hour', 10000))
                        AS v (edge, failed)) AS t (at, failed)"
    ));
    let attempts: Vec<_> = activity(&mut db.admin(), &now)
        .iter()
        .map(|(hour, activity)| (*hour, activity.0, activity.2))
        .collect();
    assert_eq!(attempts, [(4, 1, 10000), (5, 3, 1110), (6, 1, 1)]);
}

/// An hour begins where the session's clock shows it: half past in UTC for some.
#[test]
fn the_hours_are_those_of_the_sessions_time_zone() {
    let db = Database::new();
    db.insert_tokens(&hours_before(
        &this_hour(&db),
        10,
        "(10, 5, NULL, 0), (40, 15, NULL, 0), (50, 25, NULL, 0)",
    ));
    for (zone, expected) in [
        ("UTC", vec![(0, 3, Some(15.0))]),
        ("Europe/Berlin", vec![(0, 3, Some(15.0))]),
        (
            "Asia/Kolkata",
            vec![(-30, 1, Some(5.0)), (30, 2, Some(20.0))],
        ),
        (
            "Asia/Kathmandu",
            vec![(-45, 1, Some(5.0)), (15, 2, Some(20.0))],
        ),
    ] {
        let mut admin = db.admin();
        admin
            .batch_execute(&format!("SET TIME ZONE '{zone}'"))
            .unwrap();
        let rows = admin
            .query(
                "SELECT hour, issued, median_seconds FROM magic_link.one_time_token_activity WHERE issued > 0 ORDER BY 1",
                &[],
            )
            .unwrap();
        let hour: SystemTime = db.value(
            "SELECT date_trunc('hour', min(created_at), 'UTC') FROM magic_link.one_time_tokens",
            &[],
        );
        let minutes = |time: SystemTime| match time.duration_since(hour) {
            Ok(after) => after.as_secs() as i64 / 60,
            Err(before) => -(before.duration().as_secs() as i64) / 60,
        };
        // Kathmandu is 5:45 ahead, so that its hours begin at a quarter past.
        let found: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    minutes(row.get(0)),
                    row.get::<_, i64>(1),
                    row.get::<_, Option<f64>>(2),
                )
            })
            .collect();
        assert_eq!(found, expected, "{zone}");
        let hours: i64 = admin
            .query_one(
                "SELECT count(*) FROM magic_link.one_time_token_activity",
                &[],
            )
            .unwrap()
            .get(0);
        assert_eq!(hours, 48, "{zone}");
    }
}

/// A look at the last hours reads the rows of these hours, by the key, and no other.
#[test]
fn an_hour_costs_its_own_rows() {
    let db = Database::new();
    // 60 full hours of 1000 tokens each.
    let now = this_hour(&db);
    db.insert_tokens(&format!(
        "SELECT 'ada-' || n || '@example.com', timestamptz '{now}' - n * interval '3.6 seconds',
                now() + interval '1 day', NULL, NULL, 0
           FROM generate_series(1, 60000) AS n"
    ));
    for analyzed in [false, true] {
        if analyzed {
            db.sql("ANALYZE magic_link.one_time_tokens");
        }
        for (hours, rows) in [("0 hours", 0), ("1 hour", 1000), ("2 hours", 2000)] {
            let mut admin = db.admin();
            let before = db.reads_by(&mut admin);
            let issued: i64 = admin
                .query_one(
                    &format!(
                        "SELECT coalesce(sum(issued), 0)::bigint FROM magic_link.one_time_token_activity
                          WHERE hour >= timestamptz '{now}' - interval '{hours}'"
                    ),
                    &[],
                )
                .unwrap()
                .get(0);
            let after = db.reads_by(&mut admin);
            assert_eq!(after.0, before.0, "the whole table was read");
            assert_eq!(after.1 - before.1, rows, "{hours} {analyzed}");
            assert_eq!(issued, rows, "{hours} {analyzed}");
        }
    }
}

#[test]
fn an_admin_reads_it_and_nobody_else() {
    let db = Database::new();
    let look = "SELECT FROM magic_link.one_time_token_activity";
    assert_eq!(db.admin().query(look, &[]).unwrap().len(), 48);
    db.backend().query(look, &[]).expect_sqlstate("42501");
    let ungranted = db.role("ungranted", "LOGIN");
    db.connect_as(&ungranted)
        .query(look, &[])
        .expect_sqlstate("42501");
}

/// A time without end has no seconds to its redemption; the others have.
#[test]
fn times_without_end_are_no_error() {
    let db = Database::new();
    let mut backend = db.backend();
    let [forever, consumed_never, redeemed] =
        [(); 3].map(|()| backend.create("ada@example.com", "{}").unwrap());
    for issued in [&forever, &consumed_never, &redeemed] {
        backend.redeem(&issued.token, "ada@example.com").unwrap();
    }
    db.change(
        forever.id,
        "created_at = '-infinity', expires_at = 'infinity'",
    );
    db.change(consumed_never.id, "consumed_at = 'infinity'");
    db.change(
        redeemed.id,
        "consumed_at = created_at + interval '3 seconds'",
    );
    let row = db
        .admin()
        .query_one(
            "SELECT sum(redeemed)::bigint, max(median_seconds) FROM magic_link.one_time_token_activity",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, f64>(1)), (3, 3.0));
}

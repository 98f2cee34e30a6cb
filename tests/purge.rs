//! `purge_one_time_tokens`: which rows are deleted and which stay, batches, concurrent calls, and cost.

use magic_link_harness::postgres::Client;
use magic_link_harness::{
    Calls, Database, ExpectSqlState, concurrently, process_id, while_blocked,
};

const ADA: &str = "ada@example.com";

/// The addresses that still have a row in one_time_tokens, in order.
fn left(db: &Database) -> Vec<String> {
    let rows = db
        .superuser()
        .query(
            "SELECT email FROM magic_link.one_time_tokens ORDER BY 1",
            &[],
        )
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// `count` tokens that expired some days ago, and as many that live on.
fn half_ended(db: &Database, count: i32) {
    db.insert_tokens(&format!(
        "SELECT 'ended-' || n || '@example.com', now() - interval '50 days', now() - interval '49 days', NULL::timestamptz, NULL::timestamptz, 0
           FROM generate_series(1, {count}) AS n
         UNION ALL
         SELECT 'active-' || n || '@example.com', now() - interval '50 days', now() + interval '1 day', NULL, NULL, 0
           FROM generate_series(1, {count}) AS n"
    ));
}

/// The name of each row says how many days ago it ended, and each was created 100 days ago. The
/// earlier of two ends counts, whichever it is.
fn tokens_in_each_end_state(db: &Database) {
    db.insert_tokens(
        "SELECT name, now() - interval '100 days', now() - expired * interval '1 day',
                now() - consumed * interval '1 day', now() - revoked * interval '1 day', 0
           FROM (VALUES ('active', -1, NULL, NULL),
                        ('consumed-05', -1, 5, NULL),
                        ('consumed-40', -1, 40, NULL),
                        ('consumed-40-expired-05', 5, 40, NULL),
                        ('consumed-05-expired-40', 40, 5, NULL),
                        ('expired-05', 5, NULL, NULL),
                        ('expired-40', 40, NULL, NULL),
                        ('revoked-05', -1, NULL, 5),
                        ('revoked-40', -1, NULL, 40),
                        ('revoked-40-expired-05', 5, NULL, 40))
                AS t (name, expired, consumed, revoked)",
    );
}

#[test]
fn what_ended_longer_ago_than_retention_goes() {
    const ACTIVE: &[&str] = &["active"];
    const RECENT: &[&str] = &["active", "consumed-05", "expired-05", "revoked-05"];
    for (retention, expected) in [
        ("'30 days'", RECENT),
        ("'20 days'", RECENT),
        ("'720 hours'", RECENT),
        ("'4 days'", ACTIVE),
        ("'0'", ACTIVE),
        ("'-0 days'", ACTIVE),
    ] {
        let db = Database::new();
        tokens_in_each_end_state(&db);
        let purged: i64 = db
            .admin()
            .query_one(
                &format!("SELECT magic_link.purge_one_time_tokens({retention})"),
                &[],
            )
            .unwrap()
            .get(0);
        assert_eq!(left(&db), expected, "{retention}");
        assert_eq!(purged as usize, 10 - expected.len(), "{retention}");
        assert_eq!(
            db.admin().purge("0", 1).unwrap() as usize,
            expected.len() - 1
        );
    }
}

#[test]
fn left_out_retention_is_30_days() {
    let db = Database::new();
    db.insert_tokens(
        "SELECT 'ended-' || days, now() - interval '100 days', now() - days * interval '1 day', NULL, NULL, 0
           FROM unnest('{29, 31}'::int[]) AS days",
    );
    let purged = "SELECT magic_link.purge_one_time_tokens()";
    assert_eq!(
        db.admin().query_one(purged, &[]).unwrap().get::<_, i64>(0),
        1
    );
    assert_eq!(left(&db), ["ended-29"]);
}

/// The clock of a purge is later than the ends that were written before it, and earlier than those
/// that are not yet.
#[test]
fn retention_is_exact_to_the_clock() {
    let db = Database::new();
    db.insert_tokens(
        "SELECT 'before', now() - interval '2 days', now() - interval '1 day', NULL, NULL, 0
         UNION ALL
         SELECT 'after', now() - interval '2 days', now() - interval '1 day' + interval '10 minutes', NULL, NULL, 0
         UNION ALL
         SELECT 'issued just now', now() - interval '1 microsecond', now(), NULL, NULL, 0",
    );
    assert_eq!(db.admin().purge("24 hours", 1).unwrap(), 1);
    assert_eq!(left(&db), ["after", "issued just now"]);
    assert_eq!(db.admin().purge("0", 1).unwrap(), 2);
}

#[test]
fn any_batch_size_purges_the_same() {
    for batch_size in [1, 2, 3, 9, 10, 11, 20, i32::MAX] {
        let db = Database::new();
        half_ended(&db, 10);
        assert_eq!(
            db.admin().purge("30 days", batch_size).unwrap(),
            10,
            "{batch_size}"
        );
        let left = left(&db);
        assert_eq!(left.len(), 10, "{batch_size}");
        assert!(
            left.iter().all(|email| email.starts_with("active-")),
            "{left:?}"
        );
        assert_eq!(db.admin().purge("30 days", batch_size).unwrap(), 0);
    }
}

/// `1 mon -29 days` is a day or two, or less than nothing in March; the rest is clear on any day.
#[test]
fn a_retention_may_be_any_interval_that_is_not_negative() {
    let db = Database::new();
    half_ended(&db, 1);
    let before = db.contents();
    #[rustfmt::skip]
    let rows = [
        ("1 mon -28 days", true),
        ("1 mon -32 days", false),
        ("-1 mon 32 days", true),
        ("-1 mon 27 days", false),
        ("1 day -23 hours", true),
        ("-1 day +26 hours", true),
        ("-1 microsecond", false),
        ("-10 years", false),
        ("1000 years", true),
    ];
    for (retention, allowed) in rows {
        let mut admin = db.admin();
        admin.batch_execute("BEGIN").unwrap();
        let purged = admin.purge(retention, 1);
        match allowed {
            true => assert!(purged.is_ok(), "{retention}: {purged:?}"),
            false => {
                let error = purged.expect_sqlstate("22023");
                assert_eq!(error.message(), "invalid retention", "{retention}");
            }
        }
        admin.batch_execute("ROLLBACK").unwrap();
    }
    for retention in ["1 mon -29 days", "1 mon -30 days"] {
        let mut admin = db.admin();
        admin.batch_execute("BEGIN").unwrap();
        if let Err(error) = admin.purge(retention, 1) {
            Err::<(), _>(error).expect_sqlstate("22023");
        }
        admin.batch_execute("ROLLBACK").unwrap();
    }
    assert_eq!(db.contents(), before);
}

/// Whatever the server's version takes for an interval, it is answered by a code of class 22, or well.
#[test]
fn a_retention_beyond_all_time_is_an_error_of_data_or_purges_nothing() {
    let db = Database::new();
    half_ended(&db, 1);
    let before = db.contents();
    for retention in [
        "infinity",
        "-infinity",
        "178000000 years",
        "-178000000 years",
        "2147483647 days",
        "-2147483647 days",
        "2562047788 hours",
        "-2562047788 hours",
        "300000 years",
        "-300000 years",
        "7000 years",
    ] {
        match db.admin().purge(retention, 1) {
            Ok(purged) => assert_eq!(purged, 0, "{retention}"),
            Err(error) => {
                let code = error.code().unwrap().code();
                assert!(code.starts_with("22"), "{retention}: {error:?}");
            }
        }
        assert_eq!(db.contents(), before, "{retention}");
    }
}

#[test]
fn a_row_that_is_locked_is_left_for_the_next_time() {
    let db = Database::new();
    half_ended(&db, 5);
    let mut superuser = db.superuser();
    for lock in ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"] {
        for batch_size in [1, 2, 100] {
            let mut admin = db.admin();
            admin
                .batch_execute("SET lock_timeout = '1ms'; BEGIN")
                .unwrap();
            let mut holding = superuser.transaction().unwrap();
            let locked = format!(
                "SELECT FROM magic_link.one_time_tokens
                  WHERE email IN ('ended-2@example.com', 'ended-4@example.com') FOR {lock}"
            );
            assert_eq!(holding.execute(&locked, &[]).unwrap(), 2);
            assert_eq!(admin.purge("30 days", batch_size).unwrap(), 3, "{lock}");
            holding.rollback().unwrap();
            assert_eq!(admin.purge("30 days", batch_size).unwrap(), 2, "{lock}");
            admin.batch_execute("ROLLBACK").unwrap();
        }
    }
}

/// Two purges at once share the work: neither waits, and together they delete each row once.
#[test]
fn purges_at_once_neither_wait_nor_count_a_row_twice() {
    let db = Database::new();
    half_ended(&db, 300);
    let mut holding = db.admin();
    holding.batch_execute("BEGIN").unwrap();
    assert_eq!(holding.purge("30 days", 7).unwrap(), 300);
    // Everything is taken already, for good or not.
    assert_eq!(db.admin().purge("30 days", 7).unwrap(), 0);
    holding.batch_execute("ROLLBACK").unwrap();

    let admins: Vec<_> = (0..8).map(|_| db.admin()).collect();
    let purged = concurrently(admins, |mut admin| admin.purge("30 days", 3).unwrap());
    let rest = db.admin().purge("30 days", 3).unwrap();
    assert_eq!(purged.iter().sum::<i64>() + rest, 300, "{purged:?} {rest}");
    assert_eq!(db.count("magic_link.one_time_tokens"), 300);
}

/// What is being redeemed is not old, unless it has just expired, or a hand makes it so: even then
/// neither waits.
#[test]
fn a_redemption_and_a_purge_do_not_wait_for_each_other() {
    let db = Database::new();
    db.set("replay_window", 600);
    let waits_for_nobody = "SET lock_timeout = '1ms'";
    let mut backend = db.backend();
    let mut admin = db.admin();
    for client in [&mut backend, &mut admin] {
        client.batch_execute(waits_for_nobody).unwrap();
    }
    let old = "created_at = created_at - interval '50 days', expires_at = expires_at - interval '50 days'";
    let tokens = [(); 4].map(|()| backend.create(ADA, "{}").unwrap());
    let [active, expired, revoked, consumed] = &tokens;
    backend.redeem(&consumed.token, ADA).unwrap();
    db.change(revoked.id, "revoked_at = clock_timestamp()");
    db.change(expired.id, old);
    half_ended(&db, 3);

    // A redemption is under way, and a purge comes.
    backend.batch_execute("BEGIN").unwrap();
    backend.redeem(&active.token, ADA).unwrap();
    admin.batch_execute("BEGIN").unwrap();
    assert_eq!(admin.purge("1 day", 2).unwrap(), 3);
    // All but the one that is being redeemed, which was active before.
    assert_eq!(admin.purge("0", 2).unwrap(), 3);
    backend.batch_execute("COMMIT").unwrap();

    // A purge is under way, and redemptions come, also of what is being purged.
    let another = backend.create(ADA, "{}").unwrap();
    assert!(!backend.redeem(&another.token, ADA).unwrap().replayed);
    backend.redeem(&expired.token, ADA).expect_sqlstate("OT005");
    backend.redeem(&revoked.token, ADA).expect_sqlstate("OT004");
    assert!(backend.redeem(&consumed.token, ADA).unwrap().replayed);
    let (outcome, _) = backend
        .try_redeem_in(None, &expired.token, "eve@example.com")
        .unwrap();
    assert_eq!(outcome, "email_mismatch");
    admin.batch_execute("COMMIT").unwrap();
    backend.redeem(&expired.token, ADA).expect_sqlstate("OT001");
    backend
        .redeem(&consumed.token, ADA)
        .expect_sqlstate("OT001");
    assert!(backend.redeem(&active.token, ADA).unwrap().replayed);
}

/// A redemption that holds a row, and came to it in time, keeps it from a purge that comes later.
#[test]
fn a_token_that_is_redeemed_at_the_last_moment_is_not_purged_under_it() {
    let db = Database::new();
    let token = db.backend().create_for(ADA, Some(1), None).unwrap();
    let mut backend = db.backend();
    backend.batch_execute("BEGIN").unwrap();
    backend.redeem(&token.token, ADA).unwrap();
    db.wait_until_expired(token.id);
    let mut admin = db.admin();
    admin.batch_execute("SET lock_timeout = '1ms'").unwrap();
    assert_eq!(admin.purge("0", 10).unwrap(), 0);
    backend.batch_execute("COMMIT").unwrap();
    assert_eq!(
        db.count("magic_link.one_time_tokens WHERE consumed_at IS NOT NULL"),
        1
    );
    assert_eq!(admin.purge("0", 10).unwrap(), 1);
}

/// In one snapshot a purge sees what was there when it began; what has changed since is 40001.
#[test]
fn a_purge_in_one_snapshot() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let db = Database::new();
        half_ended(&db, 5);
        let mut admin = db.admin();
        let begin =
            format!("BEGIN ISOLATION LEVEL {level}; SELECT FROM magic_link.one_time_token_status");
        admin.batch_execute(&begin).unwrap();
        assert_eq!(admin.purge("30 days", 2).unwrap(), 5, "{level}");
        admin.batch_execute("ROLLBACK").unwrap();

        admin.batch_execute(&begin).unwrap();
        db.sql("UPDATE magic_link.one_time_tokens SET failed_attempts = 1");
        admin.purge("30 days", 2).expect_sqlstate("40001");
        admin.batch_execute("ROLLBACK").unwrap();
        assert_eq!(admin.purge("30 days", 2).unwrap(), 5, "{level}");
    }
}

#[test]
fn a_purge_that_is_cancelled_has_purged_nothing() {
    let db = Database::new();
    half_ended(&db, 5);
    db.sql(
        "CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN OLD; END $$;
         CREATE TRIGGER wait BEFORE DELETE ON magic_link.one_time_tokens
             FOR EACH ROW WHEN (OLD.email = 'ended-4@example.com') EXECUTE FUNCTION public.wait()",
    );
    let before = db.contents();
    let mut holding = db.superuser();
    holding.batch_execute("SELECT pg_advisory_lock(1)").unwrap();
    let mut admin = db.admin();
    let purging = process_id(&mut admin);
    let purge = |admin: &mut Client| admin.purge("30 days", 1);
    let answer = while_blocked(&db, admin, purge, || {
        let cancelled: bool = db.value("SELECT pg_cancel_backend($1)", &[&purging]);
        assert!(cancelled);
    });
    answer.expect_sqlstate("57014");
    assert_eq!(db.contents(), before);
}

/// An application's foreign key to one_time_tokens is enforced, whoever purges.
#[test]
fn a_row_that_an_application_refers_to_is_an_error() {
    let db = Database::new();
    half_ended(&db, 2);
    db.sql(
        "CREATE TABLE public.mails (token_id uuid REFERENCES magic_link.one_time_tokens);
         INSERT INTO public.mails SELECT id FROM magic_link.one_time_tokens WHERE email = 'ended-1@example.com'",
    );
    let before = db.contents();
    db.admin().purge("30 days", 1).expect_sqlstate("23503");
    assert_eq!(db.contents(), before);
}

/// Many recent tokens, and a few old ones that were inserted first.
const BIG: &str = "
    SELECT 'old@example.com', now() - interval '60 days', now() - interval '59 days', NULL::timestamptz, NULL::timestamptz, 0
      FROM generate_series(1, 50)
    UNION ALL
    SELECT 'recent-' || n || '@example.com', now() - n * interval '1 second', now() + interval '1 day', NULL, NULL, 0
      FROM generate_series(1, 200000) AS n";

/// By the key, as far as a token may be old enough: also where the session planned its statements for
/// an empty table, or for one that was never analysed.
#[test]
fn a_purge_does_not_read_what_is_too_young_to_go() {
    let db = Database::new();
    let mut early = db.admin();
    assert_eq!(early.purge("30 days", 10).unwrap(), 0);
    db.insert_tokens(BIG);
    let assert_cheap = |admin: &mut Client, who: &str| {
        let (scans, rows) = db.reads_by(admin);
        admin.batch_execute("BEGIN").unwrap();
        assert_eq!(admin.purge("30 days", 20).unwrap(), 50, "{who}");
        admin.batch_execute("ROLLBACK").unwrap();
        let (scans_after, rows_after) = db.reads_by(admin);
        let read = rows_after - rows;
        assert_eq!(scans_after, scans, "{who} read the whole table");
        assert!((50..=500).contains(&read), "{who} read {read} rows");
    };
    assert_cheap(&mut early, "who planned early");
    assert_cheap(&mut db.admin(), "who comes before ANALYZE");
    db.sql("ANALYZE magic_link.one_time_tokens");
    assert_cheap(&mut early, "who planned early, after ANALYZE");
    assert_cheap(&mut db.admin(), "who comes after ANALYZE");
    // A server whose settings speak against indexes does not change it.
    let mut reluctant = db.admin();
    reluctant
        .batch_execute("SET random_page_cost = 1000; SET enable_seqscan = on; SET enable_bitmapscan = on; SET cpu_index_tuple_cost = 100")
        .unwrap();
    assert_cheap(&mut reluctant, "who finds indexes expensive");
}

/// A clock that was ahead for a while issued ids of a time that is still to come: when a token ended is
/// what counts.
#[test]
fn what_was_issued_by_a_clock_that_was_ahead_goes_when_it_ended_long_ago() {
    let db = Database::new();
    db.insert_tokens(
        "SELECT name, now() + interval '1 year', now() + interval '2 years',
                now() - consumed * interval '1 day', now() - revoked * interval '1 day', 0
           FROM (VALUES ('active', NULL, NULL), ('consumed-05', 5, NULL), ('consumed-40', 40, NULL),
                        ('revoked-05', NULL, 5), ('revoked-40', NULL, 40)) AS t (name, consumed, revoked)",
    );
    tokens_in_each_end_state(&db);
    assert_eq!(db.admin().purge("30 days", 1).unwrap(), 8);
    let recent = ["active", "consumed-05", "expired-05", "revoked-05"];
    let mut expected = [&recent[..], &["active", "consumed-05", "revoked-05"]].concat();
    expected.sort_unstable();
    assert_eq!(left(&db), expected);
    assert_eq!(db.admin().purge("0", 1000).unwrap(), 5);
    assert_eq!(left(&db), ["active", "active"]);
}

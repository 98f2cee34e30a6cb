//! The cost of a refusal reveals nothing. Index probes, pages and WAL are compared, since times vary by chance.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Calls, Cluster, Database, Issued};

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";

/// What was done to one of our tables.
#[derive(Debug, Default, PartialEq, Clone)]
struct Work {
    table: String,
    whole_reads: i64,
    index_probes: i64,
    rows_written: i64,
    index_pages: i64,
    /// A row that was found lies in one of them.
    table_pages: i64,
}

fn counts(db: &Database) -> Vec<Work> {
    let rows = db.superuser().query(
        "SELECT t.relname::text, t.seq_scan, coalesce(t.idx_scan, 0), t.n_tup_ins + t.n_tup_upd + t.n_tup_del,
                io.idx_blks_hit + io.idx_blks_read, io.heap_blks_hit + io.heap_blks_read
           FROM pg_stat_user_tables AS t JOIN pg_statio_user_tables AS io USING (relid)
          WHERE t.schemaname = 'magic_link' ORDER BY 1",
        &[],
    );
    let work = |row: &magic_link_harness::postgres::Row| Work {
        table: row.get(0),
        whole_reads: row.get(1),
        index_probes: row.get(2),
        rows_written: row.get(3),
        index_pages: row.get(4),
        table_pages: row.get(5),
    };
    rows.unwrap().iter().map(work).collect()
}

/// What a call does to each of our tables that it touches.
fn work_of(db: &Database, client: &mut Client, call: impl FnOnce(&mut Client)) -> Vec<Work> {
    let hand_in = "SELECT pg_stat_force_next_flush()";
    client.batch_execute(hand_in).unwrap();
    let before = counts(db);
    call(client);
    client.batch_execute(hand_in).unwrap();
    let done = counts(db).into_iter().zip(before).map(|(after, before)| {
        assert_eq!(after.table, before.table);
        Work {
            table: after.table,
            whole_reads: after.whole_reads - before.whole_reads,
            index_probes: after.index_probes - before.index_probes,
            rows_written: after.rows_written - before.rows_written,
            index_pages: after.index_pages - before.index_pages,
            table_pages: after.table_pages - before.table_pages,
        }
    });
    let nothing = |work: &Work| {
        *work
            == Work {
                table: work.table.clone(),
                ..Work::default()
            }
    };
    done.filter(|work| !nothing(work)).collect()
}

/// One probe of the primary key of one_time_tokens.
fn one_probe(work: &[Work]) -> Work {
    let [probed] = work else {
        panic!("one table was to be looked into: {work:?}");
    };
    assert!((0..=1).contains(&probed.table_pages), "{probed:?}");
    let expected = Work {
        table: "one_time_tokens".to_owned(),
        index_probes: 1,
        index_pages: probed.index_pages,
        table_pages: probed.table_pages,
        ..Work::default()
    };
    assert_eq!(*probed, expected);
    expected
}

/// A claim that is refused: why, the token, the address.
type Claim = (&'static str, String, &'static str);

/// One for each reason, and tokens that nobody issued, one of them as old as another that was.
fn refused_claims(db: &Database) -> Vec<Claim> {
    let mut backend = db.backend();
    // Not made old by hand: that would leave a second, dead entry in the index.
    let expired = backend.create_for(ADA, Some(1), None).unwrap();
    let mut create = |context: &str| backend.create(ADA, context).unwrap();
    let [consumed, revoked, active] = [(); 3].map(|()| create("{}"));
    let register = create(r#"{"interactionEvent": "Register"}"#);
    backend.redeem(&consumed.token, ADA).unwrap();
    db.change(revoked.id, "revoked_at = clock_timestamp()");
    db.wait_until_expired(expired.id);
    let forged = format!("{}{}", &active.token[..8], "0".repeat(24));
    vec![
        ("token_not_found", forged, ADA),
        ("token_not_found", "0".repeat(32), ADA),
        ("token_not_found", "z".repeat(32), "nobody@example.com"),
        ("email_mismatch", register.token.clone(), EVE),
        ("token_consumed", consumed.token, ADA),
        ("token_revoked", revoked.token, ADA),
        ("token_expired", expired.token, ADA),
        ("interaction_event_mismatch", register.token, ADA),
    ]
}

fn check(client: &mut Client, (why, token, email): &Claim) {
    assert_eq!(client.check_in(None, token, email).unwrap(), *why);
}

fn redeem(client: &mut Client, (why, token, email): &Claim) {
    let refused = client.redeem(token, email).unwrap_err();
    let code = refused.code().unwrap().code();
    assert!(code.starts_with("OT00"), "{why}: {code}");
}

fn try_redeem(client: &mut Client, (why, token, email): &Claim) {
    assert_eq!(client.try_redeem_in(None, token, email).unwrap().0, *why);
}

#[test]
fn a_refused_token_costs_one_probe_of_one_index_whether_or_not_it_exists() {
    let db = Database::new();
    let claims = refused_claims(&db);
    let before = db.contents();
    let mut backend = db.backend();
    for (name, call) in [
        ("check", check as fn(&mut Client, &Claim)),
        ("redeem", redeem),
        ("try_redeem", try_redeem),
    ] {
        // try_redeem counts a wrong address: see below.
        let counted = |claim: &&Claim| name != "try_redeem" || claim.0 != "email_mismatch";
        call(&mut backend, &claims[0]);
        let work: Vec<_> = claims
            .iter()
            .filter(counted)
            .map(|claim| {
                let work = work_of(&db, &mut backend, |client| call(client, claim));
                (claim.0, one_probe(&work))
            })
            .collect();
        for (why, other) in &work {
            assert_eq!(
                other.index_pages, work[0].1.index_pages,
                "{name} {why}: {work:?}"
            );
            let found = i64::from(*why != "token_not_found");
            assert_eq!(other.table_pages, found, "{name} {why}: {work:?}");
        }
    }
    assert_eq!(db.contents(), before);
}

/// Who presents a token that is not theirs learns by no work of ours who is a user.
#[test]
fn a_refused_token_does_not_look_for_the_user() {
    let db = Database::new();
    db.sql(&format!(
        "INSERT INTO magic_link.users (email) VALUES ('{ADA}')"
    ));
    let issued = db.backend().create("other@example.com", "{}").unwrap();
    let mut backend = db.backend();
    // The first one reads what a session knows afterwards.
    backend.check_in(None, &"0".repeat(32), ADA).unwrap();
    for token in ["0".repeat(32), issued.token] {
        for event in [
            None,
            Some("SignIn"),
            Some("ForgotPassword"),
            Some("Register"),
        ] {
            let mut work = |email: &str| {
                let work = work_of(&db, &mut backend, |client| {
                    client.check_in(event, &token, email).unwrap();
                    client.redeem_in(event, &token, email).unwrap_err();
                    let decision = client.decide(&token, email, None, None).unwrap();
                    assert_eq!(decision.0, "refuse");
                });
                assert_eq!(work.len(), 1, "{event:?}: {work:?}");
                work
            };
            let [known, unknown] = [ADA, EVE].map(&mut work);
            assert_eq!(known, unknown, "{event:?}");
            assert_eq!(
                (known[0].index_probes, known[0].rows_written),
                (3, 0),
                "{event:?}"
            );
        }
    }
}

/// A transaction gets its number with the first row that it writes or locks.
fn writes(backend: &mut Client, call: fn(&mut Client, &Claim), claim: &Claim) -> bool {
    backend.batch_execute("BEGIN; SAVEPOINT call").unwrap();
    call(backend, claim);
    backend.batch_execute("ROLLBACK TO call").unwrap();
    let numbered = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL";
    let numbered = backend.query_one(numbered, &[]).unwrap().get(0);
    backend.batch_execute("ROLLBACK").unwrap();
    numbered
}

#[test]
fn only_a_wrong_address_for_an_active_token_is_written_down_and_by_one_function_alone() {
    for limit in [0, 5] {
        let db = Database::new();
        db.set("max_failed_attempts", limit);
        let mut backend = db.backend();
        for claim in refused_claims(&db) {
            assert!(!writes(&mut backend, check, &claim), "{claim:?}");
            assert!(!writes(&mut backend, redeem, &claim), "{claim:?}");
            let counted = claim.0 == "email_mismatch";
            assert_eq!(
                writes(&mut backend, try_redeem, &claim),
                counted,
                "{claim:?}"
            );
            if !counted {
                // Whatever ended a token, a wrong address for it is not worth counting either.
                let (_, token, _) = claim;
                let wrong_address = ("email_mismatch", token, EVE);
                let over = ["token_consumed", "token_revoked", "token_expired"].contains(&claim.0);
                let written = over && writes(&mut backend, try_redeem, &wrong_address);
                assert!(!written, "{wrong_address:?}");
            }
        }
    }
}

/// What one statement wrote to the WAL: its records, and their bytes.
fn wal_of(client: &mut Client, statement: &str) -> (i64, i64) {
    let explain = format!("EXPLAIN (ANALYZE, WAL, COSTS OFF, FORMAT JSON) {statement}");
    let plan: serde_json::Value = client.query_one(&explain, &[]).unwrap().get(0);
    let count = |name: &str| plan[0]["Plan"][name].as_i64().unwrap();
    (count("WAL Records"), count("WAL Bytes"))
}

/// Asking for a link tells nobody whether the address is known.
#[test]
fn creating_is_the_same_for_an_address_that_is_known_and_one_that_is_not() {
    let cluster = Cluster::start(&[("full_page_writes", "off")]);
    let db = Database::of(&cluster);
    db.organization("acme", &["member"]);
    let mut backend = db.backend();
    let context = r#"{"jitOrganizationIds": ["acme"], "interactionEvent": "SignIn"}"#;
    backend
        .create(ADA, r#"{"jitOrganizationIds": ["acme"]}"#)
        .unwrap();
    let member = backend
        .create(ADA, r#"{"jitOrganizationIds": ["acme"]}"#)
        .unwrap();
    backend.redeem(&member.token, ADA).unwrap();
    backend.create("zoe@example.com", context).unwrap();

    let mut answers = vec![];
    let work = [ADA, EVE].map(|email| {
        work_of(&db, &mut backend, |client| {
            answers.push(client.create(email, context).unwrap());
        })
    });
    assert_eq!(work[0], work[1]);
    assert!(work[0].iter().all(|work| work.table != "users"), "{work:?}");
    let wal = [ADA, EVE].map(|email| {
        let call =
            format!("SELECT * FROM magic_link.create_one_time_token('{email}', 600, '{context}')");
        wal_of(&mut backend, &call)
    });
    assert_eq!(wal[0], wal[1]);
    assert!(wal[0].0 > 0, "{wal:?}");

    let [known, unknown] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(known.token.len(), unknown.token.len());
    assert_eq!(
        (&known.status, &known.context),
        (&unknown.status, &unknown.context)
    );
    let life = |issued: &Issued| issued.expires_at.duration_since(issued.created_at).unwrap();
    assert_eq!(life(known), life(unknown));
}

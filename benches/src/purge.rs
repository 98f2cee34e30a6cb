//! Redemptions while a million ended rows are purged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use magic_link_harness::Database;
use magic_link_harness::postgres::Client;

use crate::contestants::{Call, Contestant};
use crate::report::{Goal, Part, Row, median, progress};
use crate::server;
use crate::wire::Session;
use crate::workload::{Workload, cases};

const ENDED: usize = 1_000_000;
const ROUNDS: usize = 5;
/// More than are redeemed while a purge runs.
const CALLS: usize = 30_000;

pub fn measure() -> Part {
    let cluster = server::start(&[("fsync", "on"), ("shared_buffers", "1GB")]);
    let database = server::database(&cluster);
    let mut client = database.superuser();
    let (mut without, mut with, mut seconds) = (vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        progress(&format!("round {} of {ROUNDS}", round + 1));
        let calls = redemptions(&mut client, round);
        let mut session = Session::new(database.superuser(), Contestant::Ours);
        // As many as there is time for beside a purge, and before it.
        let (quiet, busy) = calls.split_at(CALLS / 6);
        without.push(p99(&mut latencies(
            &mut session,
            quiet,
            &AtomicBool::new(false),
        )));
        ended_rows(&mut client);
        let (mut beside, took) = beside_purge(&database, &mut session, busy);
        with.push(p99(&mut beside));
        seconds.push(took);
    }
    let ratio = median(&with) / median(&without);
    let rows = vec![
        Row::ratio(
            "p99 of redemptions beside a purge of 1 million, to without",
            ratio,
            Goal::AtMost(2.0),
        ),
        Row::plain("p99 of redemptions without", 1e3 * median(&without), "ms"),
        Row::plain(
            "p99 of redemptions beside a purge",
            1e3 * median(&with),
            "ms",
        ),
        Row::plain("purge of 1 million ended rows", median(&seconds), "s"),
    ];
    Part {
        rows,
        plots: vec![],
    }
}

fn redemptions(client: &mut Client, round: usize) -> Vec<Call> {
    let cases = cases(client, Workload::Redeem(1), CALLS, round * CALLS);
    let calls = cases
        .iter()
        .filter_map(|case| Contestant::Ours.call(Workload::Redeem(1), case));
    calls.collect()
}

/// Of two months ago.
fn ended_rows(client: &mut Client) {
    server::run(
        client,
        &format!(
            "INSERT INTO magic_link.one_time_tokens
                    (id, token_hash, email, organization_ids, context, created_at, expires_at)
             SELECT overlay(overlay(replace(gen_random_uuid()::text, '-', '') PLACING
                            lpad(to_hex((extract(epoch FROM now() - interval '60 days') * 1000)::int8 + n), 12, '0') FROM 1)
                            PLACING '7' FROM 13)::uuid,
                    sha256(n::text::bytea), format('old%s@example.com', n), '{{}}', '{{}}',
                    now() - interval '60 days' + n * interval '1 ms', now() - interval '59 days'
               FROM generate_series(1, {ENDED}) AS n"
        ),
    );
    server::run(client, "VACUUM (ANALYZE) magic_link.one_time_tokens");
    server::run(client, "CHECKPOINT");
}

/// The latencies until the purge is done, and how long that took.
fn beside_purge(database: &Database, session: &mut Session, calls: &[Call]) -> (Vec<f64>, f64) {
    let done = AtomicBool::new(false);
    let mut purger = database.superuser();
    thread::scope(|scope| {
        let purge = scope.spawn(|| {
            let start = Instant::now();
            let purged = purger.query_one("SELECT magic_link.purge_one_time_tokens()", &[]);
            done.store(true, Ordering::Release);
            let purged: i64 = purged.expect("the purge failed").get(0);
            assert_eq!(purged, ENDED as i64);
            start.elapsed().as_secs_f64()
        });
        let latencies = latencies(session, calls, &done);
        let seconds = purge.join().expect("the purge failed");
        (latencies, seconds)
    })
}

fn latencies(session: &mut Session, calls: &[Call], done: &AtomicBool) -> Vec<f64> {
    let calls = calls.iter().take_while(|_| !done.load(Ordering::Acquire));
    calls
        .map(|call| {
            let start = Instant::now();
            session.call(call);
            start.elapsed().as_secs_f64()
        })
        .collect()
}

fn p99(latencies: &mut [f64]) -> f64 {
    latencies.sort_by(f64::total_cmp);
    let place = latencies.len() * 99 / 100;
    latencies.get(place).copied().unwrap_or(f64::NAN)
}

//! Bytes of write-ahead log a call, transaction ids, and whether updates stay in their page.

use magic_link_harness::postgres::Client;

use crate::contestants::Contestant;
use crate::report::{Goal, Part, Row, progress};
use crate::server;
use crate::wire::Session;
use crate::workload::{Case, Workload, cases};

const CALLS: usize = 5_000;

pub fn measure() -> Part {
    let cluster = server::start(&[("full_page_writes", "off")]);
    let database = server::database(&cluster);
    let mut client = database.superuser();
    let mut first = 0;
    let mut next = |client: &mut Client, workload| {
        first += CALLS;
        cases(client, workload, CALLS, first)
    };
    let session = |contestant| Session::new(database.superuser(), contestant);
    let mut rows = vec![];
    for workload in [
        Workload::Create,
        Workload::Redeem(1),
        Workload::Redeem(10),
        Workload::SignIn,
    ] {
        progress(workload.name());
        let of = |contestant, cases: &[Case]| {
            bytes(&mut session(contestant), contestant, workload, cases)
        };
        let baseline = of(Contestant::Baseline, &next(&mut client, workload));
        let cases = next(&mut client, workload);
        let ours = of(Contestant::Ours, &cases);
        let figure = format!("WAL, {}, to the baseline", workload.name());
        rows.push(Row::ratio(figure, ours / baseline, Goal::AtMost(1.05)));
    }
    for workload in [Workload::Refused, Workload::Check] {
        progress(workload.name());
        let cases = next(&mut client, workload);
        // What a reader may tidy up in a page is none of the call's work.
        server::run(&mut client, "VACUUM magic_link.one_time_tokens");
        let mut session = session(Contestant::Ours);
        let bytes = bytes(&mut session, Contestant::Ours, workload, &cases);
        rows.push(zero(format!("WAL bytes, {}", workload.name()), bytes));
        let ids = transaction_ids(&mut session, workload, &cases);
        rows.push(zero(format!("transaction ids, {}", workload.name()), ids));
    }
    progress("heap-only updates");
    rows.push(heap_only(
        &mut client,
        &mut session(Contestant::Ours),
        &mut next,
    ));
    Part {
        rows,
        plots: vec![],
    }
}

fn zero(figure: String, value: f64) -> Row {
    Row {
        figure,
        goal: Some(Goal::AtMost(0.0)),
        value,
        unit: "a call",
    }
}

/// A call's bytes; nobody else writes meanwhile.
fn bytes(session: &mut Session, contestant: Contestant, workload: Workload, cases: &[Case]) -> f64 {
    let calls = cases
        .iter()
        .filter_map(|case| contestant.call(workload, case));
    let before = written(&mut session.client);
    for call in calls {
        session.call(&call);
    }
    (written(&mut session.client) - before) / cases.len() as f64
}

fn written(client: &mut Client) -> f64 {
    let query = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8";
    client
        .query_one(query, &[])
        .expect("no position in the log")
        .get(0)
}

/// How many of the calls were given a transaction id, over how many they are.
fn transaction_ids(session: &mut Session, workload: Workload, cases: &[Case]) -> f64 {
    let mut assigned = 0.0;
    for case in cases.iter().take(100) {
        let call = Contestant::Ours.call(workload, case);
        server::run(&mut session.client, "BEGIN");
        session.call(&call.expect("ours has every workload"));
        let query = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL";
        let row = session.client.query_one(query, &[]);
        if row.expect("no answer").get(0) {
            assigned += 1.0;
        }
        server::run(&mut session.client, "COMMIT");
    }
    assigned / 100.0
}

/// In an order that has nothing to do with that of issue.
fn heap_only(
    client: &mut Client,
    session: &mut Session,
    next: &mut impl FnMut(&mut Client, Workload) -> Vec<Case>,
) -> Row {
    let (mut cases, more) = (
        next(client, Workload::SignIn),
        next(client, Workload::Redeem(1)),
    );
    cases.extend(more);
    cases.sort_by_key(|case| case.hash.clone());
    server::run(
        &mut session.client,
        "SELECT pg_stat_reset_single_table_counters('magic_link.one_time_tokens'::regclass)",
    );
    for case in &cases {
        let call = Contestant::Ours.call(Workload::SignIn, case);
        session.call(&call.expect("ours has every workload"));
    }
    server::run(&mut session.client, "SELECT pg_stat_force_next_flush()");
    let row = client.query_one(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'magic_link.one_time_tokens'::regclass",
        &[],
    );
    let row = row.expect("no statistics");
    let (updates, heap_only): (i64, i64) = (row.get(0), row.get(1));
    assert!(
        updates as usize >= cases.len(),
        "the statistics have not all updates"
    );
    let share = 100.0 * heap_only as f64 / updates as f64;
    Row {
        figure: format!("heap-only of {updates} redemptions' updates"),
        goal: Some(Goal::AtLeast(99.0)),
        value: share,
        unit: "%",
    }
}

//! Whether a call costs more where one_time_tokens has more rows.

use magic_link_harness::Database;

use crate::contestants::{Call, Contestant};
use crate::plot::Bars;
use crate::report::{Goal, Part, Row, progress};
use crate::server::{self, Stopped};
use crate::workload::{Workload, cases};

pub const SIZES: [usize; 3] = [10_000, 1_000_000, 10_000_000];
const WORKLOADS: [Workload; 2] = [Workload::Create, Workload::Redeem(1)];

pub fn measure() -> Part {
    let cluster = server::start(&[("shared_buffers", "1GB"), ("maintenance_work_mem", "512MB")]);
    let database = server::database(&cluster);
    let mut counts: Vec<[f64; 2]> = vec![];
    let mut rows = 0;
    for (step, size) in SIZES.into_iter().enumerate() {
        progress(&format!("{size} rows"));
        grow(&database, rows, size);
        rows = size;
        let mut client = database.superuser();
        let calls = WORKLOADS.map(|workload| {
            let cases = cases(&mut client, workload, 200, step * 200);
            let calls = cases
                .iter()
                .filter_map(|case| Contestant::Ours.call(workload, case));
            calls.collect::<Vec<Call>>()
        });
        drop(client);
        let stopped = Stopped::new(&cluster, &database);
        counts.push(calls.map(|calls| stopped.instructions(Contestant::Ours, &calls, false)));
        stopped.start_again();
    }
    report(&counts)
}

/// Tokens of the past, as they are issued: ids and addresses of which none was there before.
fn grow(database: &Database, from: usize, to: usize) {
    let mut client = database.superuser();
    server::run(
        &mut client,
        &format!(
            "SET synchronous_commit = off;
             INSERT INTO magic_link.one_time_tokens
                    (id, token_hash, email, organization_ids, context, created_at, expires_at)
             SELECT overlay(overlay(replace(gen_random_uuid()::text, '-', '') PLACING lpad(to_hex(1700000000000 + n), 12, '0') FROM 1)
                            PLACING '7' FROM 13)::uuid,
                    sha256(n::text::bytea), format('old%s@example.com', lpad(n::text, 9, '0')), '{{}}', '{{}}',
                    to_timestamp(1700000000 + n / 1000.0), to_timestamp(1700000600 + n / 1000.0)
               FROM generate_series({from}, {to} - 1) AS n"
        ),
    );
    server::run(&mut client, "VACUUM (ANALYZE)");
    server::run(&mut client, "CHECKPOINT");
}

fn report(counts: &[[f64; 2]]) -> Part {
    let (first, last) = (counts[0], counts[counts.len() - 1]);
    let rows = WORKLOADS
        .iter()
        .zip(first)
        .zip(last)
        .map(|((workload, first), last)| Row {
            figure: format!(
                "instructions, {}, from 10 thousand rows to 10 million",
                workload.name()
            ),
            goal: Some(Goal::AtMost(15.0)),
            value: 100.0 * (last / first - 1.0),
            unit: "% more",
        });
    let groups = WORKLOADS.iter().enumerate().map(|(place, workload)| {
        let values = counts.iter().map(|counts| Some(counts[place])).collect();
        (workload.name().to_owned(), values)
    });
    Part {
        rows: rows.collect(),
        plots: vec![Bars {
            file: "growth",
            title: "Instructions a call, by the rows in one_time_tokens",
            unit: "thousand",
            scale: 1e-3,
            series: vec!["10 thousand", "1 million", "10 million"],
            groups: groups.collect(),
        }],
    }
}

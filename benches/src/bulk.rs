//! Many addresses in one call, and in one call each.

use std::time::Instant;

use magic_link_harness::postgres::Client;

use crate::report::{Goal, Part, Row, median, progress};
use crate::server;

const ADDRESSES: usize = 10_000;
const ROUNDS: usize = 3;

pub fn measure() -> Part {
    let cluster = server::start(&[("fsync", "on")]);
    let database = server::database(&cluster);
    let mut client = database.superuser();
    let (mut bulk, mut each) = (vec![], vec![]);
    for round in 0..ROUNDS {
        progress(&format!("round {} of {ROUNDS}", round + 1));
        let emails = |what: &str| -> Vec<String> {
            (0..ADDRESSES)
                .map(|n| format!("{what}{round}-{n}@example.com"))
                .collect()
        };
        bulk.push(in_one_call(&mut client, &emails("bulk")));
        each.push(one_by_one(&mut client, &emails("each")));
    }
    let ratio = median(&each) / median(&bulk);
    let figure = "create_one_time_tokens, 10,000 addresses, to one call each";
    let rows = vec![
        Row::ratio(figure, ratio, Goal::AtLeast(10.0)),
        Row::plain(
            "create_one_time_tokens, 10,000 addresses",
            1e3 * median(&bulk),
            "ms",
        ),
    ];
    Part {
        rows,
        plots: vec![],
    }
}

fn in_one_call(client: &mut Client, emails: &[String]) -> f64 {
    let start = Instant::now();
    let rows = client.query(
        "SELECT * FROM magic_link.create_one_time_tokens($1)",
        &[&emails],
    );
    assert_eq!(rows.expect("no tokens").len(), emails.len());
    start.elapsed().as_secs_f64()
}

fn one_by_one(client: &mut Client, emails: &[String]) -> f64 {
    let create = client.prepare("SELECT * FROM magic_link.create_one_time_token($1)");
    let create = create.expect("no statement");
    let start = Instant::now();
    for email in emails {
        client.query_one(&create, &[email]).expect("no token");
    }
    start.elapsed().as_secs_f64()
}

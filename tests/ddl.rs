//! Some of what `make torture PARTS=ddl` does at length: calls that meet a change of a table.

use std::sync::LazyLock;

use magic_link_harness::Cluster;
use magic_link_torture::ddl::{Scene, Setting, Tally, changes, play};
use magic_link_torture::ddl_calls::{Fixture, Seat};
use magic_link_torture::ddl_changes::{Change, Kind};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(&[]).until_exit());
static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| Fixture::make(&CLUSTER));

/// Temporary.
#[test]
fn all_in_short() {
    let mut tally = Tally::default();
    let changes = changes(&CLUSTER, &FIXTURE);
    println!("{} changes", changes.len());
    let which = std::env::var("WHICH").unwrap_or_default();
    for change in changes {
        if !which.is_empty() && !format!("{change:?}").contains(&which) { continue; }
        for commits in [true, false] {
            let start = std::time::Instant::now();
            let scene = Scene { change: change.clone(), commits, setting: Setting::Plain, seats: Seat::all().collect() };
            let end = play(&CLUSTER, &FIXTURE, &scene, &mut tally);
            println!("{:?} {commits} {} ms", change, start.elapsed().as_millis());
            if let Err(wrong) = end { println!("WRONG {wrong}"); }
        }
    }
    println!("{}", tally.line());
}

//! The server is killed under load, all its processes by SIGKILL, and started again: what was acknowledged is there.
//!
//! fsync is off, and need not be on: what a process has handed to the operating system outlives it, and the operating system goes on. With
//! synchronous_commit on, a commit is acknowledged once its record was handed over. The loss of a machine is not tried here.

use magic_link_harness::Cluster;
use rand::RngExt;

use crate::actions::{Round, generator};
use crate::actors::{Fault, Stage};
use crate::run::Run;
use crate::schedule::{SETTINGS, Tally, drop_database, judge, prepare, rounds};

/// More than anybody gets to before the server is killed.
const PIECES: usize = 200;

/// How many transactions of all connections are through when the server is killed.
const MOMENTS: std::ops::Range<u64> = 100..1000;

pub fn kill(run: &Run) -> String {
    let cluster = Cluster::start(SETTINGS);
    rounds(run, |number, tally| {
        kill_once(&cluster, run.seed, number, tally)
    })
}

/// A round, at whose end the server is killed and started again.
pub fn kill_once(cluster: &Cluster, seed: u64, number: u64, tally: &mut Tally) {
    let round = Round::draw(seed, number, PIECES);
    let database = prepare(cluster, &round);
    // The moment is drawn as a number of transactions that are through.
    let moment = generator(seed, number, u64::from(u16::MAX)).random_range(MOMENTS);
    let stage = Stage::new(&database, &round, Fault::ServerLost);
    let played = stage.play(|stage| {
        assert!(stage.await_calls(moment), "they were through before");
        cluster.kill();
    });
    cluster.start_again();
    judge(&database, &round, &played);
    tally.add(&played);
    drop_database(database);
}

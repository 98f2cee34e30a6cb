//! Calls are cancelled, sessions terminated, statements run out of time and single server processes are killed, at any moment, and everybody
//! goes on.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use magic_link_harness::postgres::Client;
use magic_link_harness::{Cluster, Database, wait_until};
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use crate::actions::{Round, generator};
use crate::actors::{CONNECTIONS, Fault, Stage, connect};
use crate::run::Run;
use crate::schedule::{SETTINGS, Tally, drop_database, judge, prepare, rounds};

const PIECES: usize = 60;

pub fn interrupt(run: &Run) -> String {
    let cluster = Cluster::start(SETTINGS);
    rounds(run, |number, tally| {
        interrupt_once(&cluster, run.seed, number, tally)
    })
}

/// How often somebody was hit: calls that ended by a cancellation or by their time, and connections that were lost.
pub fn hits(tally: &Tally) -> u64 {
    let codes = ["57014", "57P01", "57P02", "lost"];
    codes
        .iter()
        .filter_map(|code| tally.errors.get(*code))
        .sum()
}

/// A round full of interruptions. In one of four a server process is killed, and with it every session of the server.
pub fn interrupt_once(cluster: &Cluster, seed: u64, number: u64, tally: &mut Tally) {
    let round = Round {
        timeouts: true,
        ..Round::draw(seed, number, PIECES)
    };
    let database = prepare(cluster, &round).with_kills();
    let stage = Stage::new(&database, &round, Fault::Interrupted);
    let played = stage.play(|stage| strike(stage, &database, &round));
    judge(&database, &round, &played);
    tally.add(&played);
    drop_database(database);
}

fn strike(stage: &Stage, database: &Database, round: &Round) {
    let mut random = generator(round.seed, round.number, u64::from(u16::MAX));
    let kill_at = (round.number % 4 == 3).then(|| random.random_range(10..60));
    let mut striker = connect(database, "postgres").0;
    let mut strikes = 0;
    while stage.await_calls(random.random_range(0..4)) {
        // A moment within a call: part of the fault, and nobody's wait for an event.
        let moment = Instant::now() + Duration::from_micros(random.random_range(0..1500));
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        let victim = random.random_range(0..CONNECTIONS) as usize;
        let process = stage.processes[victim].load(Ordering::SeqCst);
        if process == 0 {
            continue;
        }
        strikes += 1;
        if kill_at == Some(strikes) {
            kill_process(database, &mut striker, process);
            striker = connect(database, "postgres").0;
        } else {
            hit(&mut striker, process, &mut random);
        }
    }
}

/// Kills a server process, and waits until the server has ended all sessions for that, the striker's too. Whoever has gone by itself
/// has also left the statistics, and whoever was killed has not.
fn kill_process(database: &Database, striker: &mut Client, process: i32) {
    database.cluster().kill_process(process);
    let there = "SELECT FROM pg_stat_activity WHERE pid = $1";
    let is_there = |striker: &mut Client| {
        striker
            .query(there, &[&process])
            .map(|rows| !rows.is_empty())
    };
    wait_until("the server has seen it", || {
        !is_there(striker).unwrap_or(false)
    });
}

/// Whoever has gone in the meantime is not hit.
fn hit(striker: &mut Client, process: i32, random: &mut ChaCha8Rng) {
    let terminates = random.random_ratio(1, 4);
    let function = if terminates {
        "pg_terminate_backend"
    } else {
        "pg_cancel_backend"
    };
    let hit = format!("SELECT {function}($1)");
    striker
        .execute(&hit, &[&process])
        .expect("the striker was hit");
}

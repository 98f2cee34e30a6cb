//! Calls are cancelled, sessions terminated, statements run out of time and single server processes are killed, at any moment, and everybody
//! goes on.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use magic_link_harness::postgres::Client;
use magic_link_harness::{Cluster, Database, until};
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use crate::actions::{Round, generator};
use crate::actors::{CONNECTIONS, Fault, Stage};
use crate::run::Run;
use crate::schedule::{SETTINGS, Tally, drop_database, judge, prepare};

const PIECES: usize = 60;

pub fn interrupt(run: &Run) -> String {
    let cluster = Cluster::start(SETTINGS);
    let mut tally = Tally::default();
    while run.goes_on() {
        interrupt_once(&cluster, run.seed, tally.rounds, &mut tally);
        run.progress(&tally.line());
    }
    tally.line()
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
    let mut striker = database.superuser();
    let mut strikes = 0;
    while stage.await_calls(random.random_range(0..4)) {
        // A moment within a call: part of the fault, and nobody's wait for an event.
        let moment = Instant::now() + Duration::from_micros(random.random_range(0..1500));
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        let process =
            stage.processes[random.random_range(0..CONNECTIONS) as usize].load(Ordering::SeqCst);
        if process == 0 {
            continue;
        }
        strikes += 1;
        if kill_at == Some(strikes) {
            database.cluster().kill_process(process);
            striker = after_restart(database, striker);
            continue;
        }
        hit(&mut striker, process, &mut random);
    }
}

fn hit(striker: &mut Client, process: i32, random: &mut ChaCha8Rng) {
    let function = if random.random_ratio(1, 4) {
        "pg_terminate_backend"
    } else {
        "pg_cancel_backend"
    };
    // Answers false for who has gone in the meantime.
    let hit = format!("SELECT {function}($1)");
    striker
        .execute(&hit, &[&process])
        .expect("the striker was hit");
}

/// The server ends all sessions when one was killed, the striker's too.
fn after_restart(database: &Database, mut striker: Client) -> Client {
    until("the server has seen that a process was killed", || {
        striker.simple_query("SELECT 1").is_err()
    });
    let config = database.cluster().config(database.name(), "postgres");
    let mut connected = None;
    until("the server lets the striker in", || {
        connected = config.connect(magic_link_harness::postgres::NoTls).ok();
        connected.is_some()
    });
    connected.expect("until it is there")
}

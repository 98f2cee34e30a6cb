//! A few seconds of what `make torture` does at length: connections that do anything at random, and faults that kill.

use std::sync::LazyLock;

use magic_link_harness::Cluster;
use magic_link_torture::actions::Round;
use magic_link_torture::interrupt::{hits, interrupt_once};
use magic_link_torture::kill::kill_once;
use magic_link_torture::promote::promote_once;
use magic_link_torture::schedule::{SETTINGS, Tally, play};

/// The same in every run; `make torture` draws its own.
const SEED: u64 = 1;

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(SETTINGS).until_exit());

#[test]
fn what_collides_at_random_adds_up() {
    let mut tally = Tally::default();
    for number in 0..6 {
        let round = Round {
            several: number % 2 == 1,
            ..Round::draw(SEED, number, 40)
        };
        play(&CLUSTER, &round, &mut tally);
    }
    println!("{}", tally.line());
    assert!(
        tally.redemptions > 100 && tally.second_clicks > 5,
        "{}",
        tally.line()
    );
}

#[test]
fn what_was_acknowledged_outlives_the_killed_server() {
    let cluster = Cluster::start(SETTINGS);
    let mut tally = Tally::default();
    for number in 0..3 {
        kill_once(&cluster, SEED, number, &mut tally);
    }
    println!("{}", tally.line());
    assert!(
        tally.redemptions > 50 && tally.errors["lost"] > 3,
        "{}",
        tally.line()
    );
}

#[test]
fn what_is_interrupted_is_done_or_not() {
    let cluster = Cluster::start(SETTINGS);
    let mut tally = Tally::default();
    // The fourth of them is the first in which a server process is killed.
    while hits(&tally) < 150 || tally.rounds < 4 {
        let number = tally.rounds;
        interrupt_once(&cluster, SEED, number, &mut tally);
    }
    assert!(cluster.log().contains("terminated by signal 9"));
    println!("{}", tally.line());
    assert!(tally.redemptions > 50, "{}", tally.line());
}

#[test]
fn what_was_acknowledged_is_on_the_promoted_standby() {
    let mut tally = Tally::default();
    for number in 0..2 {
        promote_once(SEED, number, &mut tally);
    }
    println!("{}", tally.line());
    assert!(tally.redemptions > 20, "{}", tally.line());
}

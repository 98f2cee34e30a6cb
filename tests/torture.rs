//! A few seconds of what `make torture` does at length: connections that do anything at random, and faults that kill.

use magic_link_harness::Cluster;
use magic_link_torture::actions::Round;
use magic_link_torture::schedule::{Tally, play};

/// The same in every run; `make torture` draws its own.
const SEED: u64 = 1;

#[test]
fn what_collides_at_random_adds_up() {
    let mut tally = Tally::default();
    for number in 0..4 {
        let mut round = Round::draw(SEED, number, 40);
        round.several = number % 2 == 1;
        play(Cluster::shared(), &round, &mut tally);
    }
    assert!(tally.redemptions > 100, "{}", tally.line());
}

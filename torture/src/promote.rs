//! The primary is killed under load and its synchronous standby promoted: what was acknowledged is there, and nothing of it can be redeemed
//! again.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Calls, Cluster, ExpectSqlState, wait_until};
use rand::RngExt;

use crate::actions::{Round, generator};
use crate::actors::{Fault, Played, Stage};
use crate::journal::{Answer, What};
use crate::run::Run;
use crate::schedule::{SETTINGS, Tally, judge, prepare, rounds};

const PIECES: usize = 200;
const MOMENTS: std::ops::Range<u64> = 100..600;

pub fn promote(run: &Run) -> String {
    rounds(run, |number, tally| promote_once(run.seed, number, tally))
}

/// A round on a pair of servers of its own: with `on` and `remote_apply` in turn.
pub fn promote_once(seed: u64, number: u64, tally: &mut Tally) {
    let round = Round::draw(seed, number, PIECES);
    let primary = Cluster::start(SETTINGS);
    let database = prepare(&primary, &round);
    let standby = primary.standby();
    let commit = ["on", "remote_apply"][usize::from(number % 2 == 1)];
    wait_for_standby(&mut primary.connect("postgres", "postgres"), commit);
    let moment = generator(seed, number, u64::from(u16::MAX)).random_range(MOMENTS);
    let played = Stage::new(&database, &round, Fault::ServerLost).play(|stage| {
        assert!(stage.await_calls(moment), "they were through before");
        primary.kill();
    });
    standby.promote();
    let database = database.with_roles_of_this(&standby, database.name());
    judge(&database, &round, &played);
    assert_redeemed(&mut database.backend(), &played);
    tally.add(&played);
    // Whoever was killed has left shared memory behind, which the next start takes away.
    primary.start_again();
}

/// Has the primary wait with each acknowledgement until the standby has the commit.
fn wait_for_standby(primary: &mut Client, synchronous_commit: &str) {
    for setting in [
        "synchronous_standby_names = '*'",
        &format!("synchronous_commit = '{synchronous_commit}'"),
    ] {
        let change = format!("ALTER SYSTEM SET {setting}");
        primary.batch_execute(&change).expect("no such setting");
    }
    primary
        .batch_execute("SELECT pg_reload_conf()")
        .expect("no reload");
    wait_until("the standby is synchronous", || {
        let standbys = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        primary
            .query_one(standbys, &[])
            .expect("no answer")
            .get::<_, i64>(0)
            == 1
    });
}

/// Nobody gets in again with what was redeemed: consumed, or deleted since.
fn assert_redeemed(backend: &mut Client, played: &Played) {
    for entry in played.journal.iter().filter(|entry| entry.acknowledged) {
        for deed in &entry.deeds {
            let (What::Redeem(token), Some(Answer::Redeemed(_))) = (&deed.what, &deed.answer)
            else {
                continue;
            };
            let event = token.terms.event;
            let there = backend
                .check_in(event, &token.secret, token.email)
                .expect("no answer")
                != "token_not_found";
            let code = if there { "OT003" } else { "OT001" };
            backend
                .redeem_in(event, &token.secret, token.email)
                .expect_sqlstate(code);
        }
    }
}

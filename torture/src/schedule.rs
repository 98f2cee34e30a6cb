//! 16 connections do anything at random on a few tokens, addresses and organizations, and then everything has to add up. Some click
//! first and take it back, while others wait for the token and addresses move from one account to another.

use std::collections::BTreeMap;

use magic_link_harness::{Cluster, Database};

use crate::actions::Round;
use crate::actors::{Fault, Played, Stage};
use crate::addresses::second_clicks;
use crate::invariants::violations;
use crate::journal::{Answer, What};
use crate::run::Run;
use crate::world::furnish;

/// Each connection's pieces of work in a round: few enough to look at each pair of them afterwards.
const PIECES: usize = 60;

/// Deadlocks of several actions are no news here, and nobody is to wait for them.
pub const SETTINGS: &[(&str, &str)] = &[("deadlock_timeout", "20ms")];

/// What several rounds came to.
#[derive(Default)]
pub struct Tally {
    pub rounds: u64,
    pub calls: u64,
    pub redemptions: u64,
    /// Those whose token another had redeemed, and gave back, meanwhile.
    pub second_clicks: u64,
    pub unheard_of: u64,
    pub errors: BTreeMap<String, u64>,
}

pub fn schedule(run: &Run) -> String {
    let cluster = Cluster::start(SETTINGS);
    rounds(run, |number, tally| {
        play(&cluster, &Round::draw(run.seed, number, PIECES), tally);
    })
}

/// One round after the other, and what they came to.
pub fn rounds(run: &Run, mut play: impl FnMut(u64, &mut Tally)) -> String {
    let mut tally = Tally::default();
    while run.goes_on() {
        play(tally.rounds, &mut tally);
        run.progress(&tally.line());
    }
    tally.line()
}

pub fn play(cluster: &Cluster, round: &Round, tally: &mut Tally) {
    let database = prepare(cluster, round);
    let played = Stage::new(&database, round, Fault::None).play(|_| {});
    judge(&database, round, &played);
    tally.add(&played);
    drop_database(database);
}

/// A database for a round, with its settings.
pub fn prepare<'a>(cluster: &'a Cluster, round: &Round) -> Database<'a> {
    let database = Database::of(cluster);
    furnish(&database);
    database.set("max_active_tokens", round.max_active);
    database.set("revoke_previous", round.revoke_previous);
    database
}

/// Rounds leave nothing behind, however many there are.
pub fn drop_database(database: Database) {
    let drop = format!("DROP DATABASE {} WITH (FORCE)", database.name());
    let cluster = database.cluster();
    cluster
        .connect("postgres", "postgres")
        .batch_execute(&drop)
        .expect("it cannot be dropped");
}

/// Ends the run where something does not hold, and says how to begin it again.
#[track_caller]
pub fn judge(database: &Database, round: &Round, played: &Played) {
    let wrong = [
        violations(database, round, &played.journal, &played.holds),
        played.unexpected.clone(),
        told_by_log(database, played),
    ]
    .concat();
    assert!(
        wrong.is_empty(),
        "SEED={} round {}: {round:?}\n{}",
        round.seed,
        round.number,
        wrong.join("\n")
    );
}

impl Tally {
    pub fn add(&mut self, played: &Played) {
        self.rounds += 1;
        self.calls += played.calls;
        self.second_clicks += second_clicks(&played.journal, &played.holds) as u64;
        for entry in &played.journal {
            self.unheard_of += u64::from(!entry.acknowledged);
            let redeemed = |answer: &Option<Answer>| matches!(answer, Some(Answer::Redeemed(_)));
            let redeemed = entry
                .deeds
                .iter()
                .filter(|deed| matches!(deed.what, What::Redeem(_)) && redeemed(&deed.answer));
            self.redemptions += if entry.acknowledged {
                redeemed.count() as u64
            } else {
                0
            };
        }
        for (code, count) in &played.errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
    }

    pub fn line(&self) -> String {
        let Self {
            rounds,
            calls,
            redemptions,
            second_clicks,
            unheard_of,
            errors,
        } = self;
        format!(
            "{rounds} rounds, {calls} transactions, {redemptions} redemptions ({second_clicks} of what another gave back meanwhile), {unheard_of} of unknown end; refused: {errors:?}"
        )
    }
}

/// What the server's log should not say since the round began: an internal error, or a token or its hash.
pub fn told_by_log(database: &Database, played: &Played) -> Vec<String> {
    let log = database.cluster().log();
    let begin = log
        .find(&format!(" {} ", database.name()))
        .unwrap_or(log.len());
    let log = &log[begin..];
    let mut told = vec![];
    for line in log.lines() {
        if line.starts_with("XX") || line.contains("PANIC: ") {
            told.push(line.to_owned());
        }
    }
    let hashes = "SELECT coalesce(array_agg(encode(token_hash, 'hex')), '{}') FROM magic_link.one_time_tokens";
    let hashes: Vec<String> = database.value(hashes, &[]);
    let issued = played.tokens().map(|token| token.secret.as_str());
    let secrets = issued.chain(hashes.iter().map(String::as_str));
    told.extend(
        secrets
            .filter(|secret| log.contains(secret))
            .map(|_| "the log tells a token or a hash".to_owned()),
    );
    told
}

//! A DBA changes a table, an index or all of the extension in a transaction, and calls of every function wait for it, or need not.
//! Then it is committed or rolled back. Each call ends with what is true of the tables that are there now, or with an error that
//! says why not; and no index is damaged.

use std::collections::BTreeMap;
use std::mem::forget;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use magic_link_harness::postgres::{Client, Error};
use magic_link_harness::{Cluster, Database, process_id, wait_until};
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::actions::generator;
use crate::ddl_calls::{Answer, Caller, Fixture, Session, call, warm_up};
use crate::ddl_changes::Change;
use crate::ddl_verdict::{Facts, Originals, complaint, damage};
use crate::run::Run;
use crate::schedule::drop_database;

/// What the calls find switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    Plain,
    /// Addresses are locked, and their tokens counted.
    Limits,
    /// A redemption's answer is kept.
    Replay,
}

impl Setting {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Limits, Self::Replay];

    fn apply(self, database: &Database) {
        match self {
            Self::Plain => {}
            Self::Limits => {
                database.set("max_active_tokens", 20);
                database.set("revoke_previous", true);
            }
            Self::Replay => database.set("replay_window", "1d"),
        }
    }
}

/// One transaction with a change, and who meets it.
#[derive(Debug, Clone)]
pub struct Case {
    pub change: Change,
    pub commits: bool,
    pub setting: Setting,
    pub callers: Vec<Caller>,
}

/// What several cases came to.
#[derive(Default)]
pub struct Tally {
    pub cases: u64,
    pub calls: u64,
    /// Of the calls, how many were held up by the change.
    pub waited: u64,
    pub errors: BTreeMap<String, u64>,
}

impl Tally {
    pub fn line(&self) -> String {
        let Self {
            cases,
            calls,
            waited,
            errors,
        } = self;
        format!("{cases} changes, {calls} calls, {waited} of them waited; refused: {errors:?}")
    }
}

pub fn ddl(run: &Run) -> String {
    let cluster = Cluster::start(&[]);
    let fixture = Fixture::make(&cluster);
    let mut tally = Tally::default();
    for turn in 0.. {
        for case in shuffled(&cluster, &fixture, run.seed, turn) {
            if !run.goes_on() {
                return tally.line();
            }
            if let Err(wrong) = run_case(&cluster, &fixture, &case, &mut tally) {
                panic!("SEED={}\n{wrong}", run.seed);
            }
            run.progress(&tally.line());
        }
    }
    tally.line()
}

/// Every change, committed and rolled back, in an order of the seed's.
pub fn shuffled(cluster: &Cluster, fixture: &Fixture, seed: u64, turn: u64) -> Vec<Case> {
    let mut random = generator(seed, turn, 0);
    let mut cases = vec![];
    for change in changes(cluster, fixture) {
        for commits in [true, false] {
            let setting = Setting::ALL[random.random_range(0..Setting::ALL.len())];
            let callers = callers(|_| random.random_bool(0.3));
            cases.push(Case {
                change: change.clone(),
                commits,
                setting,
                callers,
            });
        }
    }
    cases.shuffle(&mut random);
    cases
}

/// Every call in a warm and in a cold session, and some with an older snapshot.
pub fn callers(mut sample: impl FnMut(&Caller) -> bool) -> Vec<Caller> {
    Caller::all()
        .filter(|caller| !caller.session.has_snapshot() || sample(caller))
        .collect()
}

/// As the catalogue has them now.
pub fn changes(cluster: &Cluster, fixture: &Fixture) -> Vec<Change> {
    let database = copy_of(cluster, fixture);
    let changes = Change::all(&database);
    drop_database(database);
    changes
}

/// A database that has what the fixture has.
pub fn copy_of<'a>(cluster: &'a Cluster, fixture: &Fixture) -> Database<'a> {
    Database::bare(cluster, &format!("TEMPLATE {}", fixture.database))
}

/// How a caller's two calls ended: the one that met the change, and one when all was over.
pub struct Played {
    pub caller: Caller,
    /// The first one ended before the change did.
    pub ended_before: bool,
    pub met: Result<Answer, String>,
    pub later: Result<Answer, String>,
}

/// What somebody at a caller is told to do next.
enum Step {
    Meet,
    GoOn,
}

/// What somebody at a caller says.
enum Said {
    Connected(i32),
    Met(Result<Answer, String>),
    Later(Result<Answer, String>),
}

/// Somebody at a caller, as the case sees them.
struct Actor {
    caller: Caller,
    tell: Sender<Step>,
    hear: Receiver<Said>,
    process_id: i32,
}

impl Actor {
    fn hear(&self) -> Said {
        self.hear.recv().expect("a caller failed")
    }
}

/// Plays the case; what does not hold is the error.
pub fn run_case(
    cluster: &Cluster,
    fixture: &Fixture,
    case: &Case,
    tally: &mut Tally,
) -> Result<(), String> {
    let database = copy_of(cluster, fixture);
    case.setting.apply(&database);
    let before = Originals::of(&database);
    let wrong = match act(&database, fixture, case, tally) {
        Ok(played) => {
            tally.add(&played);
            let facts = Facts::read(&database, &before);
            let complaints = played
                .iter()
                .flat_map(|played| complaint(case, fixture, played, &facts));
            let mut wrong: Vec<String> = complaints.collect();
            wrong.extend(damage(&database));
            wrong.extend(told_by_log(&database));
            wrong
        }
        Err(why) => vec![why],
    };
    if wrong.is_empty() {
        drop_database(database);
        return Ok(());
    }
    // It would look into the log itself, and what the case was would not be said.
    forget(database);
    let Case {
        change,
        commits,
        setting,
        ..
    } = case;
    Err(format!(
        "{change:?} commits: {commits}, {setting:?}\n  {}",
        wrong.join("\n  ")
    ))
}

impl Tally {
    fn add(&mut self, played: &[Played]) {
        self.cases += 1;
        for answer in played
            .iter()
            .flat_map(|played| [&played.met, &played.later])
        {
            self.calls += 1;
            if let Err(error) = answer {
                let code = error.split(' ').next().unwrap_or_default();
                *self.errors.entry(code.to_owned()).or_default() += 1;
            }
        }
    }
}

/// The change is made while everybody is connected; they call, and are waited for until each is held up or through. Then the change
/// ends, and they call again.
fn act(
    database: &Database,
    fixture: &Fixture,
    case: &Case,
    tally: &mut Tally,
) -> Result<Vec<Played>, String> {
    thread::scope(|scope| {
        let mut actors: Vec<Actor> = case
            .callers
            .iter()
            .map(|&caller| {
                let (tell, told) = channel();
                let (say, hear) = channel();
                scope.spawn(move || serve_caller(database, fixture, caller, &told, &say));
                Actor {
                    caller,
                    tell,
                    hear,
                    process_id: 0,
                }
            })
            .collect();
        for actor in &mut actors {
            if let Said::Connected(process_id) = actor.hear() {
                actor.process_id = process_id;
            }
        }
        let mut superuser = database.superuser();
        superuser
            .batch_execute("SET allow_in_place_tablespaces = on")
            .expect("a superuser");
        let mut transaction = superuser.transaction().expect("a server");
        let made = case.change.apply(&mut transaction);
        made.map_err(|error| format!("it cannot be made: {error:?}"))?;
        for actor in &actors {
            actor.tell.send(Step::Meet).expect("a caller failed");
        }
        let ended = until_held_up_or_through(database, &actors);
        tally.waited += ended.iter().filter(|ended| ended.is_none()).count() as u64;
        let done = if case.commits {
            transaction.commit()
        } else {
            transaction.rollback()
        };
        done.map_err(|error| format!("it cannot be ended: {error:?}"))?;
        // All of them are through before one goes on: what a later call changes is not what an earlier one met.
        let met: Vec<_> = actors
            .iter()
            .zip(ended)
            .map(|(actor, ended)| {
                let ended_before = ended.is_some();
                let said = ended.unwrap_or_else(|| actor.hear());
                (ended_before, said)
            })
            .collect();
        for actor in &actors {
            actor.tell.send(Step::GoOn).expect("a caller failed");
        }
        let later = actors.iter().map(Actor::hear);
        let ends = actors.iter().zip(met).zip(later);
        let played = ends.map(|((actor, (ended_before, met)), later)| {
            let (Said::Met(met), Said::Later(later)) = (met, later) else {
                panic!("{:?} answered before it was asked", actor.caller);
            };
            Played {
                caller: actor.caller,
                ended_before,
                met,
                later,
            }
        });
        Ok(played.collect())
    })
}

/// What those said who were through before the change ended, None for who is held up.
fn until_held_up_or_through(database: &Database, actors: &[Actor]) -> Vec<Option<Said>> {
    let mut observer = database.superuser();
    let mut ended: Vec<Option<Said>> = actors.iter().map(|_| None).collect();
    wait_until("every call waits or has ended", || {
        let held_up: Vec<i32> = observer
            .query_one(
                "SELECT coalesce(array_agg(pid), '{}') FROM pg_catalog.pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock' AND cardinality(pg_catalog.pg_blocking_pids(pid)) > 0",
                &[],
            )
            .expect("no observer")
            .get(0);
        for (actor, ended) in actors.iter().zip(&mut ended) {
            if ended.is_none() {
                *ended = actor.hear.try_recv().ok();
            }
        }
        let mut all = actors.iter().zip(&ended);
        all.all(|(actor, ended)| ended.is_some() || held_up.contains(&actor.process_id))
    });
    ended
}

/// Where whoever commanded them is gone they leave.
fn serve_caller(
    database: &Database,
    fixture: &Fixture,
    caller: Caller,
    told: &Receiver<Step>,
    say: &Sender<Said>,
) {
    let mut client = database.connect_as(&fixture.role);
    let process_id = process_id(&mut client);
    prepare(&mut client, caller).expect("nothing is changed yet");
    let [first, second] = fixture.tokens(caller);
    let mut goes_on = say.send(Said::Connected(process_id)).is_ok() && told.recv().is_ok();
    if goes_on {
        let answer = finish(&mut client, caller, |client| call(client, caller, first));
        goes_on = say.send(Said::Met(answer)).is_ok() && told.recv().is_ok();
    }
    if goes_on {
        let answer = call(&mut client, caller, second).map_err(|error| shown(&error));
        // Nobody may be left to hear it, and that is no failure of this call's.
        let _ = say.send(Said::Later(answer));
    }
}

fn prepare(client: &mut Client, caller: Caller) -> Result<(), Error> {
    if caller.session.is_warm() {
        warm_up(client, caller)?;
    }
    if caller.session.has_snapshot() {
        // No table is read, so that the change need not wait for it.
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
    }
    Ok(())
}

/// Ends the transaction, where there is one, after its call.
fn finish(
    client: &mut Client,
    caller: Caller,
    call: impl FnOnce(&mut Client) -> Result<Answer, Error>,
) -> Result<Answer, String> {
    let answer = call(client);
    let ended = match caller.session {
        Session::Snapshot { .. } => client.batch_execute("COMMIT"),
        _ => Ok(()),
    };
    answer
        .and_then(|answer| ended.map(|()| answer))
        .map_err(|error| shown(&error))
}

/// Its SQLSTATE, and what else it says.
fn shown(error: &Error) -> String {
    match error.as_db_error() {
        Some(error) => format!(
            "{} {}{}",
            error.code().code(),
            error.message(),
            error
                .where_()
                .map(|place| format!(" ({place})"))
                .unwrap_or_default()
        ),
        None => format!("lost {error:?}"),
    }
}

/// What no call may end with, whatever it was told of it.
fn told_by_log(database: &Database) -> Vec<String> {
    let log = database.cluster().log();
    let mine = format!(" {} ", database.name());
    let is_internal = |line: &&str| line.starts_with("XX") && line[5..].starts_with(&mine);
    let everybodys = ["PANIC: ", "TRAP:", "panicked at", "terminated by signal"];
    let died = |line: &&str| everybodys.iter().any(|sign| line.contains(sign));
    log.lines()
        .filter(|line| is_internal(line) || died(line))
        .map(str::to_owned)
        .collect()
}

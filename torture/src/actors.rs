//! The connections at work: each does its pieces one after the other, and writes into the journal what it saw of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use magic_link_harness::postgres::{Client, Error, NoTls};
use magic_link_harness::{Calls, Database, concurrently, wait_until};

use crate::actions::{Action, Change, Object, Piece, Round, Terms};
use crate::journal::{Answer, Deed, Entry, Hold, Token, What, Window};
use crate::world::{DEFAULT_ROLES, ROLE};

pub const CONNECTIONS: u64 = 16;

/// How often whoever lingers looks whether it has been long enough.
const LOOKS: usize = 50;

/// A piece and its number.
type Numbered<'p> = (i64, &'p Piece);

/// How far a piece has come.
struct Course {
    deeds: Vec<Deed>,
    may_be_committed: bool,
    /// When its transaction, or its call, had not ended yet.
    alive: SystemTime,
}

impl Course {
    fn new(piece: &Piece) -> Self {
        Self {
            deeds: vec![],
            may_be_committed: piece.isolation.is_none(),
            alive: SystemTime::now(),
        }
    }
}

/// What befalls the connections beside their own work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// The server goes away for good, as far as the connections know.
    ServerLost,
    /// Single calls are cancelled, and single connections lost: whoever lost one connects again.
    Interrupted,
}

/// Where a round is played, and what everybody has seen of it.
pub struct Stage<'a> {
    database: &'a Database<'a>,
    round: &'a Round,
    fault: Fault,
    clock: AtomicU64,
    tokens: Mutex<Vec<Arc<Token>>>,
    journal: Mutex<Vec<Entry>>,
    holds: Mutex<Vec<Hold>>,
    /// How many changes of addresses are committed.
    changes: AtomicU64,
    /// How often each SQLSTATE came back, and `lost` for a connection.
    errors: Mutex<BTreeMap<String, u64>>,
    unexpected: Mutex<Vec<String>>,
    /// One change of the directory at a time, where no call is to deadlock.
    directory: Mutex<()>,
    completed: Mutex<u64>,
    progress: Condvar,
    over: AtomicBool,
    /// Who is at work, for whoever strikes at one of them; 0 is nobody.
    pub processes: Vec<AtomicI32>,
}

/// What is left when a round is over.
pub struct Played {
    pub journal: Vec<Entry>,
    pub holds: Vec<Hold>,
    pub errors: BTreeMap<String, u64>,
    pub unexpected: Vec<String>,
    pub calls: u64,
}

impl Played {
    /// Every token that a client may hold for good.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<Token>> {
        let deeds = self.journal.iter().flat_map(|entry| &entry.deeds);
        deeds.flat_map(|deed| match &deed.answer {
            Some(Answer::Issued(tokens)) => tokens.as_slice(),
            _ => &[],
        })
    }
}

impl<'a> Stage<'a> {
    pub fn new(database: &'a Database<'a>, round: &'a Round, fault: Fault) -> Self {
        Self {
            database,
            round,
            fault,
            clock: AtomicU64::new(1),
            tokens: Mutex::default(),
            journal: Mutex::default(),
            holds: Mutex::default(),
            changes: AtomicU64::new(0),
            errors: Mutex::default(),
            unexpected: Mutex::default(),
            directory: Mutex::default(),
            completed: Mutex::default(),
            progress: Condvar::new(),
            over: AtomicBool::new(false),
            processes: (0..CONNECTIONS).map(|_| AtomicI32::new(0)).collect(),
        }
    }

    /// Lets everybody work until they are through, while `strike` does its part beside them.
    pub fn play(self, strike: impl FnOnce(&Self) + Send) -> Played {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|connection| (connection, self.connect()))
            .collect();
        thread::scope(|scope| {
            let striker = scope.spawn(|| strike(&self));
            let end = End(&self);
            concurrently(clients, |(connection, client)| {
                self.work(connection, client)
            });
            drop(end);
            striker.join().expect("what should strike failed");
        });
        Played {
            journal: into_inner(self.journal),
            holds: into_inner(self.holds),
            errors: into_inner(self.errors),
            unexpected: into_inner(self.unexpected),
            calls: into_inner(self.completed),
        }
    }

    /// Waits until so many more calls are through; false where the round is over first.
    pub fn await_calls(&self, more: u64) -> bool {
        let mut completed = self.completed.lock().expect("an actor failed");
        let wanted = *completed + more;
        while *completed < wanted && !self.is_over() {
            // The round's end is told once, maybe just before this starts to listen.
            let tick = Duration::from_millis(100);
            completed = self
                .progress
                .wait_timeout(completed, tick)
                .expect("an actor failed")
                .0;
        }
        !self.is_over()
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn connect(&self) -> (Client, i32) {
        connect(self.database, &self.database.role_name(ROLE))
    }

    fn work(&self, connection: u64, (mut client, process_id): (Client, i32)) {
        let process = &self.processes[connection as usize];
        process.store(process_id, Ordering::SeqCst);
        for (place, piece) in self.round.work_of(connection).iter().enumerate() {
            let number = (connection << 32 | place as u64) as i64;
            let goes_on = self.perform(connection, &mut client, (number, piece));
            *self.completed.lock().expect("an actor failed") += 1;
            self.progress.notify_all();
            if goes_on {
                continue;
            }
            if self.fault == Fault::ServerLost {
                return;
            }
            let process_id;
            (client, process_id) = self.connect();
            process.store(process_id, Ordering::SeqCst);
        }
        process.store(0, Ordering::SeqCst);
    }

    /// Does one piece and writes down what is known of it; false where the connection is lost.
    fn perform(&self, connection: u64, client: &mut Client, (number, piece): Numbered) -> bool {
        let start = self.tick();
        let mut course = Course::new(piece);
        let done = self.attempt(client, number, piece, &mut course);
        let lost = done.as_ref().is_err_and(is_lost);
        if let Err(error) = &done {
            self.note(piece, &course.deeds, error);
        }
        let fate = match done {
            Ok(()) => piece.commits.then_some(true),
            Err(_) if lost => course.may_be_committed.then_some(false),
            Err(_) => None,
        };
        let goes_on =
            !lost && (done.is_ok() || piece.isolation.is_none() || self.roll_back(client));
        match fate {
            Some(acknowledged) => self.enter(connection, number, start, acknowledged, course),
            // When the server ended the session of who lost it, nobody knows.
            None if !lost => self.hold(&course),
            None => {}
        }
        goes_on
    }

    fn enter(&self, connection: u64, piece: i64, start: u64, acknowledged: bool, course: Course) {
        let Course { deeds, alive, .. } = course;
        let to = acknowledged.then(SystemTime::now);
        let is_change = |deed: &Deed| matches!(deed.what, What::Change(_));
        if acknowledged && deeds.iter().any(is_change) {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
        self.publish(&deeds);
        self.journal.lock().expect("an actor failed").push(Entry {
            piece,
            connection,
            start,
            // What nobody has heard of may come about at any time.
            end: if acknowledged { self.tick() } else { u64::MAX },
            acknowledged,
            deeds,
            commit: Window { from: alive, to },
        });
    }

    fn hold(&self, course: &Course) {
        let mut holds = self.holds.lock().expect("an actor failed");
        for deed in &course.deeds {
            if let (What::Redeem(token), Some(Answer::Redeemed(_))) = (&deed.what, &deed.answer) {
                holds.push(Hold {
                    token: token.id,
                    until: course.alive,
                });
            }
        }
    }

    fn attempt(
        &self,
        client: &mut Client,
        number: i64,
        piece: &Piece,
        course: &mut Course,
    ) -> Result<(), Error> {
        if let Some(level) = piece.isolation {
            client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))?;
        }
        let changes = self.changes.load(Ordering::SeqCst);
        // Until the transaction has ended.
        let mut turn = None;
        for action in &piece.actions {
            let Some(what) = self.meant_by(action) else {
                continue;
            };
            let of_directory = matches!(what, What::Remove(_) | What::Make(_) | What::Change(_));
            if of_directory && !self.round.several {
                turn.get_or_insert_with(|| self.directory.lock().expect("an actor failed"));
            }
            self.act(client, number, (piece, action, what), course)?;
        }
        if piece.lingers {
            self.linger(client, changes)?;
        }
        if piece.isolation.is_none() {
            return Ok(());
        }
        course.alive = SystemTime::now();
        course.may_be_committed = piece.commits;
        client.batch_execute(if piece.commits { "COMMIT" } else { "ROLLBACK" })
    }

    /// One call.
    fn act(
        &self,
        client: &mut Client,
        number: i64,
        (piece, action, what): (&Piece, &Action, What),
        course: &mut Course,
    ) -> Result<(), Error> {
        if piece.timeout {
            // For the next call alone, so that it is a fault and not a setting.
            client.batch_execute("SET statement_timeout = '1ms'")?;
        }
        course.alive = SystemTime::now();
        course.deeds.push(Deed {
            what,
            answer: None,
            during: Window {
                from: course.alive,
                to: None,
            },
        });
        let place = (number, course.deeds.len() as i32 - 1);
        let deed = course.deeds.last_mut().expect("just pushed");
        let answer = call(client, action, &deed.what, place);
        deed.during.to = Some(SystemTime::now());
        if piece.timeout && !answer.as_ref().is_err_and(is_lost) {
            // The time may be too short for the RESET as well.
            while client
                .batch_execute("RESET statement_timeout")
                .is_err_and(|error| !is_lost(&error))
            {}
        }
        deed.answer = Some(answer?);
        Ok(())
    }

    /// Stays until somebody waits for this transaction and an address has moved since it began; but not for ever, since all
    /// others may wait for it.
    fn linger(&self, client: &mut Client, changes: u64) -> Result<(), Error> {
        let awaited = "SELECT EXISTS (SELECT FROM pg_stat_activity AS a
                        WHERE a.datname = current_database() AND pg_backend_pid() = ANY (pg_blocking_pids(a.pid)))";
        for _ in 0..LOOKS {
            let is_awaited: bool = client.query_one(awaited, &[])?.get(0);
            if is_awaited && self.changes.load(Ordering::SeqCst) > changes {
                break;
            }
        }
        Ok(())
    }

    /// Until it is through: a cancellation may hit the ROLLBACK as well.
    fn roll_back(&self, client: &mut Client) -> bool {
        loop {
            match client.batch_execute("ROLLBACK") {
                Ok(()) => return true,
                Err(error) if is_lost(&error) => return false,
                Err(_) => {}
            }
        }
    }

    fn meant_by(&self, action: &Action) -> Option<What> {
        let token = |from_the_newest: usize| {
            let tokens = self.tokens.lock().expect("an actor failed");
            let last = tokens.len().checked_sub(1)?;
            tokens.get(last - from_the_newest.min(last)).cloned()
        };
        Some(match action {
            Action::Create(emails, terms) => What::Create(emails.clone(), Arc::clone(terms)),
            Action::Redeem { token: n, .. } => What::Redeem(token(*n)?),
            Action::Mistake(n) => What::Mistake(token(*n)?),
            Action::Check(n) => What::Check(token(*n)?),
            Action::Revoke(n) => What::Revoke(token(*n)?),
            Action::RevokeAll(email) => What::RevokeAll(email),
            Action::Delete(n) => What::Delete(token(*n)?),
            Action::Purge { .. } => What::Purge,
            Action::Remove(object) => What::Remove(*object),
            Action::Make(object) => What::Make(*object),
            Action::Change(change) => What::Change(*change),
        })
    }

    fn publish(&self, deeds: &[Deed]) {
        for deed in deeds {
            if let Some(Answer::Issued(issued)) = &deed.answer {
                self.tokens
                    .lock()
                    .expect("an actor failed")
                    .extend_from_slice(issued);
            }
        }
    }

    fn note(&self, piece: &Piece, deeds: &[Deed], error: &Error) {
        let code = error.code().map_or("lost", |code| code.code());
        *self
            .errors
            .lock()
            .expect("an actor failed")
            .entry(code.to_owned())
            .or_default() += 1;
        let last = deeds.last().map(|deed| &deed.what);
        if !self.expects(piece, last, code) {
            let complaint = format!("{last:?} at {:?}: {error:?}", piece.isolation);
            self.unexpected
                .lock()
                .expect("an actor failed")
                .push(complaint);
        }
    }

    fn expects(&self, piece: &Piece, what: Option<&What>, code: &str) -> bool {
        let snapshot = piece
            .isolation
            .is_some_and(|level| level != "READ COMMITTED");
        match (code, what) {
            ("OT001" | "OT003" | "OT004", Some(What::Redeem(_))) => true,
            ("OT005", Some(What::Redeem(token))) => token.terms.lifetime.is_some(),
            ("OT007", Some(What::Redeem(token))) => token.terms.event == Some("SignIn"),
            ("OT008", Some(What::Create(..))) => self.round.max_active > 0,
            ("23503", Some(What::Create(..) | What::Make(_))) => true,
            ("02000", Some(What::Revoke(_))) => true,
            // Somebody else has the address by then.
            ("23505", Some(What::Change(_))) => true,
            // A token is issued while one looks.
            ("40001", Some(What::Revoke(_) | What::Delete(_))) => true,
            ("40001", _) => snapshot,
            ("40P01", _) => self.round.several,
            ("57014", _) => self.fault == Fault::Interrupted,
            ("57P01" | "57P02" | "lost", _) => self.fault != Fault::None,
            _ => false,
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

/// The end of a round, also of one that failed: nobody is to wait for more calls.
struct End<'s, 'a>(&'s Stage<'a>);

impl Drop for End<'_, '_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
        self.0.progress.notify_all();
    }
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().expect("an actor failed")
}

/// A connection and its process, from a server that may be starting again, or about to.
pub fn connect(database: &Database, role: &str) -> (Client, i32) {
    let config = database.cluster().config(database.name(), role);
    let mut connected = None;
    wait_until("the server lets a connection in", || {
        connected = config.connect(NoTls).ok().and_then(|mut client| {
            let process = client
                .query_one("SELECT pg_backend_pid()", &[])
                .ok()?
                .get(0);
            Some((client, process))
        });
        connected.is_some()
    });
    connected.expect("until it is there")
}

/// Anything but an ERROR: the server ended the connection, or was ended.
fn is_lost(error: &Error) -> bool {
    error
        .as_db_error()
        .is_none_or(|error| error.severity() != "ERROR")
}

/// The number of a piece, and of a deed in it.
type Place = (i64, i32);

fn call(client: &mut Client, action: &Action, what: &What, place: Place) -> Result<Answer, Error> {
    match what {
        What::Create(emails, terms) => create(client, emails, terms),
        What::Redeem(token) => {
            let event = token.terms.event;
            if matches!(action, Action::Redeem { trying: false, .. }) {
                return client
                    .redeem_in(event, &token.secret, token.email)
                    .map(Answer::Redeemed);
            }
            let (outcome, redeemed) = client.try_redeem_in(event, &token.secret, token.email)?;
            Ok(redeemed.map_or(Answer::Word(outcome), Answer::Redeemed))
        }
        What::Mistake(token) => {
            let (outcome, _) =
                client.try_redeem_in(None, &token.secret, "unknown@fleeting.example")?;
            Ok(Answer::Word(outcome))
        }
        What::Check(token) => {
            let outcome = client.check_in(token.terms.event, &token.secret, token.email)?;
            Ok(Answer::Word(outcome))
        }
        What::Revoke(token) => client.revoke(token.id).map(Answer::Word),
        What::RevokeAll(email) => client.revoke_all(email, None).map(Answer::Count),
        What::Delete(token) => client
            .delete(token.id)
            .map(|found| Answer::Count(found.into())),
        What::Purge => {
            let Action::Purge { batch_size } = action else {
                unreachable!("it is meant by nothing else");
            };
            client.purge("0 seconds", *batch_size).map(Answer::Count)
        }
        What::Remove(object) => remove(client, *object, place),
        What::Make(object) => make(client, *object),
        What::Change(change) => {
            change_addresses(client, *change, place).map(|rows| Answer::Count(rows as i64))
        }
    }
}

fn create(
    client: &mut Client,
    emails: &[&'static str],
    terms: &Arc<Terms>,
) -> Result<Answer, Error> {
    let context = terms.context();
    let rows = match (emails, terms.lifetime) {
        ([email], _) => vec![client.create_for(email, terms.lifetime, Some(&context))?],
        _ => client.create_all(emails, &context)?,
    };
    let issued = rows.into_iter().zip(emails).map(|(row, email)| {
        assert_eq!(row.email, *email, "another address than was asked for");
        Arc::new(Token {
            id: row.id,
            secret: row.token,
            email,
            terms: Arc::clone(terms),
        })
    });
    Ok(Answer::Issued(issued.collect()))
}

fn remove(client: &mut Client, object: Object, place: Place) -> Result<Answer, Error> {
    match object {
        Object::Organization(id) => client.execute("DELETE FROM magic_link.organizations WHERE id = $1", &[&id]),
        Object::Role(id) => client.execute("DELETE FROM magic_link.organization_roles WHERE id = $1", &[&id]),
        Object::User(email) => delete_user(client, email, place),
        Object::Membership(organization, email) => client.execute(
            "DELETE FROM magic_link.organization_memberships
              WHERE organization_id = $1 AND user_id = (SELECT id FROM magic_link.users WHERE email = $2)",
            &[&organization, &email],
        ),
    }
    .map(|_| Answer::Done)
}

/// How many accounts' addresses were changed. Each change is written down in the same transaction, and numbered while the
/// account's row is locked: the numbers of one account are in the order of its changes.
fn change_addresses(client: &mut Client, change: Change, place: Place) -> Result<u64, Error> {
    match change {
        Change::Move { address, to } => {
            let left = readdress(client, address, None, place)?;
            let moved = readdress(client, to, Some(address), place)?;
            Ok(left.iter().chain(&moved).count() as u64)
        }
        Change::Swap(one, other) => {
            let between = readdress(client, one, None, place)?;
            let first = readdress(client, other, Some(one), place)?;
            let Some(between) = between else {
                return Ok(first.iter().count() as u64);
            };
            let second = readdress(client, &between, Some(other), place)?;
            Ok(1 + first.iter().chain(&second).count() as u64)
        }
        Change::Replace(email) => {
            let deleted = delete_user(client, email, place)?;
            Ok(deleted + insert_user(client, email, place)?)
        }
    }
}

/// Gives the account that has the address another, one of its own where none is named; answers which.
fn readdress(
    client: &mut Client,
    email: &str,
    to: Option<&str>,
    (piece, deed): Place,
) -> Result<Option<String>, Error> {
    let row = client.query_opt(
        "WITH changed AS (UPDATE magic_link.users SET email = coalesce($2, id || '@moved.example') WHERE email = $1 RETURNING id, email)
         INSERT INTO torture.changes (piece, deed, user_id, email, new_email) SELECT $3, $4, id, $1, email FROM changed
         RETURNING new_email",
        &[&email, &to, &piece, &deed],
    )?;
    Ok(row.map(|row| row.get(0)))
}

fn delete_user(client: &mut Client, email: &str, (piece, deed): Place) -> Result<u64, Error> {
    client.execute(
        "WITH deleted AS (DELETE FROM magic_link.users WHERE email = $1 RETURNING id)
         INSERT INTO torture.changes (piece, deed, user_id, email) SELECT $2, $3, id, $1 FROM deleted",
        &[&email, &piece, &deed],
    )
}

fn insert_user(client: &mut Client, email: &str, (piece, deed): Place) -> Result<u64, Error> {
    client.execute(
        "WITH made AS (INSERT INTO magic_link.users (email) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id)
         INSERT INTO torture.changes (piece, deed, user_id, new_email) SELECT $2, $3, id, $1 FROM made",
        &[&email, &piece, &deed],
    )
}

/// One statement, so that it is one transaction: with the default roles that are there. One snapshot can see a role twice, as it
/// was and as it was made anew.
fn make(client: &mut Client, object: Object) -> Result<Answer, Error> {
    match object {
        Object::Organization(id) => client.execute(
            "WITH made AS (INSERT INTO magic_link.organizations (id, name) VALUES ($1, $1) ON CONFLICT DO NOTHING RETURNING id)
             INSERT INTO magic_link.organization_jit_roles (organization_id, organization_role_id)
             SELECT DISTINCT m.id, r.id FROM made AS m, magic_link.organization_roles AS r WHERE r.id = ANY ($2)",
            &[&id, &DEFAULT_ROLES.as_slice()],
        ),
        Object::Role(id) => client.execute(
            "INSERT INTO magic_link.organization_roles (id, name) VALUES ($1, $1) ON CONFLICT DO NOTHING",
            &[&id],
        ),
        Object::User(_) | Object::Membership(..) => unreachable!("nothing makes these"),
    }
    .map(|_| Answer::Done)
}
